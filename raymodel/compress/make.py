"""Writes the folder of a compressed model, one weight after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raymodel.compress.calibrate import Calibration
from raymodel.compress.heads import with_heads
from raymodel.compress.merge import MergedWeights
from raymodel.compress.opened import Opened, check_alike, open_base, open_whole
from raymodel.compress.prune import pruned
from raymodel.compress.quantize import quantised
from raymodel.compress.rules import format_of, why_not_quantised
from raymodel.compress.spec import CompressSpec
from raymodel.compress.written import check_written, find_importance, save_written
from raymodel.errors import SpecError
from raymodel.model.export import save_model
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.spec import AnyTask
from raymodel.train.checkpoint.export import folder_for

if TYPE_CHECKING:
    from raymodel.modality.base import Processor
    from raymodel.tasks.base import Task


def make_model(
    spec: CompressSpec,
    folders: Sequence[Location],
    base: Location | None,
    task_spec: AnyTask,
    target: Location,
    card: Mapping[str, Any],
    calibration: Calibration | None = None,
) -> None:
    """Makes a model of others.

    Args:
        folders: the models that it is made of.
        base: what those were tuned from, where the method asks for it.
        task_spec: what all do.
        target: where the folder of the model will be.
        card: what its README.md says as long as it is not measured.
        calibration: rows of training, where the method looks at some.

    Raises:
        ArtifactError: a folder holds no whole model, or the models do not fit together.
        SpecError: the method cannot be used on such a model.
    """
    kind = get_task(task_spec.name)
    task, tuned = kind(), kind(task_spec)
    processors = [task.processor_class().load(folder) for folder in folders]
    models = [open_whole(folder, task) for folder in folders]
    card = {**card, "pipeline_tag": task.pipeline_tag}
    bits = spec.quantize
    if bits is not None and (reason := why_not_quantised(kind, bits, spec.format)):
        raise SpecError(f"compress.quantize: {reason}")
    if bits is not None and format_of(kind, bits, spec.format) == "gguf":
        check_written(models[0])
        importance = find_importance(folders[0], tuned, calibration)
        with folder_for(target) as (folder, on_file):
            save_written(models[0], bits, processors[0], folder, card, importance, on_file)
        return
    made = _made(spec, models, processors, folders, base, tuned, calibration)
    with folder_for(target) as (folder, on_file):
        save_model(
            made.outline,
            made.weights,
            processors[0],
            folder,
            made.dtype,
            card,
            on_file=on_file,
        )


def _made(
    spec: CompressSpec,
    models: Sequence[Opened],
    processors: Sequence[Processor],
    folders: Sequence[Location],
    base: Location | None,
    task: Task,
    calibration: Calibration | None,
) -> Opened:
    if spec.merge is not None:
        check_alike(folders, models, processors)
        first = open_base(base, models[0], task) if base is not None else None
        weights = MergedWeights(spec.merge, models, first)
        return Opened(models[0].outline, weights, models[0].dtype)
    if spec.quantize is not None:
        importance = find_importance(folders[0], task, calibration)
        return quantised(models[0], task, spec.quantize, importance)
    assert spec.prune is not None, "the spec has one method"
    if spec.prune.heads is not None:
        assert calibration is not None, "the method looks at rows"
        return with_heads(models[0], spec.prune.heads, folders[0], task, calibration)
    return pruned(models[0], spec.prune, task)
