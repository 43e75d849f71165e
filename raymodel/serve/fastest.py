"""The model as its task calls it, computed by what was measured to be the fastest.

The choice is made once, when the model is loaded, and told in `/health`.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import math
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from raymodel.errors import SpecError
from raymodel.model.compressed_form import INT8, find_form
from raymodel.model.kernels import has_fast_bf16
from raymodel.observe.slow_paths import take_slow_path
from raymodel.serve.calls import Call, find_obstacle
from raymodel.serve.fill import PASS_TOKENS
from raymodel.serve.memory import available_memory_bytes
from raymodel.serve.passes import Pass, TorchPass
from raymodel.serve.room import COMPILED_COPIES
from raymodel.serve.spec import DtypeName, EngineName
from raymodel.serve.trial import Case, Measured, find_fault, measure, pick

log = logging.getLogger(__name__)

_X86 = ("x86_64", "AMD64")
# A whole batch that takes less is not worth seconds at each start: HTTP takes longer.
_QUICK_S = 0.01
_FEWEST_PASS_TOKENS, _MOST_PASS_TOKENS = 16, 4096


@dataclass(frozen=True)
class Choice:
    """What computes, and why."""

    model: PreTrainedModel
    """What a task is given as its model: itself, or what stands for it."""
    engine: EngineName
    dtype: str
    reason: str
    measured: Sequence[Mapping[str, Any]] = ()
    """Of each batch that was tried: its shape, milliseconds by pass, and which is taken."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Name of a pass → why it answers nobody."""
    took_s: float = 0.0
    """To find out."""
    pass_tokens: int = PASS_TOKENS
    """What a batch costs beyond its rows, in tokens."""

    def facts(self) -> dict[str, Any]:
        """What `/health` tells of it."""
        trial = {
            "seconds": round(self.took_s, 2),
            "batches": list(self.measured),
            "refused": dict(self.refused),
        }
        return {
            "engine": self.engine,
            "dtype": self.dtype,
            "engine_reason": self.reason,
            **({"trial": trial} if self.measured or self.refused else {}),
        }


class Fastest:
    """Stands for a model before its task: called as it is, each batch is computed by the pass that
    was the fastest for one of about its size. All else is the model's own.

    Args:
        model: as it was loaded; answers what nothing else can, or did not show that it can.
        kind: of its output.
        passes: by the size of a batch, in numbers of its first input, in order.
        row_size: numbers of the largest row that was tried.
    """

    dtype = torch.float32
    """In which it is given fractions; each pass makes of them what it computes with."""

    def __init__(
        self,
        model: PreTrainedModel,
        kind: type,
        passes: Sequence[tuple[int, Pass]],
        row_size: int,
    ) -> None:
        self._torch = TorchPass(model)
        self._kind, self._passes, self._row_size = kind, list(passes), row_size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch.model, name)

    def __call__(self, **inputs: torch.Tensor) -> Any:
        chosen = self._choose(inputs)
        try:
            found = chosen(inputs)
        except RuntimeError as error:
            if isinstance(chosen, TorchPass):
                raise
            self._leave(chosen, error)
            found = self._torch(inputs)
        return self._kind(**found)

    def _choose(self, inputs: Mapping[str, torch.Tensor]) -> Pass:
        first = next(iter(inputs.values()))
        size = max(1, first.numel())
        _, chosen = min(self._passes, key=lambda each: abs(math.log(each[0] / size)))
        is_known = size <= self._row_size * len(first) and chosen.takes(inputs)
        return chosen if is_known else self._torch

    def _leave(self, failed: Pass, error: Exception) -> None:
        """Has torch answer from now on."""
        self._passes = [
            (size, self._torch if each is failed else each) for size, each in self._passes
        ]
        log.exception("%s failed", failed.name)
        why = f"{failed.name} failed: {_short(error)}"
        take_slow_path(f"is computed by {self._torch.name}", why)


