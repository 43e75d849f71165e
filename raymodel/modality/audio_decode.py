"""From the bytes of an audio file to its samples, and back to a small file of one kind.

The files come from anyone: what they hold is looked at and not their names, sizes are bounded
before a sample is decoded, and whatever is wrong is an `AudioError` with one of a few reasons, by
which records are counted.

Shapes: N samples.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import soundfile

FORMATS = ("WAV", "FLAC", "OGG", "MP3")
MIN_RATE, MAX_RATE = 8_000, 384_000
"""Samples a second. Below, the consonants of speech are lost: a telephone has 8,000."""
MIN_SECONDS = 0.1
"""Shorter than any syllable; the first layers of speech models need a quarter of it."""
MAX_SAMPLES = 2**28
"""Of all channels: a GiB as fp32; more than three quarters of an hour of stereo at 48 kHz."""

EMPTY = "audio file without samples"
UNKNOWN = f"no audio of a format that is read ({', '.join(FORMATS)})"
BROKEN = "audio file is broken or cut short"
NOT_FINITE = "audio with samples that are no numbers"
TOO_LOW = f"audio of fewer than {MIN_RATE:,} or more than {MAX_RATE:,} samples a second"
TOO_SHORT = f"audio of less than {MIN_SECONDS:g} s"
TOO_LARGE = f"audio of more than {MAX_SAMPLES:,} samples"
MANY_CHANNELS = "audio of more than two channels"

Samples = NDArray[np.float32]
"""(N,), from -1 to 1."""
_CONTAINERS = {"WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "MPEG"}
_SIGNATURES = (b"RIFF", b"fLaC", b"OggS", b"ID3")
_STEPS = 2**15  # of 16 bits, either side of zero
_FRAME_S = 0.02  # in which loudness is taken; a pause between two words is several times as long
_QUIETEST_IN = 0.5  # share of a piece, at its end, in which it is cut: pieces are not too short


class Recording(NamedTuple):
    """What is in a file."""

    samples: NDArray[np.float32]
    """From -1 to 1, and beyond where a codec overshoots. (N, channels)"""
    rate: int
    """Samples a second of each channel."""


class AudioError(ValueError):
    """Audio that cannot be played to a model."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """The same words for all files of a kind."""


def decode_audio(data: bytes, rate: int) -> Samples:
    """The samples of a file of one or two channels, mixed down, at `rate` samples a second. (N,)

    Raises:
        AudioError: there is no such sound in `data`.
    """
    found = read_audio(data)
    return resampled(_mixed(found.samples), found.rate, rate)


def read_audio(data: bytes) -> Recording:
    """The samples of a file of one or two channels, as they are in it.

    Raises:
        AudioError: there is no such sound in `data`.
    """
    import soundfile

    if not data:
        raise AudioError(EMPTY)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_header(file)
            samples, rate, announced = _read(file), file.samplerate, file.frames
            is_estimate = file.format in ("MP3", "MPEG")
    except AudioError:
        raise
    # What the library says of a file that it does not know or cannot go on with.
    except (RuntimeError, ValueError, TypeError, OSError, AssertionError) as error:
        raise AudioError(BROKEN if data.startswith(_SIGNATURES) else UNKNOWN) from error
    if not len(samples):
        raise AudioError(EMPTY)
    if len(samples) < announced and not is_estimate:
        raise AudioError(BROKEN)
    if not np.isfinite(_mixed(samples)).all():
        raise AudioError(NOT_FINITE)
    if len(samples) < MIN_SECONDS * rate:
        raise AudioError(TOO_SHORT)
    return Recording(samples, rate)


def _mixed(samples: NDArray[np.float32]) -> Samples:
    """(N, channels) → (N,). One channel is what it is: a mean along an axis of 1 takes a third of
    the time that decoding does."""
    one: Samples = samples[:, 0]
    return one if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)


def clip_size(data: bytes) -> tuple[int, int]:
    """Samples of a file that was decoded before, as its header tells them, and its rate."""
    import soundfile

    found = soundfile.info(io.BytesIO(data))
    return int(found.frames), int(found.samplerate)


def resampled(samples: Samples, own_rate: float, rate: float) -> Samples:
    """The same sound with another number of samples a second."""
    if own_rate == rate:
        return samples
    import soxr

    made: Samples = soxr.resample(samples, own_rate, rate, quality="HQ")
    return made


def encode_audio(samples: Samples, rate: int) -> bytes:
    """FLAC of 16 bits, which decodes to the same samples as often as it is encoded."""
    import soundfile

    steps = np.clip(np.round(samples * _STEPS), -_STEPS, _STEPS - 1).astype(np.int16)
    stream = io.BytesIO()
    soundfile.write(stream, steps, rate, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def cut_at_silence(samples: Samples, rate: int, most_s: float) -> list[Samples]:
    """Pieces of at most `most_s` seconds, cut where it is quietest; all samples are in one."""
    pieces, most = [], int(most_s * rate)
    while len(samples) > most:
        end = _quietest(samples[:most], rate)
        pieces.append(samples[:end])
        samples = samples[end:]
    return [*pieces, samples]


def _quietest(samples: Samples, rate: int) -> int:
    """The middle of the quietest part of the second half of a piece."""
    frame = max(1, int(_FRAME_S * rate))
    first = int(len(samples) * (1 - _QUIETEST_IN))
    tail = samples[first : first + (len(samples) - first) // frame * frame]
    if not len(tail):
        return len(samples)
    power = np.square(tail, dtype=np.float64).reshape(-1, frame).mean(axis=1)
    # Over five frames, so that the moment in which a wave passes zero is no pause.
    smooth = np.convolve(np.pad(power, 2, mode="edge"), np.full(5, 0.2), mode="valid")
    return first + int(smooth.argmin()) * frame + frame // 2


def _check_header(file: soundfile.SoundFile) -> None:
    if file.format not in _CONTAINERS:
        raise AudioError(UNKNOWN)
    if file.channels > 2:
        raise AudioError(MANY_CHANNELS)
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        raise AudioError(TOO_LOW)


def _read(file: soundfile.SoundFile) -> Any:
    """(N, channels). What a header announces is not believed: no more is read than is allowed."""
    most = MAX_SAMPLES // file.channels
    blocks: list[Any] = []
    room = most
    while room >= 0:
        block = file.read(min(2**20, room + 1), dtype="float32", always_2d=True)
        if not len(block):
            if len(blocks) == 1:  # as of nearly all files: no copy
                return blocks[0]
            return np.concatenate(blocks) if blocks else np.empty((0, 1), np.float32)
        blocks.append(block)
        room -= len(block)
    raise AudioError(TOO_LARGE)
