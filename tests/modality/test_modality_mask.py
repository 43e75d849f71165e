"""Masks: their numbers are read as they stand, go with their images, and are seen in colours."""

import io

import numpy as np
import pytest
from pictures import as_file, photograph
from PIL import Image

from raymodel.chance import Chance, Draw
from raymodel.modality.augment import MaskBeside, augment, augment_with
from raymodel.modality.image import ImageProcessor
from raymodel.modality.image_decode import BROKEN, ImageError
from raymodel.modality.mask import (
    COLOURS,
    LOSSY,
    colour,
    decode_mask,
    encode_in_colours,
    encode_mask,
    scaled_mask,
)
from raymodel.modality.spec import IGNORED, AugmentSpec

NUMBERS = np.array([[0, 1, 2], [2, 254, 255]], np.uint8)
BLOCKS = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones((8, 8), np.uint8))
"""(24, 32), a class in each block."""


def in_palette(numbers: np.ndarray) -> bytes:
    """As annotation tools write it: the colours are for the eye."""
    image = Image.fromarray(numbers).convert("P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    return as_file(image)


def test_numbers_are_read_as_they_stand_whatever_their_colours():
    wide = NUMBERS.astype(np.uint16) * 100
    for data, expected in (
        (encode_mask(NUMBERS), NUMBERS),
        (in_palette(NUMBERS), NUMBERS),
        (encode_in_colours(NUMBERS), NUMBERS),
        (as_file(Image.fromarray(wide)), wide),
        (as_file(Image.fromarray(NUMBERS), "TIFF"), NUMBERS),
        (as_file(Image.fromarray(NUMBERS > 1)), NUMBERS > 1),
    ):
        np.testing.assert_array_equal(decode_mask(data), expected)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (as_file(photograph(4, 3)), COLOURS),
        (as_file(photograph(4, 3).convert("L"), "JPEG"), LOSSY),
        (encode_mask(BLOCKS)[:-40], BROKEN),
    ],
)
def test_what_is_no_mask_is_told_by_its_reason(data, reason):
    with pytest.raises(ImageError) as caught:
        decode_mask(data)
    assert caught.value.reason == reason


def test_an_answer_is_seen_in_the_colours_that_are_named():
    seen = np.asarray(Image.open(io.BytesIO(encode_in_colours(NUMBERS))).convert("RGB"))
    assert "#" + bytes(seen[0, 1]).hex() == colour(1)
    assert len({colour(number) for number in range(255)}) == 255


def test_a_mask_is_scaled_without_classes_between_classes():
    small = scaled_mask(BLOCKS, (6, 8))
    np.testing.assert_array_equal(small, BLOCKS[::4, ::4])
    np.testing.assert_array_equal(scaled_mask(BLOCKS, (8, 8), (8, 16, 16, 24)), BLOCKS[16:, 8:16])


@pytest.mark.parametrize("name", ["shift", "flip", "rotate", "color", "erase"])
def test_a_mask_goes_where_its_image_goes(name):
    value = {"shift": 5, "flip": True, "rotate": 180.0, "color": 0.5, "erase": 1.0}[name]
    spec, mask = AugmentSpec.model_validate({name: value}), BLOCKS[..., None]
    image = np.repeat(mask * 20, 3, axis=-1)
    for turn in range(10):
        found, beside = augment_with(image, MaskBeside(mask), spec, Chance("mask", turn))
        numbers = beside.pixels
        np.testing.assert_array_equal(found, augment(image, spec, Chance("mask", turn)))
        if name == "color":
            assert numbers is mask
            continue
        told = numbers[..., 0] != IGNORED
        close = np.abs(found[..., 0].astype(int) - numbers[..., 0] * 20) <= 2
        # Between two blocks a turned image has colours of both.
        assert close[told].mean() > (0.7 if name == "rotate" else 0.999)
        assert told.all() == (name != "erase")
        assert (numbers <= 11).mean() > 0.5


def test_a_processor_shows_masks_what_it_shows_of_images_by_the_same_chance():
    processor = ImageProcessor(size=(12, 16), channels=1, mean=(0.0,), std=(1.0,), scale_to=20)
    whole, data = processor.whole, as_file(Image.fromarray(BLOCKS * 20))
    spec = AugmentSpec(crop=0.3, shift=2, flip=True)
    plain, numbers = whole.pixels_with_masks([data], [BLOCKS], spec)
    np.testing.assert_array_equal(plain, whole.pixels_of([data]))
    np.testing.assert_array_equal(numbers[0], scaled_mask(BLOCKS, (12, 16)))
    draw = Draw(3, 1, range(6))
    pixels, masks = whole.pixels_with_masks([data] * 6, [BLOCKS] * 6, spec, draw)
    np.testing.assert_array_equal(pixels, whole.pixels_of([data] * 6, spec, draw))
    again = whole.pixels_with_masks([data] * 2, [BLOCKS] * 2, spec, draw.part(4, 6), threads=2)
    np.testing.assert_array_equal(again[1], masks[4:])
    assert len({mask.tobytes() for mask in masks}) > 3
    close = np.abs(pixels[:, 0] * 255 - masks * 20.0) < 12
    assert close.mean() > 0.6, "between blocks colours are mixed"
