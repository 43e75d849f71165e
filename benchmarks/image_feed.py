"""Images a second: `ImageProcessor.pixels_of` with threads, beside a plain torch `DataLoader`.

Both decode the same JPEGs of 500 × 375 (made here), cut out a random part, scale it to 224 × 224,
mirror, change colours and normalise. The loader's data set does it by Pillow and numpy, as one
would write it by hand, in as many worker processes as we have threads (one: in this process, which
saves it the way through shared memory). The two take turns, so that what else runs on the machine
meets both; medians of five turns are told.

`python benchmarks/image_feed.py`
"""

from __future__ import annotations

import io
import os
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch.utils.data import DataLoader, Dataset

from raymodel.chance import Draw
from raymodel.modality.image import ImageProcessor
from raymodel.modality.spec import AugmentSpec

IMAGES, BATCH, TURNS = 512, 64, 5
SIZE, MEAN, STD = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALLEST, COLOR = 0.35, 0.4
PROCESSOR = ImageProcessor(size=(SIZE, SIZE), channels=3, mean=MEAN, std=STD)
AUGMENT = AugmentSpec(crop=SMALLEST, flip=True, color=COLOR)


class Plain(Dataset[torch.Tensor]):
    """As one would write it by hand."""

    def __init__(self, datas: list[bytes]) -> None:
        self.datas = datas
        self.mean, self.std = (np.asarray(values, np.float32) for values in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.datas)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(io.BytesIO(self.datas[index])).convert("RGB")
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, part_of(*image.size))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = kind(image).enhance(random.uniform(1 - COLOR, 1 + COLOR))
        pixels = (np.asarray(image, np.float32) / 255 - self.mean) / self.std
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def part_of(width: int, height: int) -> tuple[int, int, int, int]:
    while True:
        area = random.uniform(SMALLEST, 1.0) * width * height
        ratio = (4 / 3) ** random.uniform(-1, 1)
        wide, high = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if wide <= width and high <= height:
            left, top = random.randint(0, width - wide), random.randint(0, height - high)
            return left, top, left + wide, top + high


def photographs() -> list[bytes]:
    """Smooth shapes with some grain: 40 to 60 KB each, as photographs of that size have."""
    numbers, made = np.random.default_rng(0), []
    for _ in range(IMAGES):
        coarse = numbers.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC))
        grain = numbers.normal(0, 6, smooth.shape)
        stream = io.BytesIO()
        pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(stream, "JPEG", quality=85)
        made.append(stream.getvalue())
    return made


def ours(datas: list[bytes], threads: int, step: int) -> None:
    for start in range(0, IMAGES, BATCH):
        draw = Draw(7, step, range(start, start + BATCH))
        made = PROCESSOR.pixels_of(datas[start : start + BATCH], AUGMENT, draw, threads)
        assert torch.from_numpy(made).shape == (BATCH, 3, SIZE, SIZE)


def theirs(loader: DataLoader[torch.Tensor]) -> None:
    for batch in loader:
        assert batch.shape == (BATCH, 3, SIZE, SIZE)


def per_s(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return IMAGES / (time.perf_counter() - started)


def compare(datas: list[bytes], threads: int) -> None:
    processes = threads if threads > 1 else 0
    loader = DataLoader(
        Plain(datas), BATCH, num_workers=processes, persistent_workers=processes > 0
    )
    rates: dict[str, list[float]] = {"ours": [], "loader": []}
    for turn in range(TURNS + 1):
        found = per_s(lambda turn=turn: ours(datas, threads, turn)), per_s(lambda: theirs(loader))
        if turn:  # the first turn starts the loader's processes
            rates["ours"].append(found[0])
            rates["loader"].append(found[1])
    mine, other = (statistics.median(rates[name]) for name in ("ours", "loader"))
    ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
    turns = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(
        f"threads {threads}: {mine:.0f} images/s; DataLoader with {processes} worker processes "
        f"{other:.0f}; ratio {statistics.median(ratios):.2f} (turn by turn {turns})"
    )


def main() -> None:
    torch.set_num_threads(1)
    random.seed(0)
    datas = photographs()
    size_kib = sum(map(len, datas)) / IMAGES / 1024
    print(f"{IMAGES} JPEGs of {size_kib:.0f} KiB each, {os.cpu_count()} cores")
    for threads in sorted({1, 2, os.cpu_count() or 1}):
        compare(datas, threads)


if __name__ == "__main__":
    main()
