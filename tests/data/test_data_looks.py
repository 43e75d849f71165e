"""Near-duplicates of images: what they look like in bits, bands, and what `prepare` drops."""

import io
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled import documents
from PIL import Image, ImageEnhance, ImageOps
from small_corpus import execute_here

from raymodel.data.clean import values_digest
from raymodel.data.dedup import near
from raymodel.data.dedup.drops import NEAR, NEAR_OTHER_LABEL
from raymodel.data.dedup.likeness import LookLikeness
from raymodel.data.dedup.looks import find_look, look_keys, num_apart
from raymodel.data.dedup.near import find_near, record_type
from raymodel.data.dedup.plan import LOOK_BITS, MAX_DISTANCE, MIN_KEY_BITS, plan_blocks
from raymodel.data.dedup.spec import DecodedDedup, NearDedup
from raymodel.data.dedup.texts import find_wrong_dedup
from raymodel.data.prepare import REJECTS, Recipe, prepare_dataset
from raymodel.data.read_step import is_held_out
from raymodel.data.rows import RowKind
from raymodel.data.shard import dataset_of
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.data.step import Step, complete_item, missing_items
from raymodel.modality import image_decode
from raymodel.modality.image import ImageProcessor
from raymodel.modality.spec import ImageSpec
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.fields import PLAIN_IMAGE, PLAIN_TEXT, Fields
from raymodel.tasks.spec.image import ImageClassificationSpec

COPIES = 10


def photograph(seed: int, width: int = 96, height: int = 72) -> Image.Image:
    numbers = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(numbers).resize((width, height), Image.Resampling.BICUBIC)


def as_file(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def look(image: Image.Image) -> Any:
    return np.uint64(find_look(image.convert("L")) or 0)


def apart(one: Image.Image, other: Image.Image) -> int:
    return int(num_apart(look(one), look(other)))


# ---- what an image looks like --------------------------------------------------------------------


def test_size_compression_brightness_and_contrast_hardly_change_it() -> None:
    for seed in range(20):
        image = photograph(seed)
        squeezed = Image.open(io.BytesIO(as_file(image, "JPEG", quality=40)))
        changed = [
            squeezed,
            image.resize((300, 225), Image.Resampling.BILINEAR),
            image.resize((40, 30)),
            ImageEnhance.Brightness(image).enhance(0.8),
            ImageEnhance.Contrast(image).enhance(0.7),
        ]
        assert max(apart(image, each) for each in changed) <= 4


def test_other_images_and_mirrored_ones_differ_by_about_half() -> None:
    images = [photograph(seed) for seed in range(30)]
    others = [apart(a, b) for i, a in enumerate(images) for b in images[:i]]
    assert min(others) > MAX_DISTANCE
    assert np.mean(others) == pytest.approx(31, abs=2)
    assert min(apart(image, ImageOps.mirror(image)) for image in images) > MAX_DISTANCE


def test_an_image_of_one_shade_looks_like_nothing() -> None:
    assert find_look(Image.new("L", (40, 30), 200)) is None
    assert find_look(Image.new("L", (1, 1), 0)) is None


def test_no_version_changes_the_bits() -> None:
    """They decide what is dropped, and a run that goes on must decide as it began."""
    y, x = np.mgrid[:32, :32]
    grey = (x * x + 3 * y + x * y // 7).clip(0, 255).astype(np.uint8)
    assert look(Image.fromarray(grey)) == 871784194787455807
    assert look(photograph(3)) >> np.uint64(63) == 0


# ---- bands ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", range(MAX_DISTANCE + 1))
def test_all_pairs_within_the_distance_meet_in_a_band(distance: int) -> None:
    draw, plan = random.Random(distance), plan_blocks(distance)
    looks = [draw.getrandbits(LOOK_BITS) for _ in range(300)]
    others = [
        each ^ sum(1 << bit for bit in draw.sample(range(LOOK_BITS), distance)) for each in looks
    ]
    keys = [look_keys(np.array(each, np.uint64), distance) for each in (looks, others)]
    assert keys[0].shape == (300, plan.bands)
    assert (keys[0] == keys[1]).any(axis=1).all()
    chance = (keys[0][:-1] == keys[0][1:]).mean()
    assert chance < 2 * 2**-MIN_KEY_BITS, "what is unlike hardly meets"
    assert plan.bands <= 66


def test_images_within_the_distance_are_near_and_no_others() -> None:
    likeness = LookLikeness(4)
    some = np.array([[0], [0], [0]], np.uint64)
    others = np.array([[0b1111], [0b11111], [1 << 63]], np.uint64)
    assert likeness.are_near(some, others).tolist() == [True, False, True]
    records = np.zeros(4, record_type(likeness.words, is_labelled=False))
    records["index"] = np.arange(4)
    records["sketch"][:, 0] = [0, 0b1111, 0b11111, 0b11110000]
    found = find_near(records, likeness.are_near)
    assert found.duplicates["index"].tolist() == [1, 3], "the first stays, and what is near to it"


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "fields", "why"),
    [
        ({}, PLAIN_IMAGE, None),
        ({"distance": 2}, PLAIN_IMAGE, None),
        ({"threshold": 0.7}, PLAIN_TEXT, None),
        ({}, get_task("object_detection").fields, None),
        ({"threshold": 0.7}, PLAIN_IMAGE, "`threshold` is of texts; of images say `distance`"),
        ({"distance": 4}, PLAIN_TEXT, "`distance` is of images; of texts say `threshold`"),
        ({}, get_task("audio_classification").fields, "role `audio`, of which nothing would be"),
        ({}, {**PLAIN_IMAGE, **PLAIN_TEXT}, "the documents have both; use exact"),
    ],
)
def test_settings_are_of_what_is_compared(said: Any, fields: Fields, why: str | None) -> None:
    found = find_wrong_dedup(NearDedup(**said), fields)
    assert found is None if why is None else why in (found or "")


