"""`raymodel export`: a model as other programs take it, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from raymodel.errors import ArtifactError, RequestError, StorageError
from raymodel.modality.text import TextProcessor
from raymodel.model.gguf import GgufType, check_gguf, whole_file, write_gguf
from raymodel.model.gguf_file import gguf_type
from raymodel.model.load import check_folder, is_quantised
from raymodel.model.purpose import find_task
from raymodel.model.stored import StoredWeights
from raymodel.serve.named import find_named
from raymodel.storage.local import copy_to_disk, near
from raymodel.storage.model_files import GGUF_FILE
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.train.base import BaseModel

if TYPE_CHECKING:
    from raymodel.serve.graph_export import GraphFormat

ExportFormat = Literal["gguf", "onnx", "openvino", "folder"]
FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)

_OWN_NUMBERS = {
    "folder": "a folder keeps the model's own",
    "onnx": "a graph of onnx is in f32",
    "openvino": "a graph of openvino is in f32",
}


class Exported(NamedTuple):
    """What was written."""

    path: Path
    num_bytes: int


def export_model(
    reference: str,
    *,
    to: ExportFormat,
    type: GgufType | None = None,
    out: Path | None = None,
    storage: str = "runs",
) -> Exported:
    """Writes a model for other programs.

    Args:
        reference: see `find_named`.
        to: `gguf`, one file for llama.cpp, Ollama, LM Studio and OpenVINO; `onnx` or `openvino`,
            a folder with the graph of a model that does not write, for their runtimes; or
            `folder`, for transformers, vLLM and whatever else reads Hugging Face's.
        type: of a GGUF file's matrices; by default that of a model in fewer bits, else f16.
        out: what to write; by default the name of the run or folder, here. It must not exist.
        storage: where runs are looked up by their names.

    Raises:
        RequestError: the arguments do not go together, or `out` exists.
        ArtifactError: there is no such model, it is not whole, or the format cannot hold it.
        StorageError: it cannot be written; nothing of it is left.
    """
    if type is not None and to != "gguf":
        raise RequestError(f"--type {type} is of gguf; {_OWN_NUMBERS[to]}: leave it out")
    name, model = find_named(reference, Location.parse(storage))
    target = out or Path({"gguf": f"{name}.gguf", "folder": name}.get(to, f"{name}-{to}"))
    if target.exists():
        raise RequestError(f"{target} exists already and is left as it is; give another: --out")
    if not target.absolute().parent.is_dir():
        raise RequestError(f"{target.parent} is no folder; make it, or give another place: --out")
    if to == "gguf":
        _write_gguf(model, target, type, name)
    elif to == "folder":
        _copy_folder(model, target)
    elif to in ("onnx", "openvino"):
        _write_graph(model, target, to)
    files = [target] if target.is_file() else [f for f in target.rglob("*") if f.is_file()]
    return Exported(target, sum(file.stat().st_size for file in files))


def _write_gguf(model: BaseModel, target: Path, type: GgufType | None, name: str) -> None:
    task = get_task(find_task(model.artifact or model.location))()
    folder = near(model.location)
    outline = check_folder(folder, task)
    own = None if outline is None else gguf_type(outline.config)
    if own is not None and type in (None, own):
        _copy_file(folder / GGUF_FILE, target)
        return
    if outline is None or is_quantised(outline.config):
        raise ArtifactError(
            f"{model.location} holds {'quantised weights' if own is None else f'weights in {own}'};"
            " export the model that they were made from, in the type that you want (--type q8_0)"
        )
    check_gguf(outline)
    tokenizer = TextProcessor.load(folder).tokenizer
    weights = StoredWeights(folder, outline)
    write_gguf(target, outline, weights, tokenizer, type or "f16", name=name)


def _copy_file(file: Location, target: Path) -> None:
    with whole_file(target, file.size()) as partial:
        copy_to_disk(file, partial)


def _write_graph(model: BaseModel, target: Path, to: GraphFormat) -> None:
    from raymodel.serve.graph_export import write_graph

    task = find_task(model.artifact or model.location)
    check_folder(model.location, get_task(task)())
    with _whole_folder(target) as partial:
        write_graph(model.location, task, partial, to)


def _copy_folder(model: BaseModel, target: Path) -> None:
    """The files of a model that is whole, as they are."""
    check_folder(model.location, get_task(find_task(model.artifact or model.location))())
    folder = near(model.location)
    with _whole_folder(target) as partial:
        for entry in model.location.walk():  # beside its copy here may lie more than is read of it
            copy_to_disk(folder / entry.name, partial / entry.name)


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Where to write a folder that appears at the end of the block, or not at all.

    Raises:
        StorageError: the disk is full, or will not do.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
    try:
        yield partial
        partial.rename(folder)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written: {error.strerror or error}; free some space, or give a "
            "place on another disk"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
