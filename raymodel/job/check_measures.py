"""Checks of what a job measures, and how it asks for answers."""

from __future__ import annotations

from collections.abc import Iterator

from raymodel.errors import SpecError
from raymodel.evaluate.gates import TEXT_PREFIX
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.job.spec import Job
from raymodel.spec.document import Path
from raymodel.spec.fields import nearest
from raymodel.spec.own import is_own
from raymodel.spec.problems import Problem
from raymodel.spec.show import show


def check_measures(job: Job) -> Iterator[Problem]:
    """The task of the job knows every measure, and every gate is on one that is taken.

    What a model of another run is for, is seen when it is opened.
    """
    if job.evaluate is not None and job.trains:
        yield from find_wrong_measures(
            job.evaluate,
            job.task,
            has_examples=job.finetune is not None,
            has_text=_measures_text(job),
        )


def find_wrong_measures(
    spec: EvaluateSpec, task_name: str, *, has_examples: bool, has_text: bool = False
) -> Iterator[Problem]:
    """What of `evaluate` a task does not know, or its rows have nothing for.

    Args:
        task_name: of the model that is measured.
        has_examples: whether rows of examples are held out.
        has_text: whether plain text is measured beside them.
    """
    from raymodel.tasks import get_task

    known = get_task(task_name).measures
    of_examples = [name for name, measure in known.items() if measure.needs != "loss"]
    taken = spec.metrics
    for i, name in enumerate(taken):
        if is_own(name):
            yield from _own_measure_problems(i, name, has_examples=has_examples)
        elif name not in known:
            close = nearest(name, known)
            hint = f"; did you mean {close!r}?" if close else ""
            rule = (
                f"{show(name)} is not a measure of {task_name}, which has {', '.join(known)}{hint}"
            )
            yield Problem(("evaluate", "metrics", i), rule)
        elif name in of_examples and not has_examples:
            others = ", ".join(each for each in known if each not in of_examples)
            rule = f"{name!r} compares answers with those of examples, which only `finetune` has"
            yield Problem(("evaluate", "metrics", i), f"{rule}; of plain text take {others}")
    by_answers = {*of_examples, *filter(is_own, taken)}
    of_text = [name for name in taken if name not in by_answers and has_text]
    gated = (*taken, *(TEXT_PREFIX + name for name in of_text))
    for gate in spec.gates:
        if gate not in gated:
            close = nearest(gate, gated)
            rule = f"the gate is on {show(gate)}, which is not measured; "
            fix = f"did you mean {close!r}?" if close else f"add {show(gate)} to evaluate.metrics"
            yield Problem(("evaluate", "gates", gate), rule + fix)


def _own_measure_problems(index: int, name: str, *, has_examples: bool) -> Iterator[Problem]:
    from raymodel.tasks.own import own_measure

    here: Path = ("evaluate", "metrics", index)
    if not has_examples:
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
