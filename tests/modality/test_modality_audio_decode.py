"""Sounds from files: every format gives the same, damage has a reason, pauses are where to cut."""

from __future__ import annotations

import numpy as np
import pytest

from raymodel.modality import audio_decode
from raymodel.modality.audio_decode import (
    AudioError,
    cut_at_silence,
    decode_audio,
    encode_audio,
    resampled,
)
from raymodel.testing.sounds import RATE, encoded, tones

SAMPLES = tones("abc")
FORMATS = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"),
           ("OGG", "OPUS"), ("MP3", None)]  # fmt: skip


def reason_of(data: bytes) -> str:
    with pytest.raises(AudioError) as found:
        decode_audio(data, RATE)
    return found.value.reason


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
def test_every_format_is_the_same_sound(format: str, subtype: str | None) -> None:
    found = decode_audio(encoded(SAMPLES, RATE, format, subtype), RATE)
    assert found.dtype == np.float32
    assert abs(len(found) - len(SAMPLES)) < 0.1 * RATE, "MP3 fills up its frames"
    # By the strongest frequency of each tone, where the codec has not moved it.
    for start in (0, 4800):
        spectra = [np.abs(np.fft.rfft(each[start : start + 2400])) for each in (SAMPLES, found)]
        assert abs(int(spectra[0].argmax()) - int(spectra[1].argmax())) <= 1


def test_what_is_stored_decodes_to_itself_as_often_as_it_is_encoded() -> None:
    once = decode_audio(encode_audio(SAMPLES, RATE), RATE)
    assert np.abs(once - SAMPLES).max() <= 0.5 / 2**15
    assert encode_audio(once, RATE) == encode_audio(SAMPLES, RATE)
    loud = decode_audio(encode_audio(3 * np.sign(SAMPLES), RATE), RATE)
    assert loud.min() == -1, "clipped, and not turned over"
    assert loud.max() == 1 - 2**-15


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_rates_become_that_of_the_model(rate: int) -> None:
    found = decode_audio(encoded(tones("ab", rate=rate), rate), RATE)
    assert abs(len(found) - 2 * 0.15 * RATE) <= 2
    peak = np.abs(np.fft.rfft(found[:2000])).argmax() * RATE / 2000
    assert abs(peak - 260) <= RATE / 2000, "the tone of `a`"


def test_two_channels_are_mixed_down() -> None:
    left = np.stack([SAMPLES, np.zeros_like(SAMPLES)], axis=1)
    np.testing.assert_allclose(decode_audio(encoded(left), RATE), SAMPLES / 2, atol=1 / 2**15)


WHOLE = encoded(SAMPLES, format="FLAC")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", audio_decode.EMPTY),
        (encoded(SAMPLES[:0]), audio_decode.EMPTY),
        (b"a text, and no sound at all" * 9, audio_decode.UNKNOWN),
        (encoded(SAMPLES, format="AIFF"), audio_decode.UNKNOWN),
        (WHOLE[: len(WHOLE) // 2], audio_decode.BROKEN),
        (WHOLE[:60], audio_decode.BROKEN),
        (b"OggS" + bytes(200), audio_decode.BROKEN),
        (encoded(np.full(9000, np.nan, np.float32), subtype="FLOAT"), audio_decode.NOT_FINITE),
        (encoded(SAMPLES, 5_000), audio_decode.TOO_LOW),
        (encoded(np.zeros((9000, 6), np.float32)), audio_decode.MANY_CHANNELS),
        (encoded(SAMPLES[:1500]), audio_decode.TOO_SHORT),
    ],
)
def test_what_cannot_be_played_to_a_model_has_a_reason(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


def test_no_more_is_read_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_decode, "MAX_SAMPLES", len(SAMPLES) - 1)
    assert reason_of(encoded(SAMPLES)) == audio_decode.TOO_LARGE


def test_a_long_clip_is_cut_in_its_pauses_and_nothing_is_lost() -> None:
    samples = tones("aaaa bbbb cccc")
    pieces = cut_at_silence(samples, RATE, 0.9)
    np.testing.assert_array_equal(np.concatenate(pieces), samples)
    assert len(pieces) == 3
    for piece in pieces:
        assert len(piece) <= 0.9 * RATE
    first, second = 4 * 2400, 9 * 2400
    assert first <= len(pieces[0]) <= first + 2400, "in the pause"
    assert second <= len(pieces[0]) + len(pieces[1]) <= second + 2400
    assert len(cut_at_silence(samples, RATE, 60)) == 1


def test_a_rate_that_is_right_already_changes_nothing() -> None:
    assert resampled(SAMPLES, RATE, RATE) is SAMPLES