class Chooser:
    """Finds the fastest for one model.

    Args:
        model: in eval mode, on its device, in the dtype that it is served in by itself.
        asked, dtype: what `serve.engine` and `serve.dtype` say.
        replicas: that may share this machine's memory.
    """

    def __init__(
        self, model: PreTrainedModel, asked: EngineName, dtype: DtypeName, replicas: int = 1
    ) -> None:
        self._model, self._asked, self._replicas = model, asked, replicas
        self._given = str(model.dtype).removeprefix("torch.")
        self._dtypes = self._wanted_dtypes(dtype)
        self._refused: dict[str, str] = {}

    def choose(self, calls: Sequence[Call]) -> Choice:
        """Takes what is fastest.

        Args:
            calls: of the batches to try, the largest last.

        Raises:
            SpecError: what was asked for cannot be had.
        """
        started_s = time.monotonic()
        obstacle = find_obstacle(calls)
        compiled = obstacle or self._find_obstacle()
        if self._asked == "openvino" and compiled:
            raise SpecError(f"serve.engine is openvino, and {compiled}; set serve.engine: auto")
        is_alone = self._dtypes == [self._given]
        if obstacle or (compiled and is_alone):
            return self._as_it_is(f"openvino cannot: {obstacle or compiled}")
        if self._asked == "transformers" and is_alone:
            return self._as_it_is("serve.engine is transformers")
        if reason := self._reason_not_to_try(calls[-1]):
            return self._as_it_is(reason)
        passes, cases = self._passes(calls, is_compiled=compiled is None)
        if compiled and self._asked == "auto":
            self._refused["openvino"] = compiled
        if not passes:
            why = "; ".join(f"{name}: {why}" for name, why in self._refused.items())
            raise SpecError(f"serve.engine is openvino, and {why}; set serve.engine: auto")
        found = measure(passes, cases)
        return self._taken(passes, cases, calls, found, time.monotonic() - started_s)

    # ---- what there is to choose from ----------------------------------------------------------

    def _wanted_dtypes(self, asked: DtypeName) -> list[str]:
        """That of the model first."""
        if asked != "auto" or self._given == "float16" or self._is_in_int8():
            return [self._given]
        is_fast = has_fast_bf16(self._model.device.type)
        others = ["float32", *(["bfloat16"] if is_fast else [])]
        return [self._given, *(name for name in others if name != self._given)]

    def _is_in_int8(self) -> bool:
        """What is served in another form has been multiplied out."""
        return find_form(getattr(self._model.config, "quantization_config", None)) == INT8

    def _find_obstacle(self) -> str | None:
        """Why OpenVINO cannot compute it here."""
        if self._model.device.type != "cpu":
            return f"the model is on a {self._model.device.type} device"
        if platform.machine() not in _X86 and self._asked == "auto":
            return f"on {platform.machine()} openvino has not been tried; ask for it"
        if self._is_in_int8():
            return "its weights are whole numbers of 8 bits"
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed; pip install openvino"
        return None

    def _reason_not_to_try(self, largest: Call) -> str | None:
        if self._asked != "openvino":
            own = TorchPass(self._model)
            took_s = _time(own, largest)
            if took_s < 10 * _QUICK_S:  # the first of several takes longer
                took_s = min(_time(own, largest) for _ in range(3))
            if took_s < _QUICK_S:
                return f"a whole batch takes it {1e3 * took_s:.1f} ms"
        numbers = sum(weight.numel() for weight in self._model.parameters())
        needed = int(COMPILED_COPIES * 4 * numbers)
        left = available_memory_bytes() // self._replicas
        if needed > left:
            said = f"trying others takes {needed / 1e9:.1f} GB, and {left / 1e9:.1f} GB are left"
            if self._asked == "openvino":
                raise SpecError(f"serve.engine is openvino, and {said}; set engine: transformers")
            return said
        return None

    def _passes(self, calls: Sequence[Call], *, is_compiled: bool) -> tuple[list[Pass], list[Case]]:
        """Those that compute what is right."""
        reference = self._in("float32")
        right = None if self._given == "float32" else reference
        cases = [Case.of(call, right) for call in _apart(calls)]
        passes: list[Pass] = []
        if self._asked != "openvino":
            own = self._in(self._given)
            others = [self._in(name) for name in self._dtypes if name != self._given]
            passes = [own, *(each for each in others if self._is_right(each, cases))]
        if self._asked != "transformers" and is_compiled:
            compiled = self._compiled(reference.model, calls)
            passes += [each for each in compiled if self._is_right(each, cases)]
        return passes, cases

    def _in(self, dtype: str) -> TorchPass:
        if dtype == self._given:
            return TorchPass(self._model)
        other = copy.deepcopy(self._model).to(getattr(torch, dtype))
        return TorchPass(other)

    def _compiled(self, model: PreTrainedModel, calls: Sequence[Call]) -> Iterator[Pass]:
        from raymodel.serve.openvino_pass import OpenVinoPass, convert

        try:
            graphs = convert(model, calls)
        except Exception as error:  # noqa: BLE001 - tracing a model may end in anything
            self._refuse("openvino", f"{type(error).__name__}: {_short(error)}")
            return
        for dtype in self._dtypes:
            try:
                yield OpenVinoPass(graphs, dtype, torch.get_num_threads())
            except RuntimeError as error:
                self._refuse(f"openvino in {dtype}", _short(error))

    def _is_right(self, candidate: Pass, cases: Sequence[Case]) -> bool:
        if fault := find_fault(candidate, cases):
            self._refuse(candidate.name, fault)
        return fault is None

    def _refuse(self, name: str, why: str) -> None:
        # Told where people look, and no error: a model is not at fault for what another lacks.
        take_slow_path(f"is not computed by {name}", why, inherent=True)
        self._refused[name] = why

    # ---- what is taken -------------------------------------------------------------------------

    def _as_it_is(self, reason: str) -> Choice:
        return Choice(self._model, "transformers", self._given, reason, refused=self._refused)

    def _taken(
        self,
        passes: Sequence[Pass],
        cases: Sequence[Case],
        calls: Sequence[Call],
        found: Sequence[Measured],
        took_s: float,
    ) -> Choice:
        by_name = {each.name: each for each in passes}
        overall, each = pick([one.took_s for one in found])
        best = by_name[overall]
        sizes = [math.prod(case.shape) for case in cases]
        stand_in = Fastest(
            self._model,
            calls[-1].kind,
            [(size, by_name[name]) for size, name in zip(sizes, each, strict=True)],
            max(size // case.shape[0] for size, case in zip(sizes, cases, strict=True)),
        )
        return Choice(
            # It is all of a model that tasks use: called, and asked for configuration and device.
            stand_in,  # type: ignore[arg-type]
            best.engine,
            best.dtype,
            _reason(found[-1], overall, f"transformers in {self._given}", self._refused),
            [one.as_content(name) for one, name in zip(found, each, strict=True)],
            self._refused,
            took_s,
            _pass_tokens(cases, [one.took_s[name] for one, name in zip(found, each, strict=True)]),
        )


def _reason(largest: Measured, taken: str, own: str, refused: Mapping[str, str]) -> str:
    """Of the largest batch, in figures."""
    if taken == own:
        without = "; ".join(f"{name} was refused: {why}" for name, why in refused.items())
        return "nothing else was faster" + (f" ({without})" if without else "")
    if own not in largest.took_s:
        return "serve.engine is openvino"
    faster = largest.took_s[own] / largest.took_s[taken]
    return f"measured at the start: {faster:.1f} times as fast as {own}"


def _pass_tokens(cases: Sequence[Case], took_s: Sequence[float]) -> int:
    """What a batch costs in any case, as many tokens as cost the same: from two rows alone, of
    which one is longer. On a GPU, which computes many as fast as one, all that fit."""
    alone = [
        (case.shape[1], each_s)
        for case, each_s in zip(cases, took_s, strict=True)
        if case.shape[0] == 1 and len(case.shape) == 2
    ]
    if len(alone) < 2:
        return PASS_TOKENS
    (few, few_s), (many, many_s) = alone[0], alone[-1]
    by_token_s = max((many_s - few_s) / max(many - few, 1), 1e-9)
    return max(_FEWEST_PASS_TOKENS, min(int(few_s / by_token_s) - few, _MOST_PASS_TOKENS))


def _apart(calls: Sequence[Call]) -> list[Call]:
    """One of each shape and set of names."""
    unique = {(frozenset(call.inputs), tuple(call.first.shape)): call for call in calls}
    return sorted(unique.values(), key=lambda call: call.first.numel())


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _time(own: TorchPass, call: Call) -> float:
    start_s = time.monotonic()
    own(call.inputs)
    return time.monotonic() - start_s
