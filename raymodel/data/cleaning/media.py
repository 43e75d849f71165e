"""The images and sounds of one record on their way through the steps: each is decoded once, when
the first step looks at it, for all that do."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from raymodel.data.cleaning.loudness import loudness
from raymodel.data.dedup.looks import find_look
from raymodel.tasks.template import RecordError

if TYPE_CHECKING:
    from PIL.Image import Image

    from raymodel.modality.audio_decode import Recording

CLIPPED = 10 ** (-0.1 / 20)
"""0.1 dB below full scale, which the largest number of 8 bits is above, and what was cut off before
it went through MP3 or Vorbis as a rule."""
CLIPPED_RUN = 3
"""Samples in a row that are there: a single one is the top of a wave that just fits."""
FRAME_S = 0.02
"""Of a frame whose loudness is taken, as in `audio_decode.py`."""
_BLOCK_SAMPLES = 2**18  # that are fp64 at a time
_STEPS = 2**15  # of 16 bits, either side of zero


class Picture:
    """An image file.

    Args:
        channels: in which it is decoded: 1 where all that looks at it wants grey, else 3.
    """

    def __init__(self, data: bytes, channels: int = 1) -> None:
        self._data, self._channels = data, channels

    @cached_property
    def _decoded(self) -> Image:
        """Raises RecordError: it cannot be decoded, for the reason that it would have as an
        example."""
        from raymodel.modality.image_decode import ImageError, decode_image

        try:
            return decode_image(self._data, self._channels)
        except ImageError as error:
            raise RecordError(error.reason, error.reason) from error

    @cached_property
    def grey(self) -> Image:
        """Its pixels, upright, in mode `L`. Raises RecordError: it cannot be decoded."""
        return self._decoded if self._channels == 1 else self._decoded.convert("L")

    @property
    def content(self) -> bytes:
        """What tells it from every other image, whatever file it is in."""
        image = self._decoded
        digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
        digest.update(image.tobytes())
        return digest.digest()

    @property
    def look(self) -> int | None:
        """See `find_look`."""
        return find_look(self.grey)

    def sharpness(self, longest_edge: int) -> float:
        """The variance of the Laplacian of its grey values, scaled down to so many pixels of the
        longer side; 0 of an image without a pixel that has neighbours on all sides."""
        from PIL.Image import Resampling

        image = self.grey
        if max(image.size) > longest_edge:
            scale = longest_edge / max(image.size)
            width, height = (max(1, round(scale * side)) for side in image.size)
            image = image.resize((width, height), Resampling.LANCZOS)
        return _laplacian_variance(np.asarray(image, dtype=np.int64))


def _laplacian_variance(grey: Any) -> float:
    """In whole numbers up to the end, so that every machine finds the same. grey: (H, W) int64"""
    if min(grey.shape) < 3:
        return 0.0
    found = -4 * grey[1:-1, 1:-1]
    found += grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    count, total, squares = found.size, int(found.sum()), int(np.square(found).sum())
    return float((count * squares - total * total) / count**2)


class Sound:
    """A sound file."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @cached_property
    def recording(self) -> Recording:
        """Its samples as they are in the file.

        Raises:
            RecordError: it cannot be decoded, for the reason that it would have as an example.
        """
        from raymodel.modality.audio_decode import AudioError, read_audio

        try:
            return read_audio(self._data)
        except AudioError as error:
            raise RecordError(error.reason, error.reason) from error

    @property
    def content(self) -> bytes:
        """What tells it from every other sound, whatever file it is in."""
        samples, rate = self.recording
        digest = hashlib.blake2b(f"{rate} {samples.shape[1]}".encode(), digest_size=16)
        for start in range(0, len(samples), _BLOCK_SAMPLES):
            steps = np.round(samples[start : start + _BLOCK_SAMPLES] * _STEPS)
            digest.update(np.clip(steps, -_STEPS, _STEPS - 1).astype("<i2").tobytes())
        return digest.digest()

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.recording.samples) / self.recording.rate

    @cached_property
    def lufs(self) -> float:
        """Its loudness; of silence minus infinity. See `loudness.py`."""
        return loudness(*self.recording, _BLOCK_SAMPLES)

    def silent_share(self, below_dbfs: float) -> float:
        """The share of its frames whose RMS over all channels is below so many dB of full scale."""
        return float((self._powers < 10 ** (below_dbfs / 10)).mean())

    @cached_property
    def _powers(self) -> Any:
        """The mean square of each frame over all channels. (frames,) fp64"""
        samples, rate = self.recording
        frame = max(1, round(FRAME_S * rate))
        block, found = frame * max(1, _BLOCK_SAMPLES // frame), list[Any]()
        for start in range(0, len(samples), block):
            squares = np.square(samples[start : start + block], dtype=np.float64).mean(axis=1)
            starts = np.arange(0, len(squares), frame)
            found.append(np.add.reduceat(squares, starts) / np.diff([*starts, len(squares)]))
        return np.concatenate(found)

    @cached_property
    def clipped_share(self) -> float:
        """The share of its samples that are cut off at full scale."""
        samples = self.recording.samples
        clipped = sum(_num_in_runs(samples[:, channel]) for channel in range(samples.shape[1]))
        return clipped / samples.size


def _num_in_runs(samples: Any) -> int:
    """Samples of one channel at full scale, in runs of `CLIPPED_RUN` or more. (N,)"""
    is_full = (samples >= CLIPPED) | (samples <= -CLIPPED)
    if len(is_full) < CLIPPED_RUN or not is_full.any():
        return 0
    edges = np.flatnonzero(np.diff(np.concatenate(([0], is_full.view(np.int8), [0]))))
    lengths = edges[1::2] - edges[::2]
    return int(lengths[lengths >= CLIPPED_RUN].sum())
