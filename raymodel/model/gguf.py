"""Models as one GGUF file, which llama.cpp, Ollama, LM Studio and OpenVINO GenAI read.

The weights are written one after the other, so that a model may be larger than memory; a file is
there whole or not at all.
Sources: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md for the fields; the names of the
tensors are those of the package `gguf`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from raymodel.errors import ArtifactError, StorageError
from raymodel.model.gguf_header import FAMILIES, stored_bytes
from raymodel.model.gguf_tokenizer import GgufTokenizer
from raymodel.model.initial import Weights
from raymodel.model.q4 import BLOCK, to_q4_1
from raymodel.tasks.boundaries import end_tokens

if TYPE_CHECKING:
    import gguf
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GgufType = Literal["f32", "f16", "q8_0", "q4_0", "q4_1"]
GGUF_TYPES: tuple[str, ...] = get_args(GgufType)

# llama.cpp turns neighbouring numbers of a head as a pair in a Llama, where transformers turns
# number i with number i + half; Qwen's are turned the same way by both.
_PAIRED = "llama"
_ROWS = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_SCALING = "llama3"  # of rotary positions: of Llama 3.1 and later
_ROPE_FACTORS = "rope_freqs.weight"  # by how much slower each pair of a head turns
# Four bits would cost most in embeddings and in the layer over the vocabulary: they have eight, as
# in llama.cpp's own mixtures.
_EIGHT_BITS_OF_FOUR = ("token_embd.weight", "output.weight")
_FOUR_BITS = ("q4_0", "q4_1")
_LARGEST_F16 = 65504.0


class GgufTensor(NamedTuple):
    """One tensor of the file."""

    name: str
    source: str
    """Its name in the model."""
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    heads: int
    """Whose rows are put into llama.cpp's order; 0 for none."""

    @property
    def bytes(self) -> int:
        return stored_bytes(self.type, self.shape)


