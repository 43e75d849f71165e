"""The model of a Hugging Face folder: one loader for what trains, evaluates and serves it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers

from raymodel.errors import ArtifactError, RaymodelError
from raymodel.model.bfloat16 import speed_up_bf16
from raymodel.model.build import BUILD_ERRORS, auto_class, first_line, outline_model
from raymodel.model.compressed_form import find_form, has_int8_layers, kept_layers
from raymodel.model.compressed_linear import find_stacked, put_compressed
from raymodel.model.gguf_file import GgufWeights, gguf_type
from raymodel.model.initial import InitialWeights
from raymodel.model.int8 import linear_layers, put_int8
from raymodel.model.materialise import materialise
from raymodel.model.own import OwnConfig, OwnModel, check_source, load_own_model
from raymodel.model.stored import StoredWeights
from raymodel.storage.local import local_folder
from raymodel.storage.uri import Location
from raymodel.tasks import get_task

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.tasks.base import Task
    from raymodel.tasks.spec import AnyTask

_LOCAL_ONLY = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}


def load_model(
    folder: str | Path, task: Task, *, dtype: torch.dtype | Literal["auto"] = "auto"
) -> PreTrainedModel:
    """The model of a local Hugging Face folder, on the CPU, to be used as it is.

    Nothing is downloaded, no code of the folder runs, and only safetensors are read.

    Args:
        folder: with the head that the task needs.
        task: what it is to do.
        dtype: of the weights; by default that of the folder.

    Raises:
        ArtifactError: no model folder, weights that are damaged or do not fit its configuration,
            or not fit for the task.
    """
    outline = check_folder(Location.parse(str(folder)), task)
    speed_up_bf16()
    if isinstance(outline, OwnModel):
        stored = StoredWeights(Location.parse(str(folder)), outline)
        return load_own_model(outline.config, task, stored, dtype)
    if outline is not None and is_quantised(outline.config):
        return _load_quantised(Location.parse(str(folder)), outline, dtype)
    try:
        model: PreTrainedModel = auto_class(task).from_pretrained(
            folder, dtype=dtype, **_LOCAL_ONLY
        )
    except BUILD_ERRORS as error:
        raise _cannot_load(folder, task, error) from error
    except ImportError as error:
        raise ArtifactError(
            f"{folder} holds quantised weights that are read with a package which is not installed "
            f"here: {first_line(error)}; install it, or give the model that they were made from"
        ) from error
    task.trim(model)
    model.train(False)
    return model


def _load_quantised(
    folder: Location, outline: PreTrainedModel, dtype: torch.dtype | Literal["auto"]
) -> PreTrainedModel:
    """As any model: numbers with scales are weights like others in the files, and those of a GGUF
    file are multiplied out."""
    stored = weights_of(folder, outline)
    wanted = stored.dtype if dtype == "auto" else dtype
    model = materialise(outline, InitialWeights(outline, 0, stored), wanted)
    model.config.dtype = wanted
    model.config.name_or_path = str(folder)  # as `from_pretrained` does
    model.train(False)
    return model


def load_for_use(
    folder: str | Path,
    task_name: str,
    *,
    spec: AnyTask | None = None,
    labels: Sequence[str] = (),
    processor: Location | None = None,
    dtype: torch.dtype | Literal["auto"] = "auto",
) -> tuple[PreTrainedModel, Task]:
    """`load_model`, and its task with the processor of the folder.

    Args:
        spec: what the job that made it says of the task; the defaults when None.
        labels: of the data that it is measured on, where that has some.
        processor: a folder with another one, such as that of the data.

    Raises:
        ArtifactError: like `load_model`; or the processor is missing, or is another model's.
    """
    kind = get_task(task_name)
    model = load_model(folder, kind(), dtype=dtype)
    task = kind(spec, labels=labels).reading_as(processor or Location.parse(str(folder)))
    fit(folder, model, task)
    return model, task.for_model(model.config)


def fit(folder: str | Path | Location, model: PreTrainedModel, task: Task) -> str | None:
    """Checks that a model takes what the processor of its task makes, and tells the model's
    configuration what it must know of that.

    Returns: what the user may not expect of that; None when there is nothing.

    Raises:
        ArtifactError: the processor is another model's, or lacks what the task needs.
    """
    try:
        task.processor.check_fits(model)
        return task.settle(model)
    except ValueError as error:
        raise ArtifactError(f"{folder}: {error}") from error


def open_model(folder: Location, task: Task) -> tuple[PreTrainedModel, StoredWeights]:
    """The model of a Hugging Face folder on the meta device, to be trained, and its weights.

    Neither a disk's nor a bucket's folder is read beyond the headers of its weights. A head that
    it lacks, or has for other classes than the task's, is missing from the weights: as many of
    them are no sign that they are the same.

    Raises:
        ArtifactError: no model folder, damaged weights, or not fit for the task.
    """
    model = _outline_of(folder, task)
    if model is None:
        raise ArtifactError(
            f"{folder} holds quantised weights, and training needs those that they were made "
            "from; start from that model"
        )
    stored = StoredWeights(folder, model)
    may_be_new = _head_of(model, task)
    if task.labels and _classes_of(folder) != task.labels:
        stored.leave_out(lambda key: may_be_new(key) and not _is_pooler(key))
    _check_weights(folder, model, stored, may_be_new=may_be_new)
    return model, stored


def check_folder(folder: Location, task: Task) -> PreTrainedModel | None:
    """Checks, by the headers of its weights, that a folder holds a whole model for a task.

    Returns: its outline on the meta device; None where its weights are quantised, in another way
        than those of `compressed_form.py` and `gguf_file.py`, which has names and shapes of its
        own.

    Raises:
        ArtifactError: no model folder, weights that are damaged, missing, of other shapes, or too
            many, or not fit for the task.
    """
    model = _outline_of(folder, task, may_be_quantised=True)
    if model is not None:
        _check_weights(folder, model, weights_of(folder, model), may_be_new=lambda key: False)
    return model


def is_quantised(config: PretrainedConfig) -> bool:
    """Whether a configuration says that weights are kept in fewer bits: such a model is used, and
    neither trained nor changed."""
    return getattr(config, "quantization_config", None) is not None


def weights_of(folder: Location, outline: PreTrainedModel) -> StoredWeights | GgufWeights:
    """The weights of a folder that was checked, whether in safetensors or in a GGUF file."""
    is_gguf = gguf_type(outline.config) is not None
    return GgufWeights(folder, outline) if is_gguf else StoredWeights(folder, outline)


def read_config(folder: Location, task: Task) -> PretrainedConfig:
    """The configuration of a folder, with the labels of the task where it has some.

    Raises:
        ArtifactError: no model folder, or one that the task cannot use.
    """
    with _config_of(folder, task) as (config, _):
        return config


def _outline_of(
    folder: Location, task: Task, *, may_be_quantised: bool = False
) -> PreTrainedModel | None:
    with _config_of(folder, task) as (config, local):
        said = getattr(config, "quantization_config", None)
        is_ours = find_form(said) is not None or gguf_type(config) is not None
        if is_quantised(config) and not (may_be_quantised and is_ours):
            return None
        model = outline_model(config, task)
        if not _put_numbers(model, task, said):
            return None
        if model.can_generate():
            model.generation_config = _generation_config(local)
    return model


def _put_numbers(model: PreTrainedModel, task: Task, said: Any) -> bool:
    """Gives an outline the linear layers that a `quantization_config` says it has; False for one
    of which not all that is in numbers is in linear layers."""
    form = find_form(said)
    if form is None:
        return True
    names = {*linear_layers(model)} - kept_layers(said)
    if has_int8_layers(form, task):
        put_int8(model, names)
    elif find_stacked(model):
        return False
    else:
        put_compressed(model, names, form, torch.float32)
    return True


@contextmanager
def _config_of(folder: Location, task: Task) -> Iterator[tuple[PretrainedConfig, Path]]:
    """The configuration, and the folder on this machine, without its weights."""
    if not (folder / "config.json").exists():
        raise ArtifactError(
            f"{folder} is not a model folder: it has no config.json; give a Hugging Face folder "
            "with config.json, model.safetensors and a tokenizer"
        )
    arguments = task.model_arguments()
    with local_folder(folder, without=".safetensors") as local:
        try:
            config = transformers.AutoConfig.from_pretrained(
                local, local_files_only=True, trust_remote_code=False, **arguments
            )
            config = task.takes_over(config)
            if isinstance(config, OwnConfig):
                check_source(folder, config)
            else:
                task.check_model(config)
            yield config, local
        except RaymodelError:
            raise
        except BUILD_ERRORS as error:
            raise _cannot_load(folder, task, error) from error


def _generation_config(folder: Path) -> transformers.GenerationConfig:
    """As `from_pretrained` finds it: of its own file, or of old fields of the configuration."""
    if (folder / "generation_config.json").is_file():
        return transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    return transformers.GenerationConfig.from_pretrained(
        folder, config_file_name="config.json", _from_model_config=True, local_files_only=True
    )


def _cannot_load(folder: str | Path | Location, task: Task, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{folder} cannot be loaded as {task.auto_class}: {first_line(error)} "
        "(its config.json must name an architecture for this task, and its weights must be "
        "complete safetensors)"
    )


def _head_of(model: PreTrainedModel, task: Task) -> Callable[[str], bool]:
    """Whether a weight belongs to the head that fine-tuning draws, or to the pooler before it.

    The head is what lies outside of the base model; where a model has none inside, all of it must
    be there.
    """
    base = model.base_model
    if not task.draws_head or base is model:
        return lambda key: False
    inside = next(name for name, module in model.named_modules() if module is base)
    return lambda key: not key.startswith(f"{inside}.") or _is_pooler(key)


def _is_pooler(key: str) -> bool:
    return ".pooler." in key


def _classes_of(folder: Location) -> tuple[str, ...]:
    """The names of the classes that a folder's model tells apart, in the order of their numbers."""
    named = (folder / "config.json").read_json().get("id2label") or {}
    return tuple(str(name) for _, name in sorted(named.items(), key=lambda each: int(each[0])))


