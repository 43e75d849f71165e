"""From image files to what a model takes, whoever does it and with how many threads."""

import time
from dataclasses import replace

import numpy as np
import pytest
from pictures import as_file, deep, photograph
from PIL import Image

from raymodel.chance import Draw
from raymodel.modality.image import ImageProcessor
from raymodel.modality.image_decode import BROKEN, EMPTY, ImageError, as_image
from raymodel.modality.spec import AugmentSpec

COLOURS = ImageProcessor(
    size=(20, 30), channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), scale_to=32
)
GREY = ImageProcessor(size=(28, 28), channels=1, mean=(0.13,), std=(0.31,))
ALL = AugmentSpec(crop=0.3, shift=3, flip=True, rotate=20, color=0.4, erase=0.5)
DATAS = [as_file(photograph(60 + 9 * i, 80 - 5 * i, seed=i), "JPEG") for i in range(8)]


def test_pixels_are_normalised_channel_by_channel():
    image = np.zeros((20, 30, 3), np.uint8)
    image[..., 1], image[..., 2] = 51, 255
    found = COLOURS.pixels([image, image])
    assert (found.shape, found.dtype) == ((2, 3, 20, 30), np.float32)
    np.testing.assert_allclose(found[1, 0], -2.0, rtol=1e-6)
    np.testing.assert_allclose(found[1, 1], (0.2 - 0.5) / 0.25, rtol=1e-6)
    np.testing.assert_allclose(found[1, 2], (1.0 - 0.6) / 0.3, rtol=1e-6)


def test_the_steps_apart_give_what_they_give_together():
    images = [COLOURS.resized(COLOURS.decode(data)) for data in DATAS]
    assert {image.shape for image in images} == {(20, 30, 3)}
    np.testing.assert_array_equal(COLOURS.pixels(images), COLOURS.pixels_of(DATAS))


@pytest.mark.parametrize("processor", [COLOURS, GREY], ids=["colours", "grey"])
@pytest.mark.parametrize("augment", [None, ALL], ids=["as it is", "augmented"])
def test_any_number_of_threads_gives_the_same_bytes(processor, augment):
    draw = Draw(7, 3, range(100, 108))
    alone = processor.pixels_of(DATAS, augment, draw, threads=1)
    for threads in (2, 4):
        together = processor.pixels_of(DATAS, augment, draw, threads=threads)
        assert together.tobytes() == alone.tobytes()


def test_a_row_is_the_same_in_any_batch_and_another_in_the_next_step():
    whole = COLOURS.pixels_of(DATAS, ALL, Draw(7, 3, range(8)))
    part = COLOURS.pixels_of(DATAS[5:7], ALL, Draw(7, 3, [5, 6]))
    assert part.tobytes() == whole[5:7].tobytes()
    for other in (Draw(7, 4, range(8)), Draw(8, 3, range(8)), Draw(7, 3, range(1, 9))):
        found = COLOURS.pixels_of(DATAS, ALL, other)
        assert all((a != b).any() for a, b in zip(found, whole, strict=True))


def test_without_chance_nothing_is_augmented():
    plain = COLOURS.pixels_of(DATAS)
    np.testing.assert_array_equal(COLOURS.pixels_of(DATAS, ALL, None), plain)
    np.testing.assert_array_equal(COLOURS.pixels_of(DATAS, None, Draw(1, 1, range(8))), plain)
    np.testing.assert_array_equal(
        COLOURS.pixels_of(DATAS, AugmentSpec(), Draw(1, 1, range(8))), plain
    )


