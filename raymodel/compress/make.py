"""Writes the folder of a compressed model, one weight after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raymodel.compress.merge import MergedWeights
from raymodel.compress.opened import Opened, check_alike, open_base, open_whole
from raymodel.compress.prune import pruned
from raymodel.compress.quantize import quantised
from raymodel.compress.spec import CompressSpec
from raymodel.model.export import save_model
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.train.checkpoint.export import folder_for


def make_model(
    spec: CompressSpec,
    folders: Sequence[Location],
    base: Location | None,
    task_name: str,
    target: Location,
    card: Mapping[str, Any],
) -> None:
    """Makes a model of others.

    Args:
        folders: the models that it is made of.
        base: what those were tuned from, where the method asks for it.
        task_name: what all do.
        target: where the folder of the model will be.
        card: what its README.md says as long as it is not measured.

    Raises:
        ArtifactError: a folder holds no whole model, or the models do not fit together.
        SpecError: the method cannot be used on such a model.
    """
    task = get_task(task_name)()
    processors = [task.processor_class().load(folder) for folder in folders]
    models = [open_whole(folder, task) for folder in folders]
    if spec.merge is not None:
        check_alike(folders, models, processors)
        first = open_base(base, models[0], task) if base is not None else None
        made = Opened(models[0].outline, MergedWeights(spec.merge, models, first), models[0].dtype)
    elif spec.quantize is not None:
        made = quantised(models[0], task)
    else:
        assert spec.prune is not None, "the spec has one method"
        made = pruned(models[0], spec.prune, task)
    card = {**card, "pipeline_tag": task.pipeline_tag}
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
