"""What OpenVINO is told of a CPU: for the engine that serves, and for what measures its models."""

from __future__ import annotations

import importlib.util
import platform
from typing import Any

import torch

from raymodel.observe.slow_paths import take_slow_path

LIBRARY = "openvino_genai"
X86 = ("x86_64", "AMD64")
_HINTS = {"bfloat16": "bf16", "float32": "f32"}


def is_at_home() -> bool:
    """Whether it is installed, on a processor on which it was tried."""
    return platform.machine() in X86 and importlib.util.find_spec(LIBRARY) is not None


def find_precision(dtype: torch.dtype) -> str:
    """What it computes a model of this format in. bf16 on one thread ends the process (SIGFPE,
    OpenVINO 2026.4)."""
    if dtype != torch.bfloat16:
        return "float32"
    if torch.get_num_threads() > 1:
        return "bfloat16"
    why = "OpenVINO cannot compute bfloat16 on one thread; give the replica two"
    take_slow_path("computes in float32", why, inherent=True)
    return "float32"


def cpu_properties(precision: str) -> dict[str, Any]:
    """Of its CPU device, with as many threads as torch has."""
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "KV_CACHE_PRECISION": _HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
