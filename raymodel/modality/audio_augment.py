"""Sounds changed by chance. Every number comes from `Chance`: the same one, the same samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raymodel.chance import Chance
from raymodel.modality.audio_decode import Samples, resampled
from raymodel.modality.spec import AudioAugmentSpec

_SPEED_STEPS = 20
"""Speeds between the slowest and the fastest: whole numbers make short filters."""
_NUM_MASKS = 2  # along each side, as arXiv:1904.08779 does it for LibriSpeech


def changed(samples: Samples, spec: AudioAugmentSpec, chance: Chance) -> Samples:
    """The clip at another speed and with noise. (N,) → (about N,)"""
    if spec.speed:
        step = int(chance.integers(_SPEED_STEPS + 1, 1)[0]) - _SPEED_STEPS // 2
        speed = 1 + spec.speed * step / (_SPEED_STEPS / 2)
        samples = resampled(samples, round(1000 * speed), 1000)
    if spec.noise:
        loudness = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
        share = spec.noise * chance.number() * loudness
        samples = samples + (share * chance.normal(len(samples))).astype(np.float32)
    return samples


def masked(features: NDArray[np.float32], spec: AudioAugmentSpec, chance: Chance) -> None:
    """Hides stretches of time and, of a spectrogram, bands of frequency, in place
    (SpecAugment, arXiv:1904.08779). What is hidden becomes the mean.

    Args:
        features: of samples (N,), of a spectrogram (frames, bins).
    """
    mean = features.mean()
    for start, stop in _stretches(len(features), spec.time_mask, chance):
        features[start:stop] = mean
    if features.ndim == 2:
        for start, stop in _stretches(features.shape[1], spec.frequency_mask, chance):
            features[:, start:stop] = mean


def _stretches(length: int, most: float, chance: Chance) -> list[tuple[int, int]]:
    """Two, each up to half of the share `most` long."""
    found = []
    for _ in range(_NUM_MASKS if most else 0):
        wide = int(chance.number() * most / _NUM_MASKS * length)
        start = int(chance.number() * (length - wide + 1))
        found.append((start, start + wide))
    return found
