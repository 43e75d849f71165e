"""What `preprocessor_config.json` says of audio: read with all that transformers takes for granted,
and refused where it is of a kind that is not followed exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from raymodel.spec.show import shorten

MAX_SECONDS = 30.0
"""Of a clip, where nothing says otherwise: what Whisper takes at a time, and more than a sentence
needs. A longer one fills the memory of a worker."""
OWN_KEY = "max_seconds"
"""The one thing that is ours in the file; transformers keeps and ignores it."""


class Kind(NamedTuple):
    """A feature extractor of transformers."""

    defaults: Mapping[str, Any]
    """Of what decides here; the rest is its own affair."""
    argument: str
    """Of the model's forward."""


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "Wav2Vec2FeatureExtractor": Kind(
            {"sampling_rate": 16_000, "return_attention_mask": False}, "input_values"
        ),
        "WhisperFeatureExtractor": Kind(
            {"sampling_rate": 16_000, "feature_size": 80, "hop_length": 160, "chunk_length": 30},
            "input_features",
        ),
        "ASTFeatureExtractor": Kind(
            {"sampling_rate": 16_000, "num_mel_bins": 128, "max_length": 1024}, "input_values"
        ),
    }
)
"""By `feature_extractor_type`. Samples with or without a mask; log-mel spectrograms of windows."""
_AST_FRAMES_PER_S = 100


def read_config(said: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """What the file says, with the defaults that decide; and the longest clip in seconds.

    Raises:
        ValueError: it is of another kind, or holds what cannot be.
    """
    name = said.get("feature_extractor_type")
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(
            f"feature_extractor_type is {shorten(repr(name))}; it must be one of "
            f"{', '.join(KINDS)}. Take a model with one of these"
        )
    whole = {**KINDS[name].defaults, **said}
    for key in set(KINDS[name].defaults) - {"return_attention_mask"}:
        if type(whole[key]) is not int or whole[key] < 1:
            raise _refused(key, whole[key], "it must be a whole number, at least 1")
    # Noise that is added whenever a clip is read would be chance beside the run's own.
    if whole.get("dither", 0.0) != 0.0:
        raise _refused("dither", whole["dither"], "it must be 0: features follow from the clip")
    window = window_of(whole)
    longest = whole.pop(OWN_KEY, window or MAX_SECONDS)
    if not isinstance(longest, int | float) or not math.isfinite(longest) or longest <= 0:
        raise _refused(OWN_KEY, longest, "it must be a number above 0")
    if window is not None and longest > window:
        raise _refused(OWN_KEY, longest, f"the model takes {window:g} s at a time")
    return whole, float(longest)


def window_of(said: Mapping[str, Any]) -> float | None:
    """Seconds that every clip is filled up to, where the kind has such a window."""
    name = said["feature_extractor_type"]
    if name == "WhisperFeatureExtractor":
        return float(said["chunk_length"])
    return said["max_length"] / _AST_FRAMES_PER_S if name == "ASTFeatureExtractor" else None


def fresh_config(features: str, max_seconds: float) -> dict[str, Any]:
    """Of a fresh model: samples with a mask, or windows of a spectrogram as AST takes them."""
    if features == "samples":
        return {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "sampling_rate": 16_000,
            "padding_value": 0.0,
            "do_normalize": True,
            "return_attention_mask": True,
        }
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        "feature_size": 1,
        "sampling_rate": 16_000,
        "num_mel_bins": 128,
        "max_length": math.ceil(max_seconds * _AST_FRAMES_PER_S),
        "padding_value": 0.0,
        "do_normalize": True,
        "mean": -4.2677393,  # of AudioSet, as transformers takes them
        "std": 4.5689974,
        "return_attention_mask": False,
    }


def _refused(key: str, value: object, rule: str) -> ValueError:
    return ValueError(f"{key} is {shorten(repr(value))}; {rule}; correct it")