def test_decoded_files_are_compared_where_there_are_some() -> None:
    assert find_wrong_dedup(DecodedDedup(), PLAIN_IMAGE) is None
    assert find_wrong_dedup(DecodedDedup(), get_task("speech_ctc").fields) is None
    assert "the documents have none; use exact" in (
        find_wrong_dedup(DecodedDedup(), PLAIN_TEXT) or ""
    )


def test_texts_keep_their_fingerprint() -> None:
    known = CleanSpec(dedup=NearDedup()).identity()["dedup"]
    assert known == {"name": "near", "threshold": 0.8, "ngram": 5}
    assert NearDedup(distance=2).identity()["distance"] == 2


# ---- in a job ------------------------------------------------------------------------------------


def write_sources(tmp_path: Path) -> tuple[SourceSpec, ...]:
    """30 images in one source; in another, as JPEG of another size, ten of these and ten others."""
    for i in range(30):
        (tmp_path / "a/x").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"a/x/{i:02}.png").write_bytes(as_file(photograph(i)))
    (tmp_path / "b/x").mkdir(parents=True)
    for i in range(2 * COPIES):
        image = photograph(i if i < COPIES else 100 + i).resize((120, 90))
        (tmp_path / f"b/x/{i:02}.jpg").write_bytes(as_file(image, "JPEG", quality=60))
    return tuple(
        SourceSpec(path=str(tmp_path / name), format="class_folders") for name in ("a", "b")
    )


def recipe_of(sources: tuple[SourceSpec, ...], **clean: Any) -> Recipe:
    return Recipe(
        sources=sources,
        clean=CleanSpec.model_validate({"dedup": "near", **clean}),
        holdout=0.3,
        seed=7,
        kind=RowKind(modality="image", length=None),
        reads=ImageProcessor,
        processor=ImageProcessor.fresh(ImageSpec(size=16)),
    )


