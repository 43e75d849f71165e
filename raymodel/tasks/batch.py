"""From columns of examples to padded tensors.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tensor cores work on tiles of 8 bf16 numbers; it also bounds the number of different shapes.
_MULTIPLE = 8


def pad_right(rows: Sequence[Any], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """B id sequences of different lengths → ids and mask, both (B, T) int64 on the CPU.

    T is the longest length, rounded up to a multiple of 8. The mask is 1 on real tokens.
    """
    lengths = [len(row) for row in rows]
    width = -(-max(lengths) // _MULTIPLE) * _MULTIPLE
    ids_BT = np.full((len(lengths), width), pad_token_id, dtype=np.int64)
    mask_BT = np.zeros((len(lengths), width), dtype=np.int64)
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        ids_BT[index, :length] = row
        mask_BT[index, :length] = 1
    return torch.from_numpy(ids_BT), torch.from_numpy(mask_BT)


def pad_left(rows: Sequence[Any], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `pad_right`, but the tokens end where the generated ones begin; no rounding."""
    width = max(len(row) for row in rows)
    ids_BT = np.full((len(rows), width), pad_token_id, dtype=np.int64)
    mask_BT = np.zeros((len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        ids_BT[index, width - len(row) :] = row
        mask_BT[index, width - len(row) :] = 1
    return torch.from_numpy(ids_BT), torch.from_numpy(mask_BT)


def encoder_inputs(
    batch: Mapping[str, torch.Tensor], model: PreTrainedModel
) -> dict[str, torch.Tensor]:
    """`text_inputs` on the device of the model."""
    return {name: value.to(model.device) for name, value in text_inputs(batch, model).items()}


def text_inputs(
    batch: Mapping[str, torch.Tensor], model: PreTrainedModel
) -> dict[str, torch.Tensor]:
    """What a model takes of a batch of texts: `input_ids`, `attention_mask` (B, T), and
    `token_type_ids` where there are some and it was made to tell two texts apart by them.

    T is cut to the positions that the model knows: beyond them there is nothing but padding, as
    `pad_right` rounds up.

    Args:
        model: also one that an engine is around.
    """
    names = ["input_ids", "attention_mask"]
    config = getattr(model, "module", model).config
    if "token_type_ids" in batch and (getattr(config, "type_vocab_size", None) or 0) > 1:
        names.append("token_type_ids")
    positions = getattr(config, "max_position_embeddings", None)
    return {name: batch[name][:, :positions] for name in names}


def class_labels(rows: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """`labels` (B,) of the column `label`; nothing where rows have none, as requests do."""
    if "label" not in rows:
        return {}
    return {"labels": torch.from_numpy(np.asarray(rows["label"], dtype=np.int64))}
