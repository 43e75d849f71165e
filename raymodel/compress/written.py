"""Models that write token by token, with fewer bits: one GGUF file, as the fast engine reads it.

What is measured of the result are the numbers of that file, multiplied out and computed in the
format that the model was saved in before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raymodel.compress.calibrate import Calibration, mean_squares
from raymodel.compress.opened import Opened
from raymodel.errors import ArtifactError, SpecError
from raymodel.model.export import save_gguf_model
from raymodel.model.gguf import GgufType, check_gguf
from raymodel.model.load import load_for_use
from raymodel.storage.local import local_folder
from raymodel.storage.uri import Location

if TYPE_CHECKING:
    from collections.abc import Callable

    from raymodel.compress.spec import Bits
    from raymodel.tasks.base import Task

TYPES: Mapping[Bits, GgufType] = {"int8": "q8_0", "int4": "q4_1"}
"""Four bits with a least value for each block: llama.cpp's K types, a tenth smaller, want rows of
256 numbers, which small models have not."""


def check_written(model: Opened) -> None:
    """Raises SpecError for a model that GGUF has no place for."""
    try:
        check_gguf(model.outline)
    except ArtifactError as error:
        why = str(error).partition(". Export it")[0]
        raise SpecError(
            f"compress.quantize: {why}; take a model of such a family, or leave it out"
        ) from error


def save_written(
    model: Opened,
    bits: Bits,
    processor: Any,
    folder: Path,
    card: Mapping[str, Any],
    importance: Mapping[str, torch.Tensor],
    on_file: Callable[[Path], None],
) -> None:
    """Writes the folder of the model in so many bits.

    Args:
        importance: from `find_importance`; none for eight bits.
    """
    save_gguf_model(
        model.outline,
        model.weights,
        processor,
        folder,
        TYPES[bits],
        model.dtype,
        card,
        importance=importance,
        on_file=on_file,
    )


def find_importance(
    folder: Location, task: Task, calibration: Calibration | None
) -> dict[str, torch.Tensor]:
    """What the model of a folder does with rows of training: see `mean_squares`. It is in memory,
    whole, for as long as this takes."""
    if calibration is None:
        return {}
    with local_folder(folder) as local:
        model, own = load_for_use(local, task.name, spec=task.spec)
        return mean_squares(model, own, calibration)
