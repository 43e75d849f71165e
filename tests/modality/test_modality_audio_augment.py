"""Sounds changed by chance: within their bounds, and the same from the same."""

from __future__ import annotations

import numpy as np
import pytest

from raymodel.chance import Chance
from raymodel.modality.audio_augment import changed, masked
from raymodel.modality.spec import AudioAugmentSpec
from raymodel.testing.sounds import tones

SAMPLES = tones("abcdefgh")


@pytest.mark.parametrize("change", [{"speed": 0.1}, {"noise": 0.3}])
def test_the_same_chance_gives_the_same_samples_and_another_gives_others(change: dict) -> None:
    spec, before = AudioAugmentSpec(**change), SAMPLES.copy()
    found = [changed(SAMPLES, spec, Chance("test", turn)) for turn in range(8)]
    again = [changed(SAMPLES, spec, Chance("test", turn)) for turn in range(8)]
    assert [each.tobytes() for each in found] == [each.tobytes() for each in again]
    assert len({each.tobytes() for each in found}) > 4
    assert {each.dtype for each in found} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(SAMPLES, before)


def test_speed_and_noise_stay_within_their_bounds() -> None:
    for turn in range(20):
        faster = changed(SAMPLES, AudioAugmentSpec(speed=0.2), Chance("speed", turn))
        assert len(SAMPLES) / 1.2 - 2 <= len(faster) <= len(SAMPLES) / 0.8 + 2
        noisy = changed(SAMPLES, AudioAugmentSpec(noise=0.5), Chance("noise", turn))
        added = noisy - SAMPLES
        assert added.std() <= 0.55 * np.sqrt(np.mean(SAMPLES**2))


def test_masks_hide_no_more_than_the_share_and_nothing_of_the_rest() -> None:
    spec, shares = AudioAugmentSpec(time_mask=0.4, frequency_mask=0.3), []
    before = np.random.default_rng(0).standard_normal((100, 40)).astype(np.float32)
    for turn in range(30):
        features = before.copy()
        masked(features, spec, Chance("mask", turn))
        hidden = features != before
        rows, bins = hidden.all(axis=1), hidden.all(axis=0)
        assert rows.mean() <= 0.4
        assert bins.mean() <= 0.3
        assert not hidden[~rows][:, ~bins].any()
        shares.append(hidden.mean())
    assert len(set(shares)) > 10
    samples = SAMPLES.copy()
    masked(samples, AudioAugmentSpec(time_mask=0.4, frequency_mask=0.3), Chance("mask", 1))
    assert 0 < (samples != SAMPLES).mean() <= 0.4


def test_nothing_is_changed_by_default() -> None:
    assert changed(SAMPLES, AudioAugmentSpec(), Chance("test", 1)) is SAMPLES
    samples = SAMPLES.copy()
    masked(samples, AudioAugmentSpec(), Chance("test", 1))
    np.testing.assert_array_equal(samples, SAMPLES)
