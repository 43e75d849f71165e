"""Images and sounds a second, decoded on the way to a batch, beside the plain loop of the library.

Ours looks at what a file holds before it decodes it, bounds it, and tells each way in which it may
be broken; the loop does none of this. `decoded` is a file as its pixels, or its samples; `batch` is
what a model is given, with one thread: of images 224 × 224, normalised, by `ImageProcessor`. Both
take turns, so that what else runs on the machine meets both; medians are told, and the ratio of
rates that is asked for: 0.9 or more. Sounds are of one channel at their own rate, as in a dataset.

`python benchmarks/decode_vs_plain.py [--files N] [--turns N]`
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from raymodel.modality.audio_decode import decode_audio, encode_audio
from raymodel.modality.image import ImageProcessor
from raymodel.modality.image_decode import as_array, decode_image

ASKED = 0.9
SIZE, MEAN, STD = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RATE, SECONDS = 16_000, 4.0
PROCESSOR = ImageProcessor(size=(SIZE, SIZE), channels=3, mean=MEAN, std=STD)


def images(files: int, format: str) -> list[bytes]:
    """Smooth shapes with some grain, of 500 × 375."""
    numbers, made = np.random.default_rng(0), []
    for _ in range(files):
        coarse = numbers.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC))
        pixels = np.clip(smooth + numbers.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format)
        made.append(stream.getvalue())
    return made


def sounds(files: int, format: str) -> list[bytes]:
    """Noise below a few tones, of one channel."""
    numbers, made = np.random.default_rng(0), []
    seconds = np.arange(round(RATE * SECONDS)) / RATE
    for _ in range(files):
        tones = sum(np.sin(2 * np.pi * hertz * seconds) for hertz in numbers.integers(100, 4000, 4))
        samples = (0.1 * tones + 0.02 * numbers.standard_normal(len(seconds))).astype(np.float32)
        if format == "FLAC":
            made.append(encode_audio(samples, RATE))
        else:
            stream = io.BytesIO()
            soundfile.write(stream, samples, RATE, format=format)
            made.append(stream.getvalue())
    return made


def plain_image(data: bytes) -> Any:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def plain_images(datas: Sequence[bytes]) -> Any:
    mean, std = (np.asarray(values, np.float32) for values in (MEAN, STD))
    rows = []
    for data in datas:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        rows.append(((np.asarray(image, np.float32) / 255 - mean) / std).transpose(2, 0, 1))
    return np.stack(rows)


def plain_sound(data: bytes) -> Any:
    return soundfile.read(io.BytesIO(data), dtype="float32")[0]


def each(one: Callable[[bytes], Any]) -> Callable[[Sequence[bytes]], Any]:
    return lambda datas: [one(data) for data in datas]


Way = Callable[[Sequence[bytes]], Any]


def compared(datas: Sequence[bytes], ours: Way, plain: Way, turns: int) -> tuple[float, float]:
    """Files a second of both, once they were seen to make the same."""
    for one, other in zip(ours(datas[:4]), plain(datas[:4]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    took = dict[Way, list[float]]((way, []) for way in (ours, plain))
    for turn in range(turns):
        for way in (ours, plain) if turn % 2 else (plain, ours):
            before = time.perf_counter()
            way(datas)
            took[way].append(time.perf_counter() - before)
    return tuple(len(datas) / statistics.median(took[way]) for way in (ours, plain))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--files", type=int, default=128)
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    decoded = (each(lambda data: as_array(decode_image(data, 3))), each(plain_image))
    batch = (lambda datas: PROCESSOR.pixels_of(datas, threads=1), plain_images)
    heard = (each(lambda data: decode_audio(data, RATE)), each(plain_sound))
    cases = {
        "JPEG decoded": (images(arguments.files, "JPEG"), decoded),
        "PNG decoded": (images(arguments.files, "PNG"), decoded),
        "JPEG batch": (images(arguments.files, "JPEG"), batch),
        "WAV decoded": (sounds(arguments.files, "WAV"), heard),
        "FLAC decoded": (sounds(arguments.files, "FLAC"), heard),
        "Ogg decoded": (sounds(arguments.files, "OGG"), heard),
    }
    print(f"{'':14}{'ours/s':>10}{'plain/s':>10}{'ratio':>8}")
    for name, (datas, (ours, plain)) in cases.items():
        own, other = compared(datas, ours, plain, arguments.turns)
        verdict = "" if own / other >= ASKED else f"  (below {ASKED:g})"
        print(f"{name:14}{own:10,.0f}{other:10,.0f}{own / other:8.2f}{verdict}", flush=True)


if __name__ == "__main__":
    main()
