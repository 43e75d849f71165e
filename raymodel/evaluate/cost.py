"""What models cost: the bytes of their weights, and the time that they take, beside each other."""

from __future__ import annotations

import math
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from raymodel.evaluate.written_cost import ANSWER_TOKENS, Writer
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.base import WRITTEN, Limits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raymodel.data.shard import Dataset
    from raymodel.tasks.base import Task
    from raymodel.tasks.spec import AnyTask

BATCHES = (1, 16, 32)
"""Rows of a forward pass: one request alone, and what a server has when it is busy."""
_SECONDS = 5.0
"""Of measuring, for each model and batch; a pass that takes longer is measured thrice."""
_FEWEST, _MOST = 3, 50
_ROWS = 512
"""Different ones, at most."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one model; goes through JSON and back unchanged."""

    size_bytes: int
    """Of its files of weights."""
    latency_ms: float
    """Of one row alone, the median."""
    rows_per_s: dict[str, float]
    """Rows of a batch → how many are through in a second, by the median of its times."""

    def to_dict(self) -> dict[str, Any]:
        """As a work file holds it; `Cost(**data)` reads it back."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Of a model and of what it was made from, or its teacher, taken in turn by one process."""

    before: Cost
    after: Cost
    faster: dict[str, tuple[float, float]]
    """Rows of a batch → the ends of the 95 % interval of the median of how many times as fast the
    one after was as the one before, round by round; a difference is seen where 1 is outside."""
    machine: str
    """Where, and by how many threads."""
    what: str
    """Was measured of a row."""

    def to_dict(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Costs:
        """Reads that back."""
        parts = {role: Cost(**data[role]) for role in ("before", "after")}
        faster = {batch: tuple(ends) for batch, ends in data["faster"].items()}
        return cls(**{**data, **parts, "faster": faster})


def size_of(folder: Location) -> int:
    """The bytes of the weights in a model folder."""
    kinds = (".safetensors", ".gguf")
    return sum(e.bytes for e in folder.list() if not e.is_dir and e.name.endswith(kinds))


def measure_costs(
    before: Path,
    after: Path,
    task_spec: AnyTask,
    held_out: Dataset,
    *,
    wants_gpu: bool = False,
    processor: Location | None = None,
    seconds: float = _SECONDS,
) -> Costs:
    """Loads both models and lets each have the same rows in turn, so that what else the machine
    does slows both down.

    What is measured of a row is what a server does with it; of answers that are written token by
    token, whose number differs between models, it is one forward pass over the row instead. Where
    one of them is a GGUF file, whose numbers torch would only multiply out, it is an answer of as
    many tokens from both, by the engine that reads such files, where that is at home.

    Args:
        before: local folder of what the other model was made from.
        after: local folder of that one.
        held_out: rows of the task.
        processor: what both read with, where that is not their own.
        seconds: of measuring, for each model and batch.
    """
    import torch

    from raymodel.model.compressed_linear import is_compressed
    from raymodel.model.kernels import find_device
    from raymodel.model.load import load_for_use

    device = torch.device(find_device(wants_gpu))
    folders = (before, after)
    writers = _writers(folders, task_spec, processor) if device.type == "cpu" else []
    if writers:
        what = _WRITTEN.format(*(writer.type for writer in writers))
        passes: Sequence[Timed] = writers
    else:
        loaded = [
            load_for_use(
                folder, task_spec.name, spec=task_spec, labels=held_out.labels, processor=processor
            )
            for folder in folders
        ]
        passes = forwards = [_Pass(model.to(device), task) for model, task in loaded]  # type: ignore[arg-type]
        is_whole = forwards[0].answers(_rows(held_out, 1, 0))
        what = "an answer" if is_whole else "a forward pass"
        if any(is_compressed(model) for model, _ in loaded):
            what += _MULTIPLIED_OUT
    times = {batch: _times(passes, held_out, batch, seconds) for batch in BATCHES}
    sizes = [size_of(Location.parse(str(folder))) for folder in (before, after)]
    costs = [
        _cost(size, {batch: statistics.median(each[index]) for batch, each in times.items()})
        for index, size in enumerate(sizes)
    ]
    return Costs(
        before=costs[0],
        after=costs[1],
        faster={str(batch): _interval(*each) for batch, each in times.items()},
        machine=_machine(device.type),
        what=what,
    )


_MULTIPLIED_OUT = " with the weights multiplied out, which a GPU need not do"
_WRITTEN = f"an answer of {ANSWER_TOKENS} tokens by OpenVINO (weights in {{}} and {{}})"


def _writers(
    folders: Sequence[Path], task_spec: AnyTask, processor: Location | None
) -> list[Writer]:
    """What lets both models write; nothing where neither is a GGUF file, or nothing reads it."""
    from raymodel.model.openvino import is_at_home
    from raymodel.storage.model_files import GGUF_FILE

    if not (any((folder / GGUF_FILE).exists() for folder in folders) and is_at_home()):
        return []
    task = get_task(task_spec.name)(task_spec)
    with tempfile.TemporaryDirectory(prefix="raymodel-") as scratch:
        return [Writer(folder, task, Path(scratch), processor) for folder in folders]


class Timed(Protocol):
    """One model, given rows."""

    def time_s(self, rows: Mapping[str, Any]) -> float: ...


class _Pass:
    """One model, given rows, in torch."""

    def __init__(self, model: PreTrainedModel, task: Task) -> None:
        self._model, self._task = model, task

    def answers(self, rows: Mapping[str, Any]) -> bool:
        """Whether what is measured is an answer, whole."""
        return self._task.answers not in WRITTEN and self._task.has_answers(rows)

    def time_s(self, rows: Mapping[str, Any]) -> float:
        start = time.perf_counter()
        if self.answers(rows):
            self._task.predict(self._model, rows, Limits())
        else:
            self._forward(rows)
        return time.perf_counter() - start

    def _forward(self, rows: Mapping[str, Any]) -> None:
        import torch

        from raymodel.model.attention import documents_apart

        batch = {name: v.to(self._model.device) for name, v in self._task.collate(rows).items()}
        apart = documents_apart(self._model) if self._task.keeps_apart else nullcontext()
        with apart, torch.inference_mode():
            float(self._task.loss(self._model, batch))  # waits for the device


def _times(
    passes: Sequence[Timed], held_out: Dataset, batch: int, seconds: float
) -> list[list[float]]:
    """Of each model, round by round, in seconds."""
    times: list[list[float]] = [[] for _ in passes]
    first = _rows(held_out, batch, 0)
    slowest_s = max(each.time_s(first) for each in passes)  # and what is slow once, is done
    rounds = min(_MOST, max(_FEWEST, int(seconds / max(slowest_s, 1e-6))))
    for number in range(rounds):
        rows = _rows(held_out, batch, number)
        order = range(len(passes)) if number % 2 else reversed(range(len(passes)))
        for index in order:
            times[index].append(passes[index].time_s(rows))
    return times


def _interval(before_s: Sequence[float], after_s: Sequence[float]) -> tuple[float, float]:
    """Of the median of before / after: between these two of the sorted ratios it lies in 95 of 100
    measurements, whatever their distribution (the binomial interval of a median)."""
    ratios = sorted(before / after for before, after in zip(before_s, after_s, strict=True))
    count = len(ratios)
    reach = 0.98 * math.sqrt(count)
    low, high = math.floor(count / 2 - reach), math.ceil(count / 2 + reach)
    return ratios[max(low, 0)], ratios[min(high, count - 1)]


def _rows(dataset: Dataset, batch: int, number: int) -> dict[str, Any]:
    """The rows of a round: all in turn, and from the first again where there are fewer."""
    import numpy as np

    from raymodel.data.columns import columns_of

    row_ids = dataset.spread(_ROWS)
    places = np.arange(number * batch, (number + 1) * batch) % len(row_ids)
    return columns_of(dataset.read(row_ids[places]))


def _cost(size_bytes: int, time_s: Mapping[int, float]) -> Cost:
    one, *many = BATCHES
    return Cost(
        size_bytes=size_bytes,
        latency_ms=1000 * time_s[one],
        rows_per_s={str(batch): batch / time_s[batch] for batch in many},
    )


def _machine(device: str) -> str:
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads > 1)}"


def _processor() -> str:
    """What the processor calls itself, where the system says so."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()
