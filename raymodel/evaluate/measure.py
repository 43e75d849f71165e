"""Measures one model on held-out rows, in one process and without Ray; and adds up what several
processes found of the rows of one dataset."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raymodel.evaluate.gates import TEXT_PREFIX
from raymodel.evaluate.intervals import bootstrap
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.observe.measures import measured
from raymodel.observe.slow_paths import as_content, slow_paths
from raymodel.spec.own import is_own
from raymodel.tasks import get_task
from raymodel.tasks.base import WRITTEN, Limits, Task
from raymodel.tasks.own import measure_named, own_measure
from raymodel.tasks.spec import AnyTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raymodel.data.shard import Dataset
    from raymodel.storage.uri import Location

BATCH_ROWS = 8
"""Of one forward pass."""
SAMPLES = 5
"""Answers that a report shows."""
ROWS_OF_A_PART = 256
"""Fewer are not worth a process of their own, which reads the model and imports for seconds."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was found about one model; goes through JSON and back unchanged."""

    metrics: dict[str, float | None]
    """Measure → value; None when it is not finite, because JSON has no NaN."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Measure → the ends of its interval, where it has one, see `intervals.py`."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """`prompt`, `answer`, `reference` and `request` of a few held-out examples."""
    tables: list[dict[str, Any]] = field(default_factory=list)
    """`tasks.base.Table` as JSON: what the task shows of all answers beside the measures."""
    rows: dict[str, int] = field(default_factory=dict)
    """Held-out rows used, by the role of their dataset."""
    signatures: dict[str, str] = field(default_factory=dict)
    """Measure → how exactly it was taken, where there are several ways."""
    slow_paths: list[dict[str, str]] = field(default_factory=list)
    """See `observe/slow_paths.py`."""

    def to_dict(self) -> dict[str, Any]:
        """As a work file holds it; `Measured(**data)` reads it back."""
        return asdict(self)


@dataclass(kw_only=True)
class Found:
    """What a model says of some rows of one dataset. Picklable."""

    loss: float = 0.0
    """The sum over the targets."""
    num_targets: int = 0
    num_bytes: int = 0
    readings: list[dict[str, float]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    references: list[Any] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one process found: by the role of the dataset."""

    found: dict[str, Found]
    slow_paths: list[dict[str, str]]