def files_of(place: Location) -> dict[str, bytes]:
    return {entry.name: (place / entry.name).read_bytes() for entry in place.walk()}


def test_copies_across_sources_and_sides_of_the_holdout_are_dropped_and_shown(
    tmp_path: Path, place: Location
) -> None:
    sources = write_sources(tmp_path)
    (tmp_path / "b/x/white1.png").write_bytes(as_file(Image.new("L", (30, 30), 255)))
    (tmp_path / "b/x/white2.png").write_bytes(as_file(Image.new("L", (31, 30), 254)))
    (tmp_path / "b/x/cut.png").write_bytes(as_file(photograph(99))[:-200])
    sides = [
        {is_held_out(values_digest([file.read_bytes()]), 7, 0.3) for file in tmp_path.rglob(name)}
        for name in (f"x/{i:02}.*" for i in range(COPIES))
    ]
    assert sum(len(side) == 2 for side in sides) >= 2, "pairs would be on both sides"
    said: list[str] = []
    content = prepare_dataset(recipe_of(sources), place, execute_here, said.append)
    assert content["read"] == 53
    assert content["left_out"] == {NEAR: COPIES, image_decode.BROKEN: 1}
    assert documents(content) == 42, "images of one shade are near to none"
    assert content["near"] == {
        "distance": 4,
        "bits": 64,
        "bands": 5,
        "duplicates": COPIES,
        "label_conflicts": 0,
        "unseen": 0,
    }
    assert any("but for 4 bits of 64 meet in one of 5 bands" in line for line in said)
    rejects = [json.loads(line) for line in (place / REJECTS).read_text().splitlines()]
    assert {r["source"] for r in rejects if r["reason"] == NEAR} == {sources[1].path}
    card = (place / "card.json").read_json()
    shown = [each for each in card["sources"][1]["dropped"] if each["reason"] == NEAR]
    assert all(each["image"].startswith("data:image/png") for each in shown)
    assert "distance 4" in (place / "card.html").read_text()


