"""Checks of a job that no single section can make: they ask the tasks and the presets.

Nothing here loads torch, ray, transformers or pyarrow, and nothing touches a disk or a cluster:
what `raymodel check` accepts can still meet a missing file or too small a cluster when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from pydantic import ValidationError

from raymodel.errors import SpecError
from raymodel.evaluate.gates import TEXT_PREFIX
from raymodel.job import Job
from raymodel.spec.base import OPERATIONAL
from raymodel.spec.document import Path, dotted
from raymodel.spec.fields import find_field, nearest, walk_fields
from raymodel.spec.load import LoadedJob
from raymodel.spec.problems import Problem, find_problems, spec_error
from raymodel.spec.show import show
from raymodel.train.spec import FinetuneSpec, TrainSpec
from raymodel.train.support import Trained, find_unsupported
from raymodel.tune.space import apply_setting
from raymodel.tune.spec import SearchSpec

# Fields of `finetune:` that all trials share: the examples are prepared once, before the sweep.
SETTLED = {"task", "sources", "clean", "holdout", "max_length", "base", "sweep"}


def check_job(loaded: LoadedJob) -> None:
    """Raises SpecError, one line a problem, when the stages of a job do not fit together."""
    problems = [problem for check in CHECKS for problem in check(loaded.job)]
    if problems:
        raise spec_error(problems, loaded.positions)


def check_sources(job: Job) -> Iterator[Problem]:
    """The sources of fine-tuning hold what its task learns from."""
    if job.finetune is None:
        return
    from raymodel.tasks import get_task

    task = get_task(job.finetune.task)()
    for i, source in enumerate(job.finetune.sources):
        try:
            task.check_source(source)
        except ValueError as error:
            yield Problem(("finetune", "sources", i), str(error))


def check_preset(job: Job) -> Iterator[Problem]:
    """The preset of the model to pretrain exists."""
    if job.pretrain is None:
        return
    from raymodel.model.presets import resolve_model

    try:
        resolve_model(job.pretrain.model)
    except SpecError as error:
        yield Problem(("pretrain", "model", "preset"), str(error))


def check_lengths(job: Job) -> Iterator[Problem]:
    """Examples are no longer than the rows that the job's own base was pretrained on."""
    if job.finetune is None or job.finetune.base is not None or job.prepare is None:
        return
    try:
        job.finetune.max_length_for(job.prepare.sequence_length)
    except SpecError:
        yield Problem(
            ("finetune", "max_length"),
            f"{job.finetune.max_length} tokens is more than prepare.sequence_length, "
            f"{job.prepare.sequence_length}: the base never saw so many; lower it, or prepare "
            "longer rows",
        )


def check_parallel(job: Job) -> Iterator[Problem]:
    """The model to pretrain, and to fine-tune after that, can be spread as the job says.

    What a base folder holds is seen by the workers.
    """
    if job.pretrain is None:
        return
    from raymodel.model.presets import resolve_model
    from raymodel.tasks import get_task

    try:
        architecture, config = resolve_model(job.pretrain.model)
    except SpecError:
        return  # told by check_preset
    length = job.prepare.sequence_length if job.prepare else None
    trained: list[tuple[str, TrainSpec, str]] = [("pretrain", job.pretrain, job.pretrain.objective)]
    if job.finetune is not None and job.finetune.base is None:
        trained.append(("finetune", job.finetune, job.finetune.task))
    for stage, spec, task in trained:
        model = Trained(architecture, config, get_task(task).cuts_rows, length)
        for field, reason in find_unsupported(spec, model):
            yield Problem((stage, *field.split(".")), reason)


