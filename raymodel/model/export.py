"""A model on disk: a Hugging Face folder with safetensors, tokenizer and model card.

The weights are written one after the other, so that a model may be larger than memory.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raymodel.model.card import render_card
from raymodel.model.gguf import GgufType, write_gguf
from raymodel.model.gguf_file import gguf_config
from raymodel.model.initial import Weights
from raymodel.model.own import OwnModel, save_source
from raymodel.model.tensorfile import TensorInfo, write_tensors
from raymodel.storage.model_files import GGUF_FILE, INDEX, ONE_FILE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raymodel.modality.base import Processor
    from raymodel.modality.text import TextProcessor

# As huggingface_hub splits (`MAX_SHARD_SIZE`): few files, each small enough to be sent again.
FILE_BYTES = 5 * 10**9


def save_model(
    model: PreTrainedModel,
    weights: Weights,
    processor: Processor,
    folder: Path,
    dtype: torch.dtype,
    card: Mapping[str, Any],
    *,
    file_bytes: int = FILE_BYTES,
    on_file: Callable[[Path], None] = lambda file: None,
) -> None:
    """Writes `model` in `dtype` so that `AutoModel….from_pretrained(folder)` loads it.

    Tied weights are written once. Weights have the names that they have in the model: those of the
    oldest files of an architecture, where transformers still reads them, are not brought back.

    Args:
        model: May be on the meta device: only its configuration and the names, shapes and ties of
            its weights are asked for.
        weights: Gives each weight once, when it is written.
        folder: Local; made when absent.
        card: What README.md says about the model, see `render_card`.
        file_bytes: No file of weights is larger, unless one weight is.
        on_file: Called with each file once it is written. It may take the file away, so that a
            folder which goes elsewhere never lies here as a whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = _split(_tensors(model, dtype), file_bytes)
    named = {_name_in_files(model, name): name for name in model.state_dict()}
    for name, tensors in files.items():
        with open(folder / name, "wb") as stream:
            write_tensors(stream, tensors, lambda name: weights.read(named[name]))
        on_file(folder / name)
    if len(files) > 1:
        _write_json(folder / INDEX, _index(files))
    _save_beside(model, processor, folder, dtype, card, {folder / name for name in files}, on_file)


def save_gguf_model(
    model: PreTrainedModel,
    weights: Weights,
    processor: TextProcessor,
    folder: Path,
    type: GgufType,
    dtype: torch.dtype,
    card: Mapping[str, Any],
    *,
    importance: Mapping[str, torch.Tensor],
    on_file: Callable[[Path], None] = lambda file: None,
) -> None:
    """Writes a language model whose weights are one GGUF file, with the files of a folder beside.

    `AutoModel….from_pretrained(folder, gguf_file="model.gguf")` loads it, and whatever reads GGUF.

    Args:
        model: may be on the meta device.
        type: of the matrices.
        dtype: that the model was saved in before, in which it is computed where the numbers of the
            file are multiplied out.
        importance: see `write_gguf`.
        weights, processor, folder, card, on_file: as of `save_model`.

    Raises:
        ArtifactError: GGUF has no place for the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / GGUF_FILE
    name = str(card.get("name", ""))
    write_gguf(file, model, weights, processor.tokenizer, type, name=name, importance=importance)
    on_file(file)
    said = copy.copy(model)
    said.config = copy.deepcopy(model.config)
    said.config.quantization_config = gguf_config(type)
    _save_beside(said, processor, folder, dtype, card, {file}, on_file)


def _save_beside(
    model: PreTrainedModel,
    processor: Processor,
    folder: Path,
    dtype: torch.dtype,
    card: Mapping[str, Any],
    written: set[Path],
    on_file: Callable[[Path], None],
) -> None:
    """All but the weights, which are written."""
    _save_config(model, folder, dtype)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(render_card(card), encoding="utf-8")
    for file in sorted(set(folder.rglob("*")) - written):
        if file.is_file():
            on_file(file)


def _tensors(model: PreTrainedModel, dtype: torch.dtype) -> Iterator[TensorInfo]:
    """What is written, in the order of the modules."""
    # Buffers keep their format: whoever loads the model in fp32 has running statistics unrounded.
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    left_out = {*model.all_tied_weights_keys, *(model._keys_to_ignore_on_save or ())}
    for name, tensor in model.state_dict().items():
        if name not in left_out:
            is_cast = name in parameters and tensor.is_floating_point()
            kept = dtype if is_cast else tensor.dtype
            yield TensorInfo(_name_in_files(model, name), kept, tuple(tensor.shape))


def _name_in_files(model: PreTrainedModel, name: str) -> str:
    return model.name_in_files(name) if isinstance(model, OwnModel) else name


def _split(tensors: Iterator[TensorInfo], file_bytes: int) -> dict[str, list[TensorInfo]]:
    """File name → what goes into it, with the names that transformers looks for."""
    groups: list[list[TensorInfo]] = [[]]
    room = file_bytes
    for info in tensors:
        if groups[-1] and info.bytes > room:
            groups.append([])
            room = file_bytes
        groups[-1].append(info)
        room -= info.bytes
    if len(groups) == 1:
        return {ONE_FILE: groups[0]}
    stem, suffix = ONE_FILE.split(".")
    return {
        f"{stem}-{number:05d}-of-{len(groups):05d}.{suffix}": group
        for number, group in enumerate(groups, start=1)
    }


def _index(files: Mapping[str, list[TensorInfo]]) -> dict[str, Any]:
    size = sum(info.bytes for tensors in files.values() for info in tensors)
    places = {info.name: file for file, tensors in files.items() for info in tensors}
    return {"metadata": {"total_size": size}, "weight_map": places}


def _save_config(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if isinstance(model, OwnModel):
        save_source(model.config, folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    # The configuration holds the format of the model in memory, not that of its weights here.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _write_json(folder / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")})


def _write_json(file: Path, body: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", encoding="utf-8")
