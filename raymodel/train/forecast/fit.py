"""Which layout fits into memory, and what each knob saves. A pure search over `plan_memory`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from raymodel.model.counted import Shape
from raymodel.train.forecast.memory import MemoryPlan, Setup, plan_memory
from raymodel.train.forecast.support import TENSOR
from raymodel.train.plan import plan_batch
from raymodel.train.update.optimizer_spec import find_conflict

Fits = Callable[[MemoryPlan, Setup], bool]

# From the least to the most that a change costs: a smaller micro batch costs a little speed, a
# higher stage communication, recomputation a third more arithmetic, and so on to more machines.
KNOBS = (
    "micro_batch",
    "parallel.zero",
    "activation_checkpointing",
    "parallel.tensor",
    "parallel.offload",
    "workers",
)
Changes = dict[str, int | str | bool]
"""Knob → its new value, as a job file has it."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """How far the search may go."""

    max_workers: int
    """All devices that there are."""
    workers_per_node: int | None = None
    """Workers that share each matrix lie in one machine; None where that is not known."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A layout that the search found."""

    changes: Changes
    setup: Setup
    memory: MemoryPlan


def find_fitting(
    shape: Shape, setup: Setup, *, row_tokens: float, room: Room, fits: Fits
) -> Choice | None:
    """The layout that fits with the fewest and cheapest changes; None when none does."""
    candidates = [(_changes(setup, each), each) for each in _neighbours(shape, setup, room)]
    for changes, candidate in sorted(candidates, key=lambda pair: _cost(*pair)):
        memory = plan_memory(shape, candidate, row_tokens=row_tokens)
        if fits(memory, candidate):
            return Choice(changes=changes, setup=candidate, memory=memory)
    return None


def list_savings(
    shape: Shape, setup: Setup, *, row_tokens: float, room: Room
) -> list[tuple[Changes, float]]:
    """What each knob saves alone, in bytes of a worker's peak, the smallest change of each first.

    Knobs that save nothing are left out.
    """
    now = plan_memory(shape, setup, row_tokens=row_tokens).peak.total
    savings: dict[str, tuple[Changes, float]] = {}
    for candidate in _neighbours(shape, setup, room):
        changes = _changes(setup, candidate)
        if len(changes) != 1:
            continue
        (knob,) = changes
        saved = now - plan_memory(shape, candidate, row_tokens=row_tokens).peak.total
        # Every stage of ZeRO is worth a word; of the others the nearest value is.
        key = f"{knob}={candidate.zero}" if knob == "parallel.zero" else knob
        if saved > 0:
            savings.setdefault(key, (changes, saved))
    return list(savings.values())


def _neighbours(shape: Shape, setup: Setup, room: Room) -> Iterator[Setup]:
    """All layouts with the same result, each knob turned only towards less memory."""
    heads = int(shape.config.get("num_attention_heads") or 0)  # 0: not cut, since it has none
    kv_heads = int(shape.config.get("num_key_value_heads") or heads)
    can_cut = shape.architecture in TENSOR and shape.adapter is None and not setup.in_one_pass
    can_cut = can_cut and not setup.teacher  # which is not cut
    per_node = room.workers_per_node or room.max_workers
    tensors = [
        tensor
        for tensor in _doublings(setup.tensor, per_node // setup.sequence if can_cut else 1)
        if heads % tensor == 0 and kv_heads % tensor == 0
    ]
    offloads = (False, True) if setup.on_gpu and not setup.offload else (setup.offload,)
    recomputations = (setup.activation_checkpointing, True)[: 2 - setup.activation_checkpointing]
    for workers, offload, tensor, recomputes, zero, micro_batch in product(
        _doublings(setup.workers, room.max_workers),
        offloads,
        tensors,
        recomputations,
        range(setup.zero, 4),
        # A whole batch is no limit: a worker then computes all of its rows at once.
        (setup.global_batch,) if setup.in_one_pass else _halvings(setup.micro_batch),
    ):
        replica = tensor * setup.sequence
        if (
            tensor > 1 and zero == 0 and setup.precision != "fp32"
        ):  # train/forecast/support.py says why
            continue
        if find_conflict(setup.optimizer, zero=zero, tensor=tensor, offload=_word(offload)):
            continue
        if workers % replica or workers // replica > setup.global_batch or (offload and not zero):
            continue
        batch = plan_batch(setup.global_batch, micro_batch, workers // replica)
        yield replace(
            setup,
            workers=workers,
            offload=offload,
            tensor=tensor,
            activation_checkpointing=recomputes,
            zero=zero,
            micro_batch=batch.micro_batch,
        )


def _changes(old: Setup, new: Setup) -> Changes:
    replicas = new.workers // (new.tensor * new.sequence)
    natural = plan_batch(new.global_batch, old.micro_batch, replicas).micro_batch
    values: dict[str, tuple[int | str | bool, int | str | bool]] = {
        "micro_batch": (natural, new.micro_batch),
        "parallel.zero": (old.zero, new.zero),
        "activation_checkpointing": (old.activation_checkpointing, new.activation_checkpointing),
        "parallel.tensor": (old.tensor, new.tensor),
        "parallel.offload": (_word(old.offload), _word(new.offload)),
        "workers": (old.workers, new.workers),
    }
    return {knob: new_value for knob, (value, new_value) in values.items() if value != new_value}


def _word(offload: bool) -> str:
    return "cpu" if offload else "none"


def _cost(changes: Changes, new: Setup) -> tuple[int, list[int], list[float]]:
    """Fewer knobs first, then cheaper ones, then smaller turns of them."""
    ranks = sorted((KNOBS.index(knob) for knob in changes), reverse=True)
    turns = [new.workers, new.tensor, new.zero, -new.micro_batch]
    return len(changes), ranks, [float(turn) for turn in turns]


def _doublings(first: int, most: int) -> list[int]:
    values = [first]
    while values[-1] * 2 <= most:
        values.append(values[-1] * 2)
    return values


def _halvings(first: int) -> list[int]:
    values = [first]
    while values[-1] > 1:
        values.append(values[-1] // 2)
    return values


def changes_text(changes: Changes) -> str:
    """`micro_batch: 2, parallel.zero: 3`."""
    shown = {knob: str(value).lower() for knob, value in changes.items()}
    return ", ".join(f"{knob}: {value}" for knob, value in shown.items())
