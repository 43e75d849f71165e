"""Whether the memory holds a model, said from the headers of its files before it is read."""

from __future__ import annotations

from dataclasses import dataclass

from raymodel.errors import ClusterError
from raymodel.model.stored_numbers import NUMBER_BYTES, StoredNumbers
from raymodel.observe.text import gib_text
from raymodel.serve.spec import EngineName, EngineWeights
from raymodel.tasks import get_task

# What OpenVINO's process takes by the bytes of the file that it reads, while it loads and answers
# its first prompts: the file's numbers, those in the order and type that it multiplies, and a part
# of them once more. Measured with SmolLM2-135M: f16 3.5 in bf16 and 4.8 in fp32, q8_0 and q4_1 3.4
# to 3.7 in both. (2026.4)
_BY_FILE, _BY_FILE_WIDENED = 3.7, 4.8
# q8_0 has a scale of two bytes for 32 numbers of one.
_FILE_BYTES = {"f16": 2.0, "q8_0": 34 / 32}
COMPILED_COPIES = 3.5
"""Of the weights in fp32, while a model that is called once is compiled and compared: those of the
reference, in bf16, and twice of OpenVINO."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a model takes until it answers."""

    host_bytes: int
    device_bytes: int
    """Of a GPU; 0 without one."""
    parts: str
    """What it is made of, in words."""


def find_need(
    stored: StoredNumbers,
    task_name: str,
    *,
    device: str,
    dtype: str,
    engine: EngineName = "auto",
    weights: EngineWeights = "f16",
) -> Need:
    """What a model takes that is served in this way.

    Torch loads every model: it answers, or says in a trial what is right. `auto` goes on with it
    where the memory holds nothing beside it.

    Args:
        stored: of its folder.
        device: `cpu` or `cuda`.
        dtype: what it is served in.
        engine: what `serve.engine` says.
        weights: what `serve.weights` says.
    """
    held, loading = stored.held_bytes(dtype), stored.loading_bytes(dtype)
    told = f"{gib_text(loading)} in {dtype} while it is loaded"
    if device != "cpu":
        # Loaded first, then moved.
        return Need(
            host_bytes=stored.loading_bytes(stored.dtype),
            device_bytes=held,
            parts=f"{gib_text(held)} in {dtype}",
        )
    if engine != "openvino":
        return Need(host_bytes=loading, device_bytes=0, parts=told)
    beside = (
        openvino_bytes(
            stored.fractions,
            dtype,
            weights,
            gguf_bytes=stored.file_bytes if stored.is_gguf else None,
        )
        if get_task(task_name).answers == "stream"
        else int(COMPILED_COPIES * NUMBER_BYTES["float32"] * stored.fractions)
    )
    return Need(
        host_bytes=max(loading, held + beside),
        device_bytes=0,
        parts=f"{told}, {gib_text(held)} then, and {gib_text(beside)} for OpenVINO beside it",
    )


def with_draft(need: Need, held_bytes: int, draft: Need) -> Need:
    """What a model takes with a draft, which is loaded after it.

    Args:
        held_bytes: what the model goes on taking of the machine's memory.
        draft: what the draft takes.
    """
    return Need(
        host_bytes=max(need.host_bytes, held_bytes + draft.host_bytes),
        device_bytes=need.device_bytes + draft.device_bytes,
        parts=f"{need.parts}, and for its draft {draft.parts}",
    )


def openvino_bytes(
    numbers: int, dtype: str, weights: EngineWeights, *, gguf_bytes: int | None = None
) -> int:
    """What OpenVINO's process takes of a model that writes, without keys and values.

    Args:
        numbers: of the model.
        dtype: what they are multiplied in.
        weights: what they are written in for it.
        gguf_bytes: of its own file, where it has one.
    """
    if gguf_bytes is not None:
        return int(_BY_FILE * gguf_bytes)
    is_widened = weights == "f16" and dtype == "float32"
    copies = _BY_FILE_WIDENED if is_widened else _BY_FILE
    return int(copies * _FILE_BYTES[weights] * numbers)


def check_room(
    need: Need, stored: StoredNumbers, *, left_bytes: int, device_left_bytes: int = 0
) -> None:
    """Raises ClusterError for a model that the memory cannot hold.

    Args:
        left_bytes: of the machine, beside all that runs.
        device_left_bytes: of the GPU.
    """
    for wanted, left, where in (
        (need.host_bytes, left_bytes, "memory"),
        (need.device_bytes, device_left_bytes, "the GPU's memory"),
    ):
        if wanted > left:
            raise ClusterError(
                f"the model does not fit into {where}: of {gib_text(stored.file_bytes)} in its "
                f"files come {need.parts}, and beside all that runs {gib_text(left)} are left; "
                "free some, serve a smaller model, or change serve.dtype or serve.engine"
            )
