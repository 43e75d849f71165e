"""Checks of what a job measures, and how it asks for answers."""

from __future__ import annotations

from collections.abc import Iterator

from raymodel.errors import SpecError
from raymodel.evaluate.gates import TEXT_PREFIX
from raymodel.job.spec import Job
from raymodel.spec.document import Path
from raymodel.spec.fields import nearest
from raymodel.spec.own import is_own
from raymodel.spec.problems import Problem
from raymodel.spec.show import show


def check_measures(job: Job) -> Iterator[Problem]:
    """The task of the job knows every measure, and every gate is on one that is taken."""
    if job.evaluate is None:
        return
    from raymodel.tasks import get_task

    task = get_task(job.task)
    known = task.measures
    of_examples = [name for name, measure in known.items() if measure.needs != "loss"]
    taken = job.evaluate.metrics
    for i, name in enumerate(taken):
        if is_own(name):
            yield from _own_measure_problems(job, i, name)
        elif name not in known:
            close = nearest(name, known)
            hint = f"; did you mean {close!r}?" if close else ""
            rule = (
                f"{show(name)} is not a measure of {job.task}, which has {', '.join(known)}{hint}"
            )
            yield Problem(("evaluate", "metrics", i), rule)
        elif name in of_examples and job.finetune is None:
            others = ", ".join(each for each in known if each not in of_examples)
            rule = f"{name!r} compares answers with those of examples, which only `finetune` has"
            yield Problem(("evaluate", "metrics", i), f"{rule}; of plain text take {others}")
    by_answers = {*of_examples, *filter(is_own, taken)}
    of_text = [name for name in taken if name not in by_answers and _measures_text(job)]
    gated = (*taken, *(TEXT_PREFIX + name for name in of_text))
    for gate in job.evaluate.gates:
        if gate not in gated:
            close = nearest(gate, gated)
            rule = f"the gate is on {show(gate)}, which is not measured; "
            fix = f"did you mean {close!r}?" if close else f"add {show(gate)} to evaluate.metrics"
            yield Problem(("evaluate", "gates", gate), rule + fix)


def _own_measure_problems(job: Job, index: int, name: str) -> Iterator[Problem]:
    from raymodel.tasks.own import own_measure

    here: Path = ("evaluate", "metrics", index)
    if job.finetune is None:
        yield Problem(
            here, f"{show(name)} compares answers with those of examples, which only `finetune` has"
        )
    try:
        own_measure(name)
    except (SpecError, ValueError) as error:
        yield Problem(here, str(error))


def check_beams(job: Job) -> Iterator[Problem]:
    """Several beams are asked for only where an answer is searched with them."""
    if job.pretrain is None and job.finetune is None:
        return  # what the model is for, is seen when it is opened
    from raymodel.tasks import get_task

    if get_task(job.task).answers == "text":
        return
    asked = {"evaluate": job.evaluate.beams if job.evaluate else 1}
    if job.serve and job.serve.model is None:
        asked["serve"] = job.serve.beams
    for stage, beams in asked.items():
        if beams > 1:
            rule = f"{job.task} has no answers that are searched with beams, as seq2seq_lm has"
            yield Problem((stage, "beams"), f"{rule}; leave it out")


def _measures_text(job: Job) -> bool:
    """Whether plain text is measured beside the examples: rows of the job's own pretraining."""
    pretrain, finetune = job.pretrain, job.finetune
    if pretrain is None or finetune is None or not finetune.starts_from_pretrain:
        return False
    return finetune.task.name == pretrain.objective.name