def _check_weights(
    folder: Location,
    model: PreTrainedModel,
    stored: StoredWeights | GgufWeights,
    *,
    may_be_new: Callable[[str], bool],
) -> None:
    """Raises ArtifactError unless the folder holds the model's weights, those alone and in their
    shapes, but for what may be new."""
    kind = type(model).__name__
    wrong = {key: shapes for key, shapes in stored.misshapen.items() if not may_be_new(key)}
    if wrong:
        key, (seen, wanted) = next(iter(sorted(wrong.items())))
        raise ArtifactError(
            f"{folder} holds {len(wrong)} weights of other shapes than its config.json says: {key} "
            f"is {_shape(seen)}, and a {kind} of that configuration has {_shape(wanted)}; the two "
            "files belong to different models. Copy both from one"
        )
    missing = [key for key in stored.missing if not may_be_new(key)]
    if missing:
        raise ArtifactError(
            f"{folder} lacks {len(missing)} weights of a {kind} ({_examples(missing)}); "
            "the folder holds another kind of model: choose one that fits the task"
        )
    if stored.extra:
        raise ArtifactError(
            f"{folder} holds {len(stored.extra)} weights that a {kind} of its config.json has no "
            f"place for ({_examples(stored.extra)}), so it would compute something else than what "
            "was trained; copy config.json from where the weights come from"
        )


def _examples(keys: Iterable[str]) -> str:
    return ", ".join(sorted(keys)[:3])


def _shape(sizes: tuple[int, ...]) -> str:
    return " × ".join(str(size) for size in sizes) or "a single number"
