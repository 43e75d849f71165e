"""A model on disk: a Hugging Face folder with safetensors, tokenizer and model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raymodel.model.card import render_card

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    dtype: torch.dtype,
    card: Mapping[str, Any],
    *,
    state_dict: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Writes `model` in `dtype` so that `AutoModel….from_pretrained(folder)` loads it.

    Args:
        folder: Local; made when absent.
        card: What README.md says about the model, see `render_card`.
        state_dict: Full weights to write in place of the model's own, such as the fp32 weights
            that a ZeRO optimizer holds.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = _cast(model.state_dict() if state_dict is None else state_dict, dtype)
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
    # transformers writes the format of the model in memory, not of the weights that it was given.
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(render_card(card), encoding="utf-8")


def _cast(state_dict: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights in `dtype` on the CPU. Tied weights stay one tensor and are written once."""
    done: dict[tuple[int, torch.Size], torch.Tensor] = {}
    cast = {}
    for name, tensor in state_dict.items():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in done:
            target = dtype if tensor.is_floating_point() else tensor.dtype
            done[key] = tensor.detach().to("cpu", target).contiguous()
        cast[name] = done[key]
    return cast
