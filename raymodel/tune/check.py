"""Checks of a sweep: it searches fields of `finetune:` that can differ from trial to trial."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import ValidationError

from raymodel.errors import SpecError
from raymodel.job.spec import Job
from raymodel.spec.base import OPERATIONAL
from raymodel.spec.document import Path, dotted
from raymodel.spec.fields import find_field, nearest, walk_fields
from raymodel.spec.problems import Problem, find_problems
from raymodel.spec.show import show
from raymodel.train.spec import FinetuneSpec
from raymodel.tune.space import apply_setting
from raymodel.tune.spec import SearchSpec

# Fields of `finetune:` that all trials share: the examples are prepared once, before the sweep.
SETTLED = {
    "task",
    "sources",
    "clean",
    "holdout",
    "max_left_out",
    "max_length",
    "base",
    "model",
    "sweep",
    "distill.teacher",  # may be what reads the examples
    "distill.student",
}


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
    settled = fixed | SETTLED
    paths = (
        path
        for path in walk_fields(FinetuneSpec)
        if path[0] not in settled and dotted(path[:2]) not in settled
    )
    found = ((path, find_field(FinetuneSpec, path)) for path in paths)
    return [dotted(path) for path, field in found if field and field.section is None]


def _wrong_value(finetune: FinetuneSpec, name: str, search: SearchSpec) -> str | None:
    if name.startswith("adapter.") and finetune.adapter is None:
        return "no adapter is trained; add `finetune.adapter`, or do not search its fields"
    if name.startswith("distill.") and finetune.distill is None:
        return "there is no teacher; add `finetune.distill`, or do not search its fields"
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
