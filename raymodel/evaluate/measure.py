"""Measures one model on held-out rows, in one process and without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymodel.evaluate.gates import TEXT_PREFIX
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.observe.measures import measured
from raymodel.observe.slow_paths import as_content, slow_paths

if TYPE_CHECKING:
    from raymodel.data.shard import Dataset
    from raymodel.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was found about one model; goes through JSON and back unchanged."""

    metrics: dict[str, float | None]
    """Measure → value; None when it is not finite, because JSON has no NaN."""
    samples: list[dict[str, str]] = field(default_factory=list)
    """`prompt`, `answer`, `reference` of a few held-out examples."""
    rows: dict[str, int] = field(default_factory=dict)
    """Held-out rows used, by the role of their dataset."""
    slow_paths: list[dict[str, str]] = field(default_factory=list)
    """See `observe/slow_paths.py`."""

    def to_dict(self) -> dict[str, Any]:
        """As a work file holds it; `Measured(**data)` reads it back."""
        return asdict(self)


def measure_model(
    folder: Path,
    task: Task,
    held_out: Mapping[str, Dataset],
    spec: EvaluateSpec,
    *,
    wants_gpu: bool = False,
) -> Measured:
    """Loads the model of `folder` and takes the measures of `spec`.

    Args:
        held_out: Held-out rows by role. The first gives the measures their plain names; further
            ones (plain text beside a task's examples) add theirs with the prefix `text_`.
        wants_gpu: A model that finds no GPU is measured all the same, as a slow path.
    """
    import torch

    from raymodel.model.kernels import find_device, note_attention, note_tokenizer
    from raymodel.model.load import load_for_use

    device = find_device(wants_gpu)
    model, tokenizer = load_for_use(folder, task)
    note_attention(model)
    model.to(torch.device(device))  # type: ignore[arg-type]  # a wrapped method, mistyped upstream
    note_tokenizer(tokenizer)
    metrics: dict[str, float | None] = {}
    samples: list[dict[str, str]] = []
    rows = {}
    for index, (role, dataset) in enumerate(held_out.items()):
        columns = read_spread(dataset, spec.max_rows)
        result = task.evaluate(
            model,
            tokenizer,
            columns,
            spec.metrics,
            generate_rows=spec.generate_rows,
            max_new_tokens=spec.max_new_tokens,
        )
        prefix = TEXT_PREFIX if index else ""
        metrics |= {prefix + name: measured(value) for name, value in result.metrics.items()}
        samples += [asdict(sample) for sample in result.samples]
        rows[role] = min(dataset.num_rows, spec.max_rows)
    return Measured(
        metrics=metrics, samples=samples, rows=rows, slow_paths=as_content(slow_paths())
    )


def choose_held_out(task: Task, datasets: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The datasets whose rows the task can be measured on, its own examples first.

    Args:
        datasets: By role: `examples` from fine-tuning, `data` from pretraining; either may lack.
    """
    ordered = [role for role in ("examples", "data") if role in datasets]
    return {
        role: datasets[role] for role in ordered if task.can_evaluate(datasets[role].schema.names)
    }


def read_spread(dataset: Dataset, max_rows: int) -> dict[str, Sequence[Any]]:
    """Up to `max_rows` rows, spread evenly over the dataset, as columns for `collate`."""
    from raymodel.data.columns import columns_of

    return columns_of(dataset.read(dataset.spread(max_rows)))