def test_each_image_is_decoded_once_for_its_look_and_all_steps(
    tmp_path: Path, place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, decode = Counter[str](), image_decode.decode_image
    step_name = [""]

    def counted(data: bytes, channels: int) -> Image.Image:
        decoded[step_name[0]] += 1
        return decode(data, channels)

    def execute(step: Step) -> None:
        step_name[0] = step.name
        execute_here(step)

    monkeypatch.setattr(image_decode, "decode_image", counted)
    steps = [{"name": "size", "min_side": 9}, {"name": "blur", "min_variance": 0.1}, "aspect"]
    prepare_dataset(
        recipe_of(write_sources(tmp_path), steps=steps), place, execute, lambda text: None
    )
    assert decoded["read"] == 50
    assert set(decoded) <= {"read", "rows"}


def test_the_result_does_not_depend_on_who_does_what_in_which_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymodel.data.plan.MIN_PARTITION_BYTES", 100_000)
    monkeypatch.setattr("raymodel.data.dedup.plan.BUCKET_RECORDS", 20)
    recipe = recipe_of(write_sources(tmp_path / "data"))

    def in_any_order(step: Step) -> None:
        items = missing_items(step)
        for item in random.Random(len(items)).sample(items, len(items)):
            complete_item(step, item)

    one, other = (Location.parse(str(tmp_path / name)) for name in ("one", "other"))
    prepare_dataset(recipe, one, execute_here, lambda text: None)
    content = prepare_dataset(recipe, other, in_any_order, lambda text: None)
    assert content["left_out"] == {NEAR: COPIES}
    assert files_of(one) == files_of(other)


def test_near_images_of_another_label_are_kept_on_one_side_and_counted(
    tmp_path: Path, place: Location
) -> None:
    for i in range(40):
        for label, file in (
            ("x", as_file(photograph(i))),
            ("xy"[i % 2], as_file(photograph(i).resize((80, 60)), "JPEG", quality=60)),
        ):
            folder = tmp_path / label
            folder.mkdir(exist_ok=True)
            (folder / f"{i:02}-{len(file)}.png").write_bytes(file)
    sources = (SourceSpec(path=str(tmp_path), format="class_folders"),)
    spec = ImageClassificationSpec.model_validate({"image": {"size": 16}})
    recipe = replace(recipe_of(sources), kind=RowKind(task=spec, length=None))
    content = prepare_dataset(recipe, place, execute_here, lambda text: None)
    kept, apart_ = content["near"]["label_conflicts"], content["left_out"][NEAR_OTHER_LABEL]
    assert content["left_out"][NEAR] == 20
    assert kept + apart_ == 20
    assert kept > 3 < apart_
    looks = []
    for split in ("train", "holdout"):
        data = dataset_of(place, content, split)
        files = data.read(np.arange(data.num_rows))["image"].to_pylist()
        looks.append([look(Image.open(io.BytesIO(file))) for file in files])
    assert min(num_apart(a, b) for a in looks[0] for b in looks[1]) > 4, "on one side alone"


def test_too_many_that_share_a_band_are_said(
    tmp_path: Path, place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near, "MAX_LEADERS", 1)
    monkeypatch.setattr("raymodel.data.dedup.looks._band_masks", lambda d: np.zeros(5, np.uint64))
    said: list[str] = []
    prepare_dataset(recipe_of(write_sources(tmp_path)), place, execute_here, said.append)
    assert any(line.endswith("it may be kept. Lower `distance`") for line in said)


# ---- decoded -------------------------------------------------------------------------------------


def test_the_same_pixels_are_there_once_whatever_file_they_are_in(
    tmp_path: Path, place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in ("x", "y"):
        (tmp_path / label).mkdir()
    turn = Image.Exif()
    turn[0x0112] = 6
    for i in range(12):
        image = photograph(i)
        (tmp_path / f"x/{i:02}.png").write_bytes(as_file(image))
        if i < 4:
            (tmp_path / f"x/{i:02}.bmp").write_bytes(as_file(image, "BMP"))
        elif i < 8:
            (tmp_path / f"y/{i:02}.webp").write_bytes(as_file(image, "WEBP", lossless=True))
    sideways = photograph(0).transpose(Image.Transpose.ROTATE_90)
    (tmp_path / "x/turned.tiff").write_bytes(as_file(sideways, "TIFF", exif=turn))
    (tmp_path / "x/grey.png").write_bytes(as_file(photograph(1).convert("L")))
    (tmp_path / "x/broken.png").write_bytes(as_file(photograph(1))[:-200])
    decoded, decode = Counter[int](), image_decode.decode_image
    monkeypatch.setattr(
        image_decode,
        "decode_image",
        lambda data, channels: decoded.update([channels]) or decode(data, channels),
    )
    spec = ImageClassificationSpec.model_validate({"image": {"size": 16}})
    sources = (SourceSpec(path=str(tmp_path), format="class_folders"),)
    recipe = replace(
        recipe_of(sources, dedup="decoded", steps=[{"name": "size", "min_side": 9}]),
        kind=RowKind(task=spec, length=None),
    )

    def read_only(step: Step) -> None:
        execute_here(step)
        if step.name == "read":
            # Once for the step and for what is compared; the broken one also to be shown.
            assert decoded == {3: 23 + 1}

    content = prepare_dataset(recipe, place, read_only, lambda text: None)
    assert content["read"] == 23
    assert content["duplicates"] == 5, "four as BMP, and one that lies on its side in its file"
    assert content["label_conflicts"] == 4
    assert content["left_out"] == {image_decode.BROKEN: 1}
    sides = []
    for split in ("train", "holdout"):
        data = dataset_of(place, content, split)
        files = data.read(np.arange(data.num_rows))["image"].to_pylist()
        sides.append({Image.open(io.BytesIO(file)).convert("RGB").tobytes() for file in files})
    assert not sides[0] & sides[1], "also those of two labels fall on one side"
