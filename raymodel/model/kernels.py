"""What this machine and these libraries compute fast, and what they do not: told as slow paths."""

from __future__ import annotations

from typing import Any

import torch
from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS

from raymodel.modality.base import Processor
from raymodel.model import bfloat16
from raymodel.observe.slow_paths import take_slow_path


def has_fast_bf16(device: str) -> bool:
    """Whether bf16 is computed by the device itself; emulated it is slower than fp32.

    Args:
        device: its type, `cuda` or `cpu`.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bfloat16.has_fast_bf16()


def find_device(wants_gpu: bool) -> str:
    """`cuda` where there is one, else `cpu`, which is a slow path where a GPU was asked for."""
    if torch.cuda.is_available():
        return "cuda"
    if wants_gpu:
        take_slow_path(
            "computes on the CPU",
            f"a GPU was asked for, and torch {torch.__version__} finds none; compare the driver's "
            "CUDA with torch's, or set cluster.gpus_per_worker to 0",
            inherent=True,
        )
    return "cpu"


def note_attention(model: Any) -> None:
    """Says when a model that has attention computes it as plain matrices, unasked.

    transformers takes torch's fused kernel for architectures that can have it: Gemma 2, which
    bounds its scores, cannot. A module that is not of transformers is not looked into.
    """
    if not hasattr(model, "config"):
        return
    config = model.config.get_text_config()
    if getattr(config, "num_attention_heads", None) and config._attn_implementation == "eager":
        take_slow_path(
            "computes attention as plain matrices",
            f"transformers has no fused attention for a {type(model).__name__}",
            inherent=not model._supports_sdpa,
        )


def note_processor(processor: Processor) -> None:
    """Says when texts are cut into tokens by Python."""
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is not None and not tokenizer.is_fast:
        name = type(tokenizer).__name__
        has_fast = name in SLOW_TO_FAST_CONVERTERS
        # That of CTC has none: its tokens are letters.
        why = "tokenizer.json; save it again with a fast one" if has_fast else "fast form"
        take_slow_path(
            "cuts texts into tokens in Python", f"{name} has no {why}", inherent=not has_fast
        )


def note_compilation() -> None:
    """Says, after the first steps of a model that was to be compiled, when no graph came of it."""
    from torch._dynamo.utils import counters

    if not counters["stats"]["unique_graphs"]:
        take_slow_path("is not compiled", "torch.compile has made no graph of the model")
