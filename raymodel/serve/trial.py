"""Which pass computes a batch the fastest, measured; and whether it computes the same.

Every pass is held against torch in fp32 on the same batches before it may answer anybody.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from raymodel.serve.calls import Call
from raymodel.serve.passes import Pass, Tensors

BUDGET_S = 4.0
"""For measuring, beyond one run of each pass on each batch; what is small needs a tenth of it."""
_BY_BATCH_S = 0.25  # of each pass, on a batch that is quick
_MOST_RUNS, _SURE_RUNS = 20, 2  # one may have met something else that the machine did
_BEHIND, _FAR = 2.0, 8.0  # times the best so far, with which a pass is not run again
# What differs at most, as a share of the largest number: fp32 sums in another order, and numbers of
# 8 bits through some dozens of layers. MiniLM has 1e-6 and 0.013; another model's misses by all.
_MOST_ERROR = {"float32": 1e-3, "bfloat16": 0.03}
# What transformers calls the places of a row that hold something. What comes of the others nobody
# reads, and in bf16 it is anything.
_MASK = "attention_mask"
# A pass for some sizes alone has to be so much faster: else one for all, whose answers to a text
# do not depend on who asks beside it.
_WORTH_ANOTHER = 1.2


@dataclass(frozen=True)
class Case:
    """A batch, and what is right."""

    inputs: Tensors
    truth: Tensors

    @classmethod
    def of(cls, call: Call, reference: Pass | None = None) -> Case:
        """A recorded call.

        Args:
            reference: says what is right; by default what came of the call.
        """
        inputs = {
            name: value.cpu().float() if value.is_floating_point() else value.cpu()
            for name, value in call.inputs.items()
        }
        truth = call.outputs if reference is None else reference(inputs)
        return cls(inputs, {name: value.cpu() for name, value in truth.items()})

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first input."""
        return tuple(next(iter(self.inputs.values())).shape)


@dataclass(frozen=True)
class Measured:
    """How long passes took for one batch."""

    shape: tuple[int, ...]
    """Of its first input."""
    took_s: Mapping[str, float]
    """Name of the pass → its shortest run."""

    def as_content(self, taken: str) -> dict[str, Any]:
        """As `/health` tells it."""
        ms = {name: round(1e3 * took_s, 2) for name, took_s in self.took_s.items()}
        return {"shape": list(self.shape), "ms": ms, "taken": taken}


class Computes(Protocol):
    """A `Pass`, or what is none of the server's."""

    dtype: str

    def __call__(self, inputs: Tensors, /) -> Tensors: ...


def find_fault(candidate: Computes, cases: Iterable[Case]) -> str | None:
    """Why a pass must not answer; None when it computes what is right."""
    for case in cases:
        try:
            found = candidate(case.inputs)
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
            said = " ".join(str(error).split())[:200]
            return f"it fails on {list(case.shape)}: {type(error).__name__}: {said}"
        for name, right in case.truth.items():
            fault = _difference(
                found.get(name), right, _MOST_ERROR[candidate.dtype], case.inputs.get(_MASK)
            )
            if fault:
                return f"of {list(case.shape)} its {name} {fault}"
    return None


def _difference(
    found: torch.Tensor | None, right: torch.Tensor, most: float, mask: torch.Tensor | None
) -> str | None:
    if found is None or found.shape != right.shape:
        return f"is {None if found is None else list(found.shape)}, not {list(right.shape)}"
    if not right.is_floating_point():
        return None  # made of fractions, and next to a border they may be others
    found, right = found.cpu().float(), right.float()
    if bool((found.isnan() | (found.isinf() & ~right.isinf())).any()):
        return "holds NaN or infinity"
    known = right.isfinite()
    if mask is not None and mask.shape == right.shape[:2]:
        found, right, known = (each[mask.bool()] for each in (found, right, known))
    far = (found - right)[known].abs().max().item() if bool(known.any()) else 0.0
    share = far / max(right[known].abs().max().item() if bool(known.any()) else 0.0, 1e-6)
    return f"is {share:.2g} off, and at most {most:g} may be" if share > most else None


def measure(passes: Sequence[Pass], cases: Sequence[Case]) -> list[Measured]:
    """The shortest of several runs of each pass on each batch, in turns, so that what else the
    machine does meets all of them. What is far behind is not run again."""
    end_s = time.monotonic() + BUDGET_S
    return [
        Measured(case.shape, _shortest(passes, case, min(end_s, time.monotonic() + BUDGET_S / 2)))
        for case in cases
    ]


def _shortest(passes: Sequence[Pass], case: Case, end_s: float) -> dict[str, float]:
    took_s = dict.fromkeys((each.name for each in passes), math.inf)
    spent_s = dict.fromkeys(took_s, 0.0)
    for run in range(_MOST_RUNS):
        best_s = min(took_s.values())
        racing = [
            each
            for each in passes
            if took_s[each.name] <= (_FAR if run < _SURE_RUNS else _BEHIND) * best_s
            and (run < _SURE_RUNS or spent_s[each.name] < _BY_BATCH_S)
        ]
        if run >= _SURE_RUNS and (not racing or time.monotonic() > end_s):
            break
        for each in racing:
            start_s = time.perf_counter()
            for value in each(case.inputs).values():
                value.cpu()  # a GPU computes while others go on
            now_s = time.perf_counter() - start_s
            took_s[each.name] = min(took_s[each.name], now_s)
            spent_s[each.name] += now_s
    return took_s


def pick(measured: Sequence[Mapping[str, float]]) -> tuple[str, list[str]]:
    """The pass for all sizes, and the one of each batch: the same, unless another is much faster.

    Args:
        measured: of each batch, name → seconds.
    """
    names = list(measured[0])

    def lag(name: str) -> float:
        return math.prod(took_s[name] / min(took_s.values()) for took_s in measured)

    overall = min(names, key=lag)
    each = []
    for took_s in measured:
        best = min(names, key=took_s.__getitem__)
        each.append(best if took_s[overall] > _WORTH_ANOTHER * took_s[best] else overall)
    return overall, each
