"""Which special tokens the tasks of a job need of a tokenizer, and which it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from raymodel.job.spec import Job
from raymodel.tasks import make_task
from raymodel.tasks.spec import AnyTask


def special_tokens(facts: Mapping[str, Any]) -> dict[str, int]:
    """Kind of special token → how many a tokenizer has, of those that its facts speak of."""
    has = {"mask": int(facts.get("mask") is not None), "sentinels": facts.get("sentinels", 0)}
    return {kind: number for kind, number in has.items() if kind in facts}


class Lack(NamedTuple):
    """What a tokenizer has too few of."""

    text: str
    fix: str
    """What is added to the tokenizer's section."""


def lacking_in_pretraining(job: Job, has: Mapping[str, int], row_tokens: int) -> Iterator[Lack]:
    """Special tokens that the tokenizer of the job's pretraining lacks.

    Args:
        has: see `lacking_tokens`.
        row_tokens: of the packed rows.
    """
    tasks: list[tuple[AnyTask, int | None]] = []
    if job.pretrain:
        tasks.append((job.pretrain.objective, row_tokens))
    if job.pretrain and job.finetune and job.finetune.starts_from_pretrain:
        tasks.append((job.finetune.task, None))
    yield from lacking_tokens(tasks, has)


def lacking_tokens(
    tasks: Iterable[tuple[AnyTask, int | None]], has: Mapping[str, int]
) -> Iterator[Lack]:
    """Special tokens that a tokenizer lacks.

    Args:
        tasks: that read with it, each with the tokens of its packed rows; None for examples.
        has: kind of special token → how many the tokenizer has; others are not looked at.
    """
    told = set[str]()
    for spec, tokens in tasks:
        for kind, number in make_task(spec).special_tokens(tokens).items():
            if has.get(kind, number) >= number or spec.name in told:
                continue
            told.add(spec.name)
            what, fix = _SPECIAL[kind]
            seen = f"{has[kind]:,}" if has[kind] else "none"
            text = f"{spec.name} needs {what.format(number)}, and the tokenizer has {seen}"
            yield Lack(text, fix.format(number))


_SPECIAL = {
    "separator": ("a token that parts two texts", "tokens: wordpiece"),
    "mask": ("a token that stands for a hidden one", "mask: true"),
    "sentinels": (
        "{} tokens that stand for runs of hidden ones (`<extra_id_0>` and so on) in rows as long "
        "as these",
        "sentinels: {}",
    ),
}
"""Kind of special token → what it is, and what of `prepare.tokenizer` gives it."""