def num_parts(held_out: Mapping[str, Dataset], max_rows: int, workers: int) -> int:
    """Processes among which the rows are shared out."""
    rows = max(min(dataset.num_rows, max_rows) for dataset in held_out.values())
    return max(1, min(workers, rows // ROWS_OF_A_PART))


def measure_part(
    folder: Path,
    task_spec: AnyTask,
    held_out: Mapping[str, Dataset],
    spec: EvaluateSpec,
    part: tuple[int, int] = (0, 1),
    *,
    processor: Location | None = None,
    wants_gpu: bool = False,
) -> Part:
    """Loads the model of `folder` and asks it about its part of the rows.

    Args:
        task_spec: the task, as the job said it that made the model.
        held_out: held-out rows by role.
        part: which of how many; the parts in their order are all rows in theirs.
        processor: what the model reads with, by default its own.
        wants_gpu: a model that finds no GPU is measured all the same, as a slow path.
    """
    import torch

    from raymodel.model.kernels import find_device, note_attention, note_processor
    from raymodel.model.load import load_for_use

    device = find_device(wants_gpu)
    labels = next((data.labels for data in held_out.values() if data.labels), ())
    model, task = load_for_use(
        folder, task_spec.name, spec=task_spec, labels=labels, processor=processor
    )
    note_attention(model)
    model.to(torch.device(device))  # type: ignore[arg-type]  # a wrapped method, mistyped upstream
    note_processor(task.processor)
    found = {role: _ask(model, task, data, spec, part) for role, data in held_out.items()}
    return Part(found=found, slow_paths=as_content(slow_paths()))


def _ask(
    model: PreTrainedModel,
    task: Task,
    dataset: Dataset,
    spec: EvaluateSpec,
    part: tuple[int, int],
) -> Found:
    row_ids = dataset.spread(spec.max_rows)
    needs = {measure_named(task, name).needs for name in spec.metrics}
    found = Found()
    if "loss" in needs:
        from raymodel.model.attention import documents_apart

        with documents_apart(model) if task.keeps_apart else nullcontext():
            for rows in _batches(dataset, _share(row_ids, part)):
                _add_loss(model, task, rows, found)
    if "readings" in needs:
        for rows in _batches(dataset, _share(row_ids, part)):
            found.readings += task.readings(model, rows)
    if "answers" in needs:
        asked = _asked(row_ids, spec.generate_rows) if task.answers in WRITTEN else row_ids
        for rows in _batches(dataset, _share(asked, part)):
            if task.has_answers(rows):
                _add_answers(model, task, rows, spec, found)
    elif "readings" in needs and task.answers not in WRITTEN:
        for rows in _batches(dataset, _share(row_ids, part)[:SAMPLES]):
            _add_answers(model, task, rows, spec, found)
    return found


def _share(row_ids: Any, part: tuple[int, int]) -> Any:
    index, count = part
    return row_ids[len(row_ids) * index // count : len(row_ids) * (index + 1) // count]


def _asked(row_ids: Any, count: int) -> Any:
    """Of rows that take long to answer a few, evenly spread: neighbours come from one file."""
    places = np.linspace(0, len(row_ids) - 1, min(len(row_ids), count)).round().astype(int)
    return row_ids[places]


def _batches(dataset: Dataset, row_ids: Any) -> Iterator[dict[str, Any]]:
    from raymodel.data.columns import columns_of

    for start in range(0, len(row_ids), BATCH_ROWS):
        yield columns_of(dataset.read(row_ids[start : start + BATCH_ROWS]))


def _add_loss(model: PreTrainedModel, task: Task, rows: Mapping[str, Any], found: Found) -> None:
    import torch

    batch = task.collate(rows)
    found.num_bytes += task.target_bytes(batch)
    found.num_targets += task.num_targets(batch)
    batch = {name: value.to(model.device) for name, value in batch.items()}
    with torch.inference_mode():
        found.loss += float(task.loss(model, batch))


def _add_answers(
    model: PreTrainedModel, task: Task, rows: Mapping[str, Any], spec: EvaluateSpec, found: Found
) -> None:
    limits = Limits(max_new_tokens=spec.max_new_tokens, beams=spec.beams)
    answers = task.predict(model, rows, limits)
    references = task.references(rows)
    for index in range(min(SAMPLES - len(found.samples), len(answers))):
        sample = task.sample(rows, index, answers[index], references[index])
        found.samples.append(asdict(sample))
    found.answers += answers
    found.references += references


def combine(
    task_name: str, parts: Sequence[Part], held_out: Mapping[str, Dataset], spec: EvaluateSpec
) -> Measured:
    """The measures of what all parts found. The first dataset gives them their plain names; further
    ones (plain text beside a task's examples) add theirs with the prefix `text_`.

    Raises:
        ValueError: the rows hold nothing to predict.
    """
    task = get_task(task_name)()
    metrics: dict[str, float | None] = {}
    intervals: dict[str, tuple[float, float]] = {}
    samples: list[dict[str, Any]] = []
    tables: list[dict[str, Any]] = []
    for index, role in enumerate(held_out):
        found = _joined([part.found[role] for part in parts])
        prefix = TEXT_PREFIX if index else ""
        scores = _scores(task, found, spec.metrics)
        metrics |= {prefix + name: measured(value) for name, value in scores.items()}
        found_of_rows = _intervals(task, found, spec.metrics)
        intervals |= {prefix + name: ends for name, ends in found_of_rows.items()}
        samples += found.samples[:SAMPLES]
        if found.answers or found.readings:
            shown = task.tables(found.answers, found.references, found.readings)
            tables += map(asdict, shown)
    paths = {tuple(sorted(path.items())): path for part in parts for path in part.slow_paths}
    return Measured(
        metrics=metrics,
        intervals=intervals,
        samples=samples,
        tables=tables,
        rows={role: min(data.num_rows, spec.max_rows) for role, data in held_out.items()},
        signatures={n: s for n, s in task.signatures().items() if n in spec.metrics},
        slow_paths=list(paths.values()),
    )


def _joined(parts: Sequence[Found]) -> Found:
    return Found(
        loss=sum(part.loss for part in parts),
        num_targets=sum(part.num_targets for part in parts),
        num_bytes=sum(part.num_bytes for part in parts),
        readings=[reading for part in parts for reading in part.readings],
        answers=[answer for part in parts for answer in part.answers],
        references=[reference for part in parts for reference in part.references],
        samples=[sample for part in parts for sample in part.samples],
    )


def _scores(task: Task, found: Found, names: Collection[str]) -> dict[str, float]:
    scores: dict[str, float] = {}
    if any(measure_named(task, name).needs == "loss" for name in names):
        scores |= task.measure_loss(found.loss, found.num_targets, found.num_bytes)
    if found.readings:
        scores |= task.measure_readings(found.readings)
    if found.answers:
        own = [name for name in names if is_own(name)]
        scores |= task.measure(found.answers, found.references, {*names} - {*own})
        scores |= {name: own_measure(name)(found.answers, found.references) for name in own}
    return {name: scores[name] for name in names if name in scores}


def _intervals(task: Task, found: Found, names: Collection[str]) -> dict[str, tuple[float, float]]:
    """Of the measures that are taken row by row; nobody knows how long the user's own take."""
    able = [n for n in names if not is_own(n) and measure_named(task, n).is_of_rows]
    made: dict[str, tuple[float, float]] = {}
    if any(measure_named(task, name).needs == "readings" for name in able):
        made |= bootstrap(
            lambda rows: task.measure_readings([found.readings[row] for row in rows]),
            len(found.readings),
        )
    if any(measure_named(task, name).needs == "answers" for name in able):
        made |= bootstrap(
            lambda rows: task.measure(
                [found.answers[row] for row in rows], [found.references[row] for row in rows], able
            ),
            len(found.answers),
        )
    return {name: made[name] for name in able if name in made}


def choose_held_out(task: Task, datasets: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The datasets whose rows the task can be measured on, its own examples first.

    Args:
        datasets: By role: `examples` from fine-tuning, `data` from pretraining; either may lack.
    """
    ordered = [role for role in ("examples", "data") if role in datasets]
    return {
        role: datasets[role] for role in ordered if task.can_evaluate(datasets[role].schema.names)
    }