def write_gguf(
    file: Path,
    model: PreTrainedModel,
    weights: Weights,
    tokenizer: PreTrainedTokenizerBase,
    type: GgufType = "f16",
    *,
    name: str = "",
    importance: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> None:
    """Writes a causal language model.

    Args:
        file: local; replaced when it exists.
        model: may be on the meta device: its configuration and the names and shapes of its weights.
        weights: gives each weight once, when it is written.
        type: of matrices; vectors stay fp32. In the quantised types matrices whose rows are no
            multiple of 32 numbers stay f16, and where four bits are asked for, embeddings and the
            layer over the vocabulary have eight.
        name: what readers show.
        importance: of q4_1: name of a weight in the model → (I,) the mean square of its inputs,
            by which its blocks are fitted; see `to_q4_1`.

    Raises:
        ArtifactError: GGUF, or this writer, has no place for the model or its tokenizer; or its
            weights do not fit into the type.
        StorageError: the file cannot be written; nothing of it is left.
    """
    import gguf

    check_gguf(model)
    rows = num_rows(model)
    said = GgufTokenizer(tokenizer, rows, end_tokens(model, tokenizer))
    tensors = list(tensors_of(model, type))
    with whole_file(file, sum(tensor.bytes for tensor in tensors)) as partial:
        writer = gguf.GGUFWriter(partial, model.config.model_type)
        try:
            if name:
                writer.add_name(name)
            _add_fields(writer, model.config, rows, type)
            said.add_to(writer)
            for tensor in tensors:
                writer.add_tensor_info(
                    tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, tensor.type
                )
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in tensors:
                made = _rope_factors(model.config) if is_computed(tensor) else None
                weight = weights.read(tensor.source) if made is None else made
                writer.write_tensor_data(_numbers(tensor, weight, importance.get(tensor.source)))
        finally:
            writer.close()


def check_gguf(model: PreTrainedModel) -> None:
    """Raises ArtifactError for a model that cannot be written; its tokenizer is not looked at."""
    config = model.config
    kind = config.model_type
    if kind not in FAMILIES or not type(model).__name__.endswith("ForCausalLM"):
        raise _unwritten(
            f"a {type(model).__name__} is not of a family that is written ({', '.join(FAMILIES)}, "
            "as language models)"
        )
    rope = config.rope_parameters or {}
    if (scaling := rope_scaling(model)) not in (None, _SCALING):
        raise _unwritten(f"its rotary positions are scaled ({scaling})")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _unwritten("only a part of each head is turned by its position")
    if config.hidden_act != "silu":
        raise _unwritten(f"its activation is {config.hidden_act}, where the family has silu")
    layers = getattr(config, "layer_types", None) or []
    if getattr(config, "use_sliding_window", False) or set(layers) - {"full_attention"}:
        raise _unwritten("not all of its layers attend to the whole context")
    biases = [name for name in model.state_dict() if name.endswith(".bias")]
    if biases and kind != "qwen2":
        raise _unwritten(f"it has biases ({biases[0]}), which a {kind} has not in GGUF")


def _add_fields(writer: gguf.GGUFWriter, config: Any, rows: int, type: GgufType) -> None:
    import gguf

    writer.add_type("model")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_rope_dimension_count(head_size(config))
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(rows)
    is_plain = type in ("f32", "f16")
    code = "ALL_F32" if type == "f32" else f"MOSTLY_{type.upper()}"
    writer.add_file_type(gguf.LlamaFileType[code])
    if not is_plain:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def rope_scaling(model: PreTrainedModel) -> str | None:
    """How the rotary positions of a long context are scaled; None where they are not."""
    kind = (model.config.rope_parameters or {}).get("rope_type", "default")
    return None if kind == "default" else str(kind)


def num_rows(model: PreTrainedModel) -> int:
    """Of the embedding; each is a token of the file."""
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def head_size(config: Any) -> int:
    """Numbers of one attention head."""
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def tensors_of(model: PreTrainedModel, type: GgufType) -> Iterator[GgufTensor]:
    """What is written, in the order of the modules; tied weights once."""
    import gguf

    config = model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for source, weight in model.state_dict().items():
        if source in model.all_tied_weights_keys:
            continue
        name = _name_in_gguf(source)
        shape = tuple(weight.shape)
        kind = "F32" if len(shape) == 1 else type.upper()
        if type in _FOUR_BITS and name in _EIGHT_BITS_OF_FOUR:
            kind = "Q8_0"
        if kind.startswith("Q") and shape[-1] % BLOCK:
            kind = "F16"
        part = name.split(".")[-2]
        paired = heads.get(part, 0) if config.model_type == _PAIRED else 0
        yield GgufTensor(name, source, shape, gguf.GGMLQuantizationType[kind], paired)
    if rope_scaling(model) == _SCALING:
        pairs = (head_size(config) // 2,)
        yield GgufTensor(_ROPE_FACTORS, _ROPE_FACTORS, pairs, gguf.GGMLQuantizationType.F32, 0)


def is_computed(tensor: GgufTensor) -> bool:
    """Whether it follows from the configuration, and is no weight of the model."""
    return tensor.name == _ROPE_FACTORS


def _rope_factors(config: Any) -> torch.Tensor:
    """(D/2,) the plain frequencies divided by the scaled ones."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS[_SCALING](config, torch.device("cpu"))
    size = head_size(config)
    places = torch.arange(0, size, 2, dtype=torch.float32) / size
    plain: torch.Tensor = config.rope_parameters["rope_theta"] ** -places
    return plain / scaled


def _name_in_gguf(source: str) -> str:
    if source == "lm_head.weight":
        return "output.weight"
    if (row := source.removeprefix("model.")) in _ROWS:
        return _ROWS[row]
    found = _LAYER.fullmatch(source)
    if found is None or found[2] not in _IN_LAYER:
        raise _unwritten(f"its weight {source} has no name there")
    return f"blk.{found[1]}.{_IN_LAYER[found[2]]}.{found[3]}"


def _numbers(
    tensor: GgufTensor, weight: torch.Tensor, importance: torch.Tensor | None
) -> np.ndarray[Any, Any]:
    """The weight in the order and type of the file."""
    import gguf

    assert tuple(weight.shape) == tensor.shape, (tensor, weight.shape)
    numbers = weight.detach().to("cpu", torch.float32).numpy()
    largest = float(np.abs(numbers).max(initial=0.0))
    is_f32 = tensor.type == gguf.GGMLQuantizationType.F32
    if not np.isfinite(largest) or (largest > _LARGEST_F16 and not is_f32):
        raise ArtifactError(
            f"the weight {tensor.source} holds {largest:g}, which {tensor.type.name} cannot hold; "
            "train a model whose weights are finite, or write it as a folder"
        )
    if tensor.heads:
        numbers = _paired(numbers, tensor.heads)
    numbers = np.ascontiguousarray(numbers)
    if tensor.type == gguf.GGMLQuantizationType.Q4_1:
        return to_q4_1(torch.from_numpy(numbers), importance)
    return numbers if is_f32 else gguf.quants.quantize(numbers, tensor.type)


def _paired(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """(heads * D, I): in each head row i and row i + D/2 become neighbours."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def unpaired(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """The way back: neighbours become row i and row i + D/2 of their head."""
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


@contextmanager
def whole_file(file: Path, num_bytes: int) -> Iterator[Path]:
    """Where to write a file that appears at the end of the block, or not at all.

    Args:
        num_bytes: about how large it will be.

    Raises:
        StorageError: the disk is full, or will not do.
    """
    partial = file.with_name(f".{file.name}.partial")
    try:
        free = shutil.disk_usage(file.parent).free
        if free < num_bytes:
            raise StorageError(_full(file, f"{num_bytes:,} bytes are needed and {free:,} are free"))
        yield partial
        partial.replace(file)
    except OSError as error:
        raise StorageError(_full(file, error.strerror or str(error))) from error
    finally:
        partial.unlink(missing_ok=True)


def _full(file: Path, why: str) -> str:
    return f"{file} cannot be written: {why}; free some space, or give a place on another disk"


def _unwritten(why: str) -> ArtifactError:
    return ArtifactError(
        f"the model cannot be written as GGUF: {why}. Export it as a folder instead (--to folder)"
    )