def check_measures(job: Job) -> Iterator[Problem]:
    """The task of the job knows every measure, and every gate is on one that is taken."""
    if job.evaluate is None:
        return
    from raymodel.tasks import get_task

    known = get_task(job.task).measures
    taken = job.evaluate.metrics
    for i, name in enumerate(taken):
        if name not in known:
            rule = f"{name!r} is not a measure of {job.task}, which has {', '.join(known)}"
            yield Problem(("evaluate", "metrics", i), rule)
    gated = (*taken, *(TEXT_PREFIX + name for name in taken if job.pretrain is not None))
    for gate in job.evaluate.gates:
        if gate not in gated:
            close = nearest(gate, gated)
            rule = f"the gate is on {show(gate)}, which is not measured; "
            fix = f"did you mean {close!r}?" if close else f"add {show(gate)} to evaluate.metrics"
            yield Problem(("evaluate", "gates", gate), rule + fix)


def check_sweep(job: Job) -> Iterator[Problem]:
    """What a sweep searches are fields of `finetune:`, and every bound is a value of its field."""
    if job.finetune is None or job.finetune.sweep is None:
        return
    sweep = job.finetune.sweep
    here: Path = ("finetune", "sweep")
    message = _wrong_workers(job.finetune, sweep.workers_per_trial)
    if message:
        yield Problem((*here, "workers_per_trial"), message)
    for name, search in sweep.search.items():
        message = _wrong_name(name) or _wrong_value(job.finetune, name, search)
        if message:
            yield Problem((*here, "search", name), message)


CHECKS: tuple[Callable[[Job], Iterator[Problem]], ...] = (
    check_sources,
    check_preset,
    check_lengths,
    check_parallel,
    check_sweep,
    check_measures,
)


def _wrong_workers(finetune: FinetuneSpec, workers: int) -> str | None:
    try:
        replicas = finetune.parallel.data_workers(workers)
    except SpecError as error:
        return f"finetune.{error}"
    if finetune.global_batch % replicas:
        return (
            f"finetune.global_batch of {finetune.global_batch} cannot be divided by {workers} "
            "workers; change one of the two"
        )
    return None


def _wrong_name(name: str) -> str | None:
    known = _searchable()
    if name in known:
        return None
    field = find_field(FinetuneSpec, tuple(name.split(".")))
    inside = [path for path in known if path.startswith(f"{name}.")]
    if field is not None and inside:
        return f"{show(name)} is a section; search one of its fields: {', '.join(inside)}"
    if field is not None:
        return f"{show(name)} cannot make one trial better than another; fields: {', '.join(known)}"
    leaves = {path.rpartition(".")[2]: path for path in known}
    close = nearest(name, known) or leaves.get(nearest(name, leaves) or "")
    suggestion = f"did you mean {close!r}?" if close else f"fields: {', '.join(known)}"
    return f"{show(name)} is not a field of finetune; {suggestion}"


@cache
def _searchable() -> list[str]:
    """Dotted paths of the fields of `finetune:` that can differ from trial to trial."""
    fixed = {
        name for name, info in FinetuneSpec.model_fields.items() if OPERATIONAL in info.metadata
    }
    paths = (path for path in walk_fields(FinetuneSpec) if path[0] not in fixed | SETTLED)
    found = ((path, find_field(FinetuneSpec, path)) for path in paths)
    return [dotted(path) for path, field in found if field and field.section is None]


def _wrong_value(finetune: FinetuneSpec, name: str, search: SearchSpec) -> str | None:
    if name.startswith("adapter.") and finetune.adapter is None:
        return "no adapter is trained; add `finetune.adapter`, or do not search its fields"
    values: tuple[Any, ...] = search.choice or search.uniform or search.loguniform or ()
    lean = finetune.model_copy(update={"sources": finetune.sources[:1]})  # no setting is theirs
    for value in values:
        try:
            apply_setting(lean, {name: value})
        except ValidationError as error:
            problem = find_problems(error, FinetuneSpec, finetune.to_dict())[0]
            advice = "" if search.choice else "; a field of whole numbers takes `choice`"
            whole = "whole number" in problem.message
            return problem.message + (advice if whole else "")
    return None
