"""Scenes of handwritten digits (scikit-learn's) on a coloured ground: where each lies is exact.

As a script it writes the folders that docs/images tells of: `train`, and `test` of digits that are
in none of `train`. `python -m raymodel.testing.scenes FOLDER`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raymodel.chance import Chance

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLASSES = {"ground": 0} | {name: digit + 1 for digit, name in enumerate(NAMES)}
"""Name → value in the masks."""
SMALL_SEGFORMER = {
    "hidden_sizes": [8, 8],
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "sr_ratios": [2, 1],
    "patch_sizes": [3, 3],
    "strides": [2, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 8,
}
STEADY_SEGFORMER = SMALL_SEGFORMER | {"drop_path_rate": 0.0, "classifier_dropout_prob": 0.0}
"""Without chance: what is dropped depends on the worker."""
SMALL_DETR = {
    "backbone_config": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
        "out_features": ["stage2"],
    },
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_queries": 6,
    "dropout": 0.0,
}
ALL = range(1797)
"""Places of all digits."""
_SEEN, _NEW = range(1400), range(1400, 1797)  # of the script: to learn from, to be measured on
_INK = 96
"""From which a pixel belongs to a digit, of 255."""
_TRIES = 20


@dataclass(frozen=True)
class Scene:
    """One image and what is in it."""

    image: Image.Image
    mask: NDArray[np.uint8]
    """Values of `CLASSES`. (H, W)"""
    boxes: tuple[tuple[str, int, int, int, int], ...]
    """Name, left, top, width and height of each digit's ink."""


def scenes(
    count: int, side: int = 64, digits: int = 3, seed: int = 0, pool: range = ALL
) -> Iterator[Scene]:
    """Squares with up to `digits` digits each, none of which touches another.

    Args:
        count: of scenes.
        side: of a scene in pixels.
        digits: of each scene, at most: what finds no room is left out.
        seed: of what chance decides.
        pool: which of the digits are used, by their places in an order that is always the same; all
            once before one comes again.
    """
    from sklearn.datasets import load_digits

    known = load_digits()
    shuffled = np.argsort(Chance("digits").bits(len(known.target)), kind="stable")[pool]
    rounds = -(-count * digits // len(pool))
    keys = [Chance("round", seed, each).bits(len(pool)) for each in range(rounds)]
    order = np.concatenate([shuffled[np.argsort(key, kind="stable")] for key in keys])
    for index in range(count):
        chosen = order[index * digits : (index + 1) * digits]
        drawn = [(known.images[each], int(known.target[each])) for each in chosen]
        yield _scene(drawn, side, Chance("scene", seed, index))


def write_masked(folder: Path, count: int, **options: Any) -> None:
    """`images/0000.png` and `masks/0000.png`, and so on."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, scene in enumerate(scenes(count, **options)):
        scene.image.save(folder / f"images/{index:04}.png")
        Image.fromarray(scene.mask).save(folder / f"masks/{index:04}.png")


def write_coco(folder: Path, count: int, **options: Any) -> None:
    """`images/0000.png` and so on, and `objects.json` of them."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    numbers = {name: number for number, name in enumerate(NAMES, start=1)}
    images, annotations = [], list[dict[str, Any]]()
    for index, scene in enumerate(scenes(count, **options)):
        scene.image.save(folder / f"images/{index:04}.png")
        width, height = scene.image.size
        name = f"{index:04}.png"
        images.append({"id": index, "file_name": name, "width": width, "height": height})
        annotations += [
            {"image_id": index, "category_id": numbers[name], "bbox": box, "iscrowd": 0}
            for name, *box in scene.boxes
        ]
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "objects.json").write_text(json.dumps(content))


def _scene(drawn: list[tuple[NDArray[np.float64], int]], side: int, chance: Chance) -> Scene:
    """Bright ink on a dark ground, with noise on both."""
    ground, ink = chance.uniform(3) * 90, 140 + chance.uniform(3) * 115
    share = np.zeros((side, side))
    mask = np.zeros((side, side), np.uint8)
    taken = np.zeros((side, side), bool)
    boxes = []
    for pixels, digit in drawn:
        size = int(side * (0.3 + 0.2 * chance.number()))
        small = Image.fromarray((pixels * 255 / 16).astype(np.uint8))
        glyph = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))
        for _ in range(_TRIES):
            top, left = (int(place) for place in chance.integers(side - size + 1, 2))
            here = (slice(top, top + size), slice(left, left + size))
            if not taken[here].any():
                break
        else:
            continue  # no room for it
        taken[here] = True
        share[here] = glyph / 255
        mask[here][glyph >= _INK] = digit + 1
        rows, columns = np.nonzero(glyph >= _INK)
        wide, high = int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
        boxes.append((NAMES[digit], left + int(columns.min()), top + int(rows.min()), wide, high))
    colours = ground + share[..., None] * (ink - ground)
    noise = 12 * chance.normal(colours.size).reshape(colours.shape)
    image = Image.fromarray((colours + noise).clip(0, 255).astype(np.uint8))
    return Scene(image, mask, tuple(boxes))


if __name__ == "__main__":
    for write in (write_masked, write_coco):
        write(Path(sys.argv[1], "train"), 2000, side=32, pool=_SEEN)
        write(Path(sys.argv[1], "test"), len(_NEW) // 3, side=32, pool=_NEW)
