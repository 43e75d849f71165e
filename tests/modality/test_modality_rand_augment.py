"""RandAugment: each change by itself, how they are drawn, and where they may not be."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pictures import photograph
from pydantic import ValidationError

from raymodel.chance import Chance
from raymodel.modality import rand_augment as changes
from raymodel.modality.augment import augment
from raymodel.modality.moved import shifted, slanted
from raymodel.modality.rand_augment import CHANGES, rand_augment
from raymodel.modality.spec import AugmentSpec
from raymodel.tasks.spec import default_spec

PHOTOGRAPH = np.asarray(photograph(40, 24))
"""(24, 40, 3)"""
GREY = PHOTOGRAPH[..., :1]
BY_NAME = {change.__name__: change for change in CHANGES}
LIGHT_ALONE = {"_autocontrast", "_equalized"}  # which have no strength
ONE_WAY = {"_nothing", "_solarized", "_posterized", *LIGHT_ALONE}
OF_COLOURS = {"_saturated"}


@pytest.mark.parametrize("image", [PHOTOGRAPH, GREY], ids=["colours", "grey"])
@pytest.mark.parametrize("name", BY_NAME)
def test_a_change_keeps_the_shape_and_does_nothing_without_strength(name, image) -> None:
    change, before = BY_NAME[name], image.copy()
    strong = [change(image, strength) for strength in (-1.0, -0.3, 0.3, 1.0)]
    for found in strong:
        assert (found.shape, found.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(image, before)
    if name not in LIGHT_ALONE:
        np.testing.assert_array_equal(change(image, 0.0), image)
    is_seen = name != "_nothing" and not (name in OF_COLOURS and image is GREY)
    assert np.array_equal(strong[-1], image) == (not is_seen)
    if is_seen:
        assert np.array_equal(strong[0], strong[-1]) == (name in ONE_WAY)
    if is_seen and name not in ONE_WAY:
        far, near = (np.abs(found.astype(int) - image).mean() for found in strong[2:][::-1])
        assert far > near, "the stronger the further"


def test_shifts_and_slants_are_of_pixels_and_continue_the_edge() -> None:
    found = changes._moved_across(PHOTOGRAPH, 0.5)
    by = round(40 * 150 / 331 * 0.5)
    np.testing.assert_array_equal(found[:, :-by], PHOTOGRAPH[:, by:])
    np.testing.assert_array_equal(found[:, -by:], np.repeat(PHOTOGRAPH[:, -1:], by, axis=1))
    found = changes._moved_down(PHOTOGRAPH, -0.5)
    by = round(24 * 150 / 331 * 0.5)
    np.testing.assert_array_equal(found[by:], PHOTOGRAPH[:-by])
    lines = np.zeros((21, 41, 1), np.uint8)
    lines[:, 20] = 255
    tilted = slanted(lines, 0.5, 0.0, changes._BILINEAR)[..., 0]
    places = [(row * np.arange(41)).sum() / row.sum() for row in tilted.astype(int)]
    np.testing.assert_allclose(places, 20 - 0.5 * (np.arange(21) - 10), atol=0.01)
    np.testing.assert_array_equal(shifted(PHOTOGRAPH, 3, 3, 3), PHOTOGRAPH)


@pytest.mark.parametrize("level", [0, 120, 255])
def test_an_even_ground_stays_even_whatever_is_drawn(level: int) -> None:
    even = np.full((16, 12, 1), level, np.uint8)
    for turn in range(60):
        found = rand_augment(even, 3, 0.7, Chance("test", turn))
        assert found.min() == found.max()


def test_changes_are_drawn_evenly_each_way_and_by_the_chance_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = Counter[tuple[int, bool]]()

    def noting(number: int):
        def change(image, strength):
            assert abs(strength) == 0.4
            seen[number, strength > 0] += 1
            return image

        return change

    found = [rand_augment(PHOTOGRAPH, 2, 0.4, Chance("test", turn)) for turn in range(40)]
    again = [rand_augment(PHOTOGRAPH, 2, 0.4, Chance("test", turn)) for turn in range(40)]
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    assert len({each.tobytes() for each in found}) > 30
    monkeypatch.setattr(changes, "CHANGES", tuple(map(noting, range(14))))
    for turn in range(700):
        rand_augment(PHOTOGRAPH, 2, 0.4, Chance("test", turn))
    assert len(seen) == 28
    assert min(seen.values()) > 25
    assert max(seen.values()) < 80


def test_it_is_off_by_default_and_leaves_the_numbers_of_others_then() -> None:
    chance = Chance("test", 1)
    assert augment(PHOTOGRAPH, AugmentSpec(), chance) is PHOTOGRAPH
    known = AugmentSpec(shift=2).identity()
    assert not {"randaugment", "magnitude"} & set(known), "jobs without it keep their fingerprints"
    on = AugmentSpec(randaugment=2)
    assert on.identity()["magnitude"] == 0.3
    assert not np.array_equal(augment(PHOTOGRAPH, on, Chance("test", 5)), PHOTOGRAPH)


@pytest.mark.parametrize("name", ["image_segmentation", "object_detection"])
def test_images_with_something_beside_them_are_refused(name: str) -> None:
    spec = type(default_spec(name))
    with pytest.raises(ValidationError, match="it would move images without their masks or boxes"):
        spec.model_validate({"augment": {"randaugment": 2}})
    for other in ("image_classification", "masked_image"):
        type(default_spec(other)).model_validate({"augment": {"randaugment": 2}})
