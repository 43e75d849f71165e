"""What an image is to a model: pixels of one size, normalised."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raymodel.chance import Draw
from raymodel.errors import ArtifactError
from raymodel.modality.augment import Box, MaskBeside, augment_with, random_crop
from raymodel.modality.base import ModelFields, Processor
from raymodel.modality.boxes import Boxes
from raymodel.modality.image_config import Resample, read_config, write_config
from raymodel.modality.image_decode import as_array, as_image, decode_image, shrink_image
from raymodel.modality.mask import Classes, scaled_mask
from raymodel.modality.mix import Mix
from raymodel.modality.spec import AugmentSpec, ImageSpec
from raymodel.storage.uri import Location

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "preprocessor_config.json"
_MOST_SCALED = 2**24
"""Pixels: a line of 1 by 20,000 would become gigabytes, so of such an image only what is kept is
scaled."""

Pixels = NDArray[np.uint8]
"""(H, W, C), from 0 to 255."""


@dataclass(frozen=True, kw_only=True)
class ImageProcessor(Processor):
    """Images as a model was trained on them."""

    modality = "image"
    unit = "images"
    file = FILE

    size: tuple[int, int]
    """Height and width of what the model sees."""
    channels: Literal[1, 3]
    """1 is grey, 3 are red, green and blue."""
    mean: tuple[float, ...]
    """Of each channel, of values from 0 to 1; subtracted."""
    std: tuple[float, ...]
    """Of each channel, of values from 0 to 1; divided by."""
    resample: Resample = "bilinear"
    """How pixels are interpolated."""
    scale_to: tuple[int, int] | int | None = None
    """What an image is scaled to before `size` is cut out of its middle: height and width, or the
    length of its shorter edge, which keeps its shape. None scales it to `size` and cuts nothing."""

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"mean {self.mean} and std {self.std} for {self.channels} channels; each needs one "
                "number a channel; give as many"
            )
        edge = self.scale_to
        height, width = (edge, edge) if isinstance(edge, int) else edge or self.size
        if height < self.size[0] or width < self.size[1]:
            raise ValueError(
                f"{self.size} cannot be cut out of an image of {self.scale_to}; it must be the "
                "smaller one; make crop_size smaller or size larger"
            )

    @classmethod
    def fresh(cls, spec: ImageSpec) -> ImageProcessor:
        """For a model without a base."""
        each = spec.channels
        return cls(
            size=(spec.size, spec.size),
            channels=each,
            mean=(spec.mean,) * each,
            std=(spec.std,) * each,
        )

    @classmethod
    def load(cls, place: Location) -> ImageProcessor:
        """Reads `preprocessor_config.json` of a Hugging Face folder.

        Raises:
            ArtifactError: there is none, or it says what is not followed exactly.
        """
        file = place / FILE
        if not file.exists():
            raise ArtifactError(
                f"{place} holds no {FILE}; it says what images a model takes. Copy it there from "
                "where the model comes from, or write one with AutoImageProcessor.save_pretrained"
            )
        try:
            return cls(**read_config(file.read_json()))
        except ArtifactError:
            raise
        except ValueError as error:
            raise ArtifactError(f"{file}: {error}") from error

    def save_pretrained(self, folder: Path) -> None:
        """Writes `preprocessor_config.json`, for `load` and for AutoImageProcessor."""
        text = json.dumps(write_config(**asdict(self)), indent=2, sort_keys=True)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    def facts(self) -> dict[str, Any]:
        """`num_channels` and `image_size`, one number where it is a square."""
        height, width = self.size
        side = height if height == width else [height, width]
        return {"num_channels": self.channels, "image_size": side}

    def model_fields(self, max_length: int | None) -> ModelFields:
        """Channels, and the size where an architecture fixes it, as ViT does."""
        return ModelFields(given=self.facts())

    def check_fits(self, model: PreTrainedModel) -> None:
        """Channels and, where the model fixes it, the size are the model's."""
        for name, made in self.facts().items():
            taken = getattr(model.config, name, None)
            if taken is not None and _sides(taken) != _sides(made):
                raise ValueError(
                    f"{FILE} makes images of {name} {made}, and config.json says {taken}; the two "
                    "files belong to different models. Copy both from one"
                )

    def decode(self, data: bytes) -> Pixels:
        """The pixels of an image file, in its own size. (H, W, C)

        Raises:
            ImageError: it is none, or is broken, too large or of an unknown kind.
        """
        return as_array(decode_image(data, self.channels))

    def check(self, data: bytes) -> None:
        """Decodes and forgets: the end of a file, too, may be missing.

        Raises:
            ImageError: training could not use the file.
        """
        decode_image(data, self.channels)

    def shrunk(self, data: bytes, shortest_edge: int) -> bytes:
        """The file, or a smaller one whose shorter edge is `shortest_edge`, upright and opaque.

        Raises:
            ImageError: it cannot be decoded.
        """
        return shrink_image(data, self.channels, shortest_edge)

    def resized(self, image: Pixels) -> Pixels:
        """Scaled, and its middle cut out. (H, W, C) → (*size, C)"""
        return as_array(self._middle(as_image(image)))

    def pixels(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """Normalised: (value / 255 - mean) / std. Images of `size` → (B, C, H, W)"""
        made = np.empty((len(images), self.channels, *self.size), np.float32)
        for row, image in zip(made, images, strict=True):
            self._normalise(image, row)
        return made

    def pixels_of(
        self,
        datas: Sequence[bytes],
        augment: AugmentSpec | None = None,
        draw: Draw | None = None,
        threads: int = 1,
        mixed_in: Sequence[tuple[bytes, Mix] | None] = (),
    ) -> NDArray[np.float32]:
        """From files to what the model takes; the same for any number of threads.

        Args:
            datas: image files, one a row.
            augment: changes by chance; none without `draw`.
            draw: the chance of these rows; None for evaluation and serving.
            threads: Pillow and numpy leave the interpreter while they work.
            mixed_in: of each row the file of another image, changed by chance as well, and how it
                is mixed in; None where none is. Needs `draw`.

        Returns:
            (B, C, H, W)

        Raises:
            ImageError: of the first file that cannot be decoded.
        """
        nothing = [None] * len(datas)
        return self._pixels_with(datas, nothing, augment, draw, threads, mixed_in)[0]

    def pixels_with_masks(
        self,
        datas: Sequence[bytes],
        masks: Sequence[Classes],
        augment: AugmentSpec,
        draw: Draw | None = None,
        threads: int = 1,
    ) -> tuple[NDArray[np.float32], Classes]:
        """The same with the masks of the images, which go where their images go.

        Args:
            masks: one a row, each of the size of its image.
            datas, augment, draw, threads: as of `pixels_of`.

        Returns:
            (B, C, H, W), and the numbers of the classes (B, H, W).
        """
        made, found = self._pixels_with(
            datas, [_Whole(mask) for mask in masks], augment, draw, threads
        )
        return made, np.stack([each.pixels[..., 0] for each in found])

    def pixels_with_boxes(
        self,
        datas: Sequence[bytes],
        boxes: Sequence[Boxes],
        augment: AugmentSpec,
        draw: Draw | None = None,
        threads: int = 1,
    ) -> tuple[NDArray[np.float32], list[Boxes]]:
        """The same with boxes in the images, as shares of them; some may be cut off.

        Args:
            datas, augment, draw, threads: as of `pixels_of`.
        """
        return self._pixels_with(datas, boxes, augment, draw, threads)

    def _pixels_with(
        self,
        datas: Sequence[bytes],
        beside: Sequence[Any],
        augment: AugmentSpec | None,
        draw: Draw | None,
        threads: int,
        mixed_in: Sequence[tuple[bytes, Mix] | None] = (),
    ) -> tuple[NDArray[np.float32], list[Any]]:
        assert draw is None or len(draw) == len(datas), (draw, len(datas))
        made = np.empty((len(datas), self.channels, *self.size), np.float32)
        found = list(beside)

        def fill(to: NDArray[np.float32], data: bytes, goes: Any, row: int, *purpose: str) -> Any:
            image, box, chance = decode_image(data, self.channels), None, None
            if augment is not None and draw is not None:
                chance = draw.of_row(row, *purpose)
                if augment.crop < 1.0:
                    box = random_crop(image.width, image.height, augment.crop, chance)
            pixels = self._scaled(image, box)
            if goes is not None:
                assert self.scale_to is None, "`whole` shows a model all of an image"
                goes = goes.scaled(self.size, box, image.size)
            if augment is not None and chance is not None:
                pixels, goes = augment_with(pixels, goes, augment, chance)
            self._normalise(pixels, to)
            return goes

        def make(row: int) -> None:
            found[row] = fill(made[row], datas[row], found[row], row)
            if mixed_in and (partner := mixed_in[row]):
                data, mix = partner
                other = np.empty_like(made[row])
                fill(other, data, None, row, "partner")
                mix.into(made[row], other)

        _each(len(datas), make, threads)
        return made, found

    def _scaled(self, image: Image.Image, box: Box | None) -> Pixels:
        if box is None:
            return as_array(self._middle(image))
        return as_array(image.resize(self.size[::-1], self._filter, box))

    @property
    def whole(self) -> Self:
        """The same, but that it cuts nothing off: all of an image is scaled to `size`."""
        return replace(self, scale_to=None)

    def _middle(self, image: Image.Image) -> Image.Image:
        """What `scale_to` and `size` leave of an image."""
        if isinstance(self.scale_to, int):
            short = min(image.size)
            high, wide = (int(self.scale_to * side / short) for side in image.size[::-1])
        else:
            high, wide = self.scale_to or self.size
        top, left = (high - self.size[0]) // 2, (wide - self.size[1]) // 2
        bottom, right = top + self.size[0], left + self.size[1]
        if high * wide > _MOST_SCALED:
            x, y = image.width / wide, image.height / high
            box = left * x, top * y, min(right * x, image.width), min(bottom * y, image.height)
            return image.resize(self.size[::-1], self._filter, box)
        # Scaling the box alone rounds some pixels otherwise than transformers, which does this.
        return image.resize((wide, high), self._filter).crop((left, top, right, bottom))

    @property
    def _filter(self) -> Image.Resampling:
        return Image.Resampling[self.resample.upper()]

    @cached_property
    def _table(self) -> NDArray[np.float32]:
        """The normalised number of each value. (C, 256)"""
        values = (np.arange(256) * (1 / 255)).astype(np.float32)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (values - mean[:, None]) / std[:, None]

    def _normalise(self, image: Pixels, to: NDArray[np.float32]) -> None:
        """(H, W, C) → (C, H, W)"""
        assert image.shape == (*self.size, self.channels), image.shape
        for channel, table in enumerate(self._table):
            np.take(table, image[..., channel], out=to[channel], mode="clip")  # "raise" copies


@dataclass(frozen=True)
class _Whole:
    """A mask of the size of its image."""

    classes: Classes

    def scaled(
        self, size: tuple[int, int], box: Box | None, image_size: tuple[int, int]
    ) -> MaskBeside:
        return MaskBeside(scaled_mask(self.classes, size, box)[..., None])


def _each(count: int, make: Callable[[int], None], threads: int) -> None:
    """Makes each row, several at a time."""
    if threads == 1:
        for row in range(count):
            make(row)
        return
    with ThreadPoolExecutor(threads, "images") as pool:
        list(pool.map(make, range(count)))


def _sides(size: Any) -> tuple[int, ...]:
    """Of a configuration, which has one number for a square, or both."""
    return tuple(size) if isinstance(size, list | tuple) else (size, size)
