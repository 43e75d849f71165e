"""Loudness is what the standard says of its test signals: ITU-R BS.1770-5, and EBU Tech 3341 for
programmes that are loud and quiet in turns."""

from typing import Any

import numpy as np
import pytest
from scipy.signal import sosfreqz

from raymodel.data.cleaning.loudness import k_weighting, loudness

RATES = [8_000, 11_025, 16_000, 44_100, 48_000, 96_000]
BLOCK = 2**18


def tone(level_db: float, seconds: float, rate: int, hertz: float = 1_000.0) -> Any:
    """A sine, by its peak in dB of full scale. (N,)"""
    turns = 2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate
    return 10 ** (level_db / 20) * np.sin(turns)


def lufs(samples: Any, rate: int, *, channels: int = 1) -> float:
    both = np.stack([samples] * channels, axis=1).astype(np.float32)
    return loudness(both, rate, BLOCK)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("level", [0.0, -20.0])
def test_the_standards_tone_has_three_less_than_its_peak(rate: int, level: float) -> None:
    found = lufs(tone(level, 2, rate, hertz=997.0), rate)
    within = 0.21 if rate == 8_000 else 0.11 if rate == 11_025 else 0.05
    assert found == pytest.approx(level - 3.01, abs=within)
    if rate == 48_000:
        assert found == pytest.approx(level - 3.01, abs=0.005)


def test_the_energy_of_channels_adds_up() -> None:
    samples = tone(-23, 2, 48_000)
    assert lufs(samples, 48_000, channels=2) == pytest.approx(-23.0, abs=0.02)
    silent = np.zeros_like(samples)
    one = np.stack([silent, samples], axis=1)
    assert loudness(one, 48_000, BLOCK) == pytest.approx(lufs(samples, 48_000))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(-36, 10), (-23, 60), (-36, 10)], -23.0),
        ([(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)], -23.0),
        ([(-26, 20), (-20, 20.1), (-26, 20)], -23.0),
    ],
    ids=["case 3", "case 4", "case 5"],
)
def test_pauses_and_quiet_passages_do_not_count(parts: Any, expected: float) -> None:
    rate = 16_000
    programme = np.concatenate([tone(level, seconds, rate) for level, seconds in parts])
    # The EBU allows a tenth; the tone lies 0.05 off at this rate, see above.
    assert lufs(programme, rate, channels=2) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("rate", RATES)
def test_the_weighting_is_the_same_at_every_rate(rate: int) -> None:
    hertz = np.geomspace(30, min(0.95 * rate / 2, 20_000), 200)
    own, tables = (
        20 * np.log10(np.abs(sosfreqz(k_weighting(each), worN=hertz, fs=each)[1]))
        for each in (rate, 48_000)
    )
    within = 0.3 if rate < 11_025 else 0.15 if rate < 16_000 else 0.1
    assert np.abs(own - tables).max() < within


def test_the_tables_of_the_standard_stay_what_they_are_at_their_rate() -> None:
    shelf = [1.53512485958697, -2.69169618940638, 1.19839281085285]
    assert k_weighting(48_000) == pytest.approx(
        np.array(
            [
                [*shelf, 1.0, -1.69065929318241, 0.73248077421585],
                [1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621],
            ]
        ),
        abs=1e-12,
    )


@pytest.mark.parametrize("rate", [11_025, 16_000])
def test_parts_of_any_size_give_the_same(rate: int) -> None:
    noise = np.random.default_rng(0).standard_normal((3 * rate + 17, 2)) * 0.1
    whole = loudness(noise, rate, BLOCK)
    for block in (1, 777, 5_000):
        assert loudness(noise, rate, block) == pytest.approx(whole, rel=1e-12)


def test_a_clip_that_is_shorter_than_a_block_is_one() -> None:
    assert lufs(tone(-20, 0.1, 48_000), 48_000) == pytest.approx(-23.0, abs=0.15)
    assert lufs(tone(-20, 0.399, 48_000), 48_000) == pytest.approx(-23.0, abs=0.1)


@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_silence_has_no_loudness(seconds: float) -> None:
    assert lufs(np.zeros(round(seconds * 16_000)), 16_000) == -np.inf
    assert lufs(tone(-80, seconds, 16_000), 16_000) == -np.inf
