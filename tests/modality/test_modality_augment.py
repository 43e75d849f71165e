"""Images changed by chance: within their bounds, in their shape, and the same from the same."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from pictures import photograph

from raymodel.chance import Chance
from raymodel.modality.augment import augment, random_crop
from raymodel.modality.spec import AugmentSpec

ALL = AugmentSpec(crop=0.5, shift=3, flip=True, rotate=20, color=0.4, erase=0.5)
SINGLE = {
    name: AugmentSpec(**{name: getattr(ALL, name)})
    for name in ("shift", "flip", "rotate", "color", "erase")
}
PHOTOGRAPH = np.asarray(photograph(30, 20))
"""(20, 30, 3)"""
GREY = PHOTOGRAPH[..., :1]


def changed(spec: AugmentSpec, turn: int, image: np.ndarray = PHOTOGRAPH) -> np.ndarray:
    return augment(image, spec, Chance("test", turn))


@pytest.mark.parametrize("image", [PHOTOGRAPH, GREY], ids=["colours", "grey"])
@pytest.mark.parametrize("name", [*SINGLE, "all"])
def test_shape_and_range_stay_and_the_same_chance_gives_the_same_bytes(name, image):
    spec, before = SINGLE.get(name, ALL), image.copy()
    results = set()
    for turn in range(40):
        found = changed(spec, turn, image)
        assert (found.shape, found.dtype) == (image.shape, np.uint8)
        assert found.tobytes() == changed(spec, turn, image).tobytes()
        results.add(found.tobytes())
    assert len(results) == 2 if name == "flip" else len(results) > 8, "chance decides"
    np.testing.assert_array_equal(image, before)


def test_nothing_is_changed_by_default():
    assert changed(AugmentSpec(), 1) is PHOTOGRAPH


def test_a_flip_mirrors_left_and_right_in_half_of_all_cases():
    mirrored = PHOTOGRAPH[:, ::-1]
    flips = 0
    for turn in range(400):
        found = changed(SINGLE["flip"], turn)
        is_flipped = np.array_equal(found, mirrored)
        assert is_flipped or np.array_equal(found, PHOTOGRAPH)
        flips += is_flipped
    assert 160 < flips < 240


def test_a_shift_moves_every_way_and_continues_the_edge():
    seen = set()
    wide = np.pad(PHOTOGRAPH, ((3, 3), (3, 3), (0, 0)), mode="edge")
    for turn in range(600):
        found = changed(SINGLE["shift"], turn)
        places = [
            (y, x)
            for y in range(7)
            for x in range(7)
            if np.array_equal(found, wide[y : y + 20, x : x + 30])
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 49


def test_a_shift_may_be_larger_than_the_image():
    assert changed(AugmentSpec(shift=1000), 3).shape == PHOTOGRAPH.shape


def test_a_turn_by_a_right_angle_is_exact_and_shows_no_foreign_colour():
    square = np.asarray(photograph(16, 16))
    found = augment(square, AugmentSpec(rotate=90), _Always(1.0))
    assert any(np.array_equal(found, np.rot90(square, turns)) for turns in (1, 3))
    halfway = augment(square, AugmentSpec(rotate=90), _Always(0.5))
    np.testing.assert_array_equal(halfway, square)


@pytest.mark.parametrize("level", [0, 120, 255])
def test_an_even_ground_stays_even_however_it_is_turned_and_shifted(level):
    even = np.full((28, 28, 1), level, np.uint8)
    for turn in range(60):
        assert (changed(AugmentSpec(rotate=180, shift=4), turn, even) == level).all()


def test_a_turn_is_about_the_middle():
    """A bright point in the middle stays there; one on the rim does not."""
    middle, rim = (np.zeros((21, 21, 1), np.uint8) for _ in range(2))
    middle[10, 10], rim[10, 19] = 255, 255
    for turn in range(20):
        found = changed(AugmentSpec(rotate=180), turn, middle)
        assert found[10, 10, 0] == found.max() > 200
        y, x = np.argwhere(changed(AugmentSpec(rotate=180), turn, rim)[..., 0] > 60).mean(axis=0)
        assert np.hypot(y - 10, x - 10) == pytest.approx(9, abs=0.7)


def test_colours_become_brighter_and_darker_within_their_bounds():
    grey = np.full((8, 8, 3), 100, np.uint8)
    means = [changed(AugmentSpec(color=0.4), turn, grey).mean() for turn in range(200)]
    assert min(means) >= 59
    assert max(means) <= 141
    assert min(means) < 65
    assert max(means) > 135


def test_an_erased_rectangle_is_noise_of_the_promised_area():
    shares = []
    for turn in range(300):
        found = changed(AugmentSpec(erase=1.0), turn)
        differs = (found != PHOTOGRAPH).any(axis=-1)
        rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
        area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert differs.sum() > 0.9 * area, "one rectangle, and all of it noise"
        shares.append(area / differs.size)
    assert min(shares) >= 0.02
    assert max(shares) <= 0.48, "two fifths, and what whole pixels add"
    assert max(shares) > 0.3


def test_so_many_images_are_erased():
    erased = sum(changed(AugmentSpec(erase=0.25), turn) is not PHOTOGRAPH for turn in range(400))
    assert 65 < erased < 135


@pytest.mark.parametrize(("width", "height"), [(640, 480), (28, 28), (1000, 3), (1, 900), (1, 1)])
@pytest.mark.parametrize("smallest", [0.08, 0.5, 0.99])
def test_a_crop_lies_in_the_image_and_keeps_its_share(width, height, smallest):
    boxes = [random_crop(width, height, smallest, Chance("crop", i)) for i in range(300)]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert (right - left) * (bottom - top) >= smallest * width * height
    if (width, height) == (640, 480) and smallest == 0.08:
        ratios = [(right - left) / (bottom - top) for left, top, right, bottom in boxes]
        assert 0.74 < min(ratios) < 0.8
        assert 1.25 < max(ratios) < 1.7  # where the image is not high enough
        assert len(set(boxes)) > 290


def test_the_numbers_of_a_row_do_not_change_from_version_to_version():
    """Another digest here is another training: raise the version of the tasks that augment."""
    spec = AugmentSpec(shift=3, flip=True, erase=1.0)  # what Pillow has no part in
    image = (np.arange(20 * 30 * 3) % 251).astype(np.uint8).reshape(20, 30, 3)
    found = b"".join(changed(spec, turn, image).tobytes() for turn in range(8))
    assert hashlib.sha256(found).hexdigest()[:16] == "b4a0c511088810e6"
    assert random_crop(640, 480, 0.08, Chance("crop", 0)) == (20, 8, 611, 460)


@pytest.mark.parametrize("field", [{"crop": 0}, {"crop": 1.5}, {"shift": -1}, {"rotate": 181},
                                   {"color": 2}, {"erase": "110%"}, {"flips": True}])  # fmt: skip
def test_what_is_out_of_range_is_an_error(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        AugmentSpec.model_validate(field)


class _Always(Chance):
    """Of one number again and again."""

    def __init__(self, number: float) -> None:
        self._number = number

    def uniform(self, count: int) -> np.ndarray:
        return np.full(count, self._number)