def test_a_crop_is_cut_from_the_whole_photograph_and_scaled_to_the_size():
    """A ramp of grey from left to right: what is seen of it says what was cut."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, axis=0)
    data = as_file(as_image(ramp))
    processor = replace(GREY, mean=(0.0,), std=(1 / 255,))
    found = processor.pixels_of([data] * 64, AugmentSpec(crop=0.1), Draw(1, 0, range(64)))
    spans = np.ptp(found[:, 0, 0], axis=1) * 28 / 27  # the filter softens the ends
    assert found.shape == (64, 1, 28, 28)
    assert 60 < spans.min() < 130
    assert 220 < spans.max() < 262
    assert found[:, 0].min() < 10
    assert found[:, 0].max() > 245


def test_an_augmented_batch_is_still_within_what_pixels_can_be():
    draw = Draw(7, 3, range(8))
    found = COLOURS.pixels_of(DATAS, ALL, draw)
    for channel, (mean, std) in enumerate(zip(COLOURS.mean, COLOURS.std, strict=True)):
        assert found[:, channel].min() >= (0 - mean) / std - 1e-6
        assert found[:, channel].max() <= (1 - mean) / std + 1e-6


def test_no_rows_are_an_empty_batch():
    assert COLOURS.pixels_of([]).shape == (0, 3, 20, 30)
    assert COLOURS.pixels_of([], ALL, Draw(1, 1, []), threads=4).shape == (0, 3, 20, 30)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_broken_file_in_a_batch_is_told_of(threads):
    datas = [*DATAS[:3], DATAS[3][:400], b""]
    with pytest.raises(ImageError) as caught:
        COLOURS.pixels_of(datas, threads=threads)
    assert caught.value.reason == BROKEN


def test_a_check_decodes_to_the_end_of_a_file():
    COLOURS.check(DATAS[0])
    for data, reason in ((DATAS[0][:-200], BROKEN), (b"", EMPTY)):
        with pytest.raises(ImageError) as caught:
            COLOURS.check(data)
        assert caught.value.reason == reason


def test_a_photograph_is_stored_smaller_and_seen_the_same():
    large = as_file(photograph(1200, 900), "JPEG", quality=95)
    small = COLOURS.shrunk(large, 96)
    assert len(small) < len(large) / 4
    difference = COLOURS.pixels_of([large]) - COLOURS.pixels_of([small])
    assert np.abs(difference).mean() < 0.02


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (2, 9_000)])
def test_a_thin_line_is_not_blown_up_to_gigabytes(size):
    """Its shorter edge scaled to 256, it would have a billion pixels."""
    processor = replace(COLOURS, size=(224, 224), scale_to=256)
    ramp = np.linspace(0, 255, max(size)).astype(np.uint8).reshape(size if 1 in size else (1, -1))
    data = as_file(Image.fromarray(ramp).resize(size[::-1], Image.Resampling.NEAREST))
    started = time.process_time()
    found = processor.pixels_of([data])
    assert time.process_time() - started < 5
    middle = (127.5 / 255 - 0.5) / 0.25
    assert np.abs(found[0, 1] - middle).max() < 0.2


def test_scaling_a_part_is_scaling_the_whole_and_cutting_it_but_for_rounding(monkeypatch):
    from raymodel.modality import image as module

    whole = COLOURS.pixels_of(DATAS)
    monkeypatch.setattr(module, "_MOST_SCALED", 0)
    level = 1 / 255 / min(COLOURS.std)
    assert np.abs(COLOURS.pixels_of(DATAS) - whole).max() <= 2.01 * level


def test_deep_and_grey_files_become_what_the_model_takes():
    for processor in (COLOURS, GREY):
        found = processor.pixels_of([as_file(deep()), as_file(photograph(50, 40).convert("1"))])
        assert found.shape == (2, processor.channels, *processor.size)


def test_a_new_model_is_told_channels_and_size():
    assert GREY.facts() == {"num_channels": 1, "image_size": 28}
    assert COLOURS.facts() == {"num_channels": 3, "image_size": [20, 30]}


def test_the_file_by_which_data_is_compared_changes_with_the_pixels_and_only_then(tmp_path):
    changes = (
        {"size": (20, 29)}, {"mean": (0.4, 0.5, 0.61)}, {"std": (0.2, 0.25, 0.31)},
        {"resample": "bicubic"}, {"scale_to": 33}, {"scale_to": (24, 30)}, {"scale_to": None},
    )  # fmt: skip
    written = set()
    for change in ({}, *changes, {}):
        replace(COLOURS, **change).save_pretrained(tmp_path)
        written.add((tmp_path / ImageProcessor.file).read_text())
    assert len(written) == 1 + len(changes)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"mean": (0.5,)}, "mean"), ({"std": ()}, "std"), ({"scale_to": 29}, "cut out"),
     ({"scale_to": (19, 40)}, "cut out"), ({"channels": 1}, "channels")],
)  # fmt: skip
def test_a_processor_that_contradicts_itself_is_refused(change, word):
    with pytest.raises(ValueError, match=word):
        replace(COLOURS, **change)
