"""Two images made one: how often, by how much, and with what share."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from raymodel.chance import Chance
from raymodel.modality.mix import draw_mix
from raymodel.modality.spec import AugmentSpec

SIZE = (12, 20)
ONE, OTHER = np.ones((3, *SIZE), np.float32), np.zeros((3, *SIZE), np.float32)


def mixes(count: int = 2_000, **said):
    spec = AugmentSpec(**said)
    return [draw_mix(spec, SIZE, Chance("test", turn)) for turn in range(count)]


def test_each_way_is_taken_as_often_as_the_job_says_and_no_image_in_both():
    found = mixes(mixup=0.3, cutmix=0.5)
    blended = sum(mix is not None and mix.box is None for mix in found)
    cut = sum(mix is not None and mix.box is not None for mix in found)
    assert blended == pytest.approx(600, abs=105)  # five deviations
    assert cut == pytest.approx(1_000, abs=115)
    assert mixes(20) == [None] * 20
    assert None not in mixes(200, mixup=0.5, cutmix=0.5)


def test_the_share_is_what_is_left_of_the_first_image():
    for mix in mixes(300, mixup=0.5, cutmix=0.5):
        image = ONE.copy()
        mix.into(image, OTHER)
        assert image.mean() == pytest.approx(mix.share, abs=1e-6)
        assert mix.box is not None or np.ptp(image) < 1e-6
        assert mix.box is None or set(np.unique(image)) <= {0.0, 1.0}
    assert ONE.min() == 1
    assert OTHER.max() == 0


def test_a_rectangle_covers_any_share_of_the_image_and_any_place_of_it():
    found = mixes(cutmix=1.0)
    shares = np.array([mix.share for mix in found])
    # Half of an even share of the area, and more, since what falls outside is lost.
    assert 0.6 < shares.mean() < 0.8
    assert shares.min() < 0.2
    assert shares.max() == 1.0
    covered = np.zeros(SIZE)
    for mix in found:
        left, top, right, bottom = mix.box
        assert 0 <= left <= right <= SIZE[1]
        assert 0 <= top <= bottom <= SIZE[0]
        covered[top:bottom, left:right] += 1
    assert covered.min() > 100


def test_alpha_says_how_much_one_of_both_prevails():
    def near_the_ends(alpha):
        shares = np.array([mix.share for mix in mixes(mixup=1.0, mixup_alpha=alpha)])
        return np.mean((shares < 0.1) | (shares > 0.9))

    assert near_the_ends(0.2) > 0.6
    assert near_the_ends(1.0) == pytest.approx(0.2, abs=0.05)


def test_shares_of_more_than_all_images_are_refused():
    with pytest.raises(ValidationError, match=r"mixup is 0.7 and cutmix 0.4; .*at most. Lower"):
        AugmentSpec(mixup=0.7, cutmix=0.4)
