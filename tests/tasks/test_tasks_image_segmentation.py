"""Masks become the classes of pixels, and what is found is counted pixel by pixel."""

import base64
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from served import call
from sklearn.metrics import accuracy_score, jaccard_score
from transformers import AutoModelForSemanticSegmentation, SegformerConfig

from raymodel.chance import Draw
from raymodel.modality.image import ImageProcessor
from raymodel.modality.mask import decode_mask, encode_mask
from raymodel.modality.spec import IGNORED
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.base import LeftOut, Limits
from raymodel.tasks.pixel_scores import class_ious, pixel_counts, pixel_scores
from raymodel.tasks.spec.image import ImageSegmentationSpec
from raymodel.testing.scenes import CLASSES, SMALL_SEGFORMER, scenes

PROCESSOR = ImageProcessor(size=(16, 16), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
SPEC = ImageSegmentationSpec.model_validate(
    {
        "classes": {"road": 7, "ground": 0, "car": 300},
        "augment": {"crop": 0.5, "flip": True, "rotate": 20, "color": 0.2},
    }
)
LABELS = ("ground", "road", "car")


@pytest.fixture
def task():
    return get_task("image_segmentation")(SPEC, labels=SPEC.named_classes, processor=PROCESSOR)


def as_png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def picture(seed, high=20, wide=24):
    return as_png(np.random.default_rng(seed).integers(0, 256, (high, wide, 3), np.uint8))


def numbers(seed, high=20, wide=24):
    """Of three classes, some ignored."""
    found = np.random.default_rng(seed).integers(0, 4, (high // 4, wide // 4), np.uint8)
    return np.kron(np.where(found == 3, np.uint8(IGNORED), found), np.ones((4, 4), np.uint8))


def rows(count):
    return {
        "image": [picture(seed) for seed in range(count)],
        "mask": [encode_mask(numbers(seed)) for seed in range(count)],
    }


def build_segformer(labels=LABELS):
    config = SegformerConfig(**SMALL_SEGFORMER, num_labels=len(labels))
    config.id2label = dict(enumerate(labels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return AutoModelForSemanticSegmentation.from_config(config).eval()


# ---- data ----------------------------------------------------------------------------------------


def test_the_values_of_a_mask_become_the_numbers_of_the_classes(task):
    assert task.labels == LABELS, "in the order of the values"
    values = np.zeros((20, 24), np.uint16)
    values[0], values[1], values[2] = 7, 300, 255
    example = task.features({"image": picture(0), "mask": as_png(values)}, None)
    assert example.features["image"] == picture(0)
    found = decode_mask(example.features["mask"])
    assert [found[row, 0] for row in range(4)] == [1, 2, IGNORED, 0]
    assert example.classes == LABELS
    assert task.features({"image": picture(0)}, None).features == {"image": picture(0)}


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.full((20, 24), 8, np.uint8), "mask with the value 8, which is of no class"),
        (np.zeros((24, 20), np.uint8), "mask of another size than its image"),
        (np.full((20, 24), 255, np.uint8), "mask in which every pixel is ignored"),
        (np.zeros((20, 24, 3), np.uint8), "mask of colours; its pixels must be numbers"),
    ],
)
def test_what_is_no_mask_of_the_image_is_left_out_with_its_reason(task, mask, reason):
    found = task.features({"image": picture(0), "mask": as_png(mask)}, None)
    assert isinstance(found, LeftOut)
    assert found.reason.startswith(reason)
    assert isinstance(task.features({"image": b"x", "mask": as_png(mask)}, None), LeftOut)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"classes": {"a": 0, "b": 0}}, "the value 0 is that of 'a' and of 'b'"),
        ({"classes": {"a": 0, "b": 255}}, r"of `ignore` and of 'b'.*set ignore: null"),
        ({"classes": {"a": -1}}, "greater than or equal to 0"),
    ],
)
def test_values_that_cannot_be_told_apart_are_refused(said, words):
    with pytest.raises(ValidationError, match=words):
        ImageSegmentationSpec.model_validate(said)


def test_a_value_of_255_is_a_class_where_none_is_ignored():
    spec = ImageSegmentationSpec(classes={"ground": 0, "ink": 255}, ignore=None)
    task = get_task("image_segmentation")(spec, labels=spec.named_classes, processor=PROCESSOR)
    mask = np.zeros((20, 24), np.uint8)
    mask[3] = 255
    example = task.features({"image": picture(0), "mask": as_png(mask)}, None)
    assert decode_mask(example.features["mask"]).max() == 1


def test_the_job_must_say_two_classes():
    assert "does not say its classes" in str(ImageSegmentationSpec().lack_for_examples)
    one = ImageSegmentationSpec(classes={"a": 0})
    assert "names 1 classes; it needs two" in str(one.lack_for_examples)
    assert SPEC.lack_for_examples is None


# ---- training ------------------------------------------------------------------------------------


def test_chance_is_of_the_rows_place_and_the_masks_go_with_their_images(task):
    columns = rows(6)
    whole = task.collate(columns, Draw(7, 3, range(6)))
    for start, stop in ((0, 2), (2, 3), (3, 6)):
        part = {name: column[start:stop] for name, column in columns.items()}
        made = task.collate(part, Draw(7, 3, range(start, stop)))
        for name in ("pixel_values", "labels"):
            assert torch.equal(made[name], whole[name][start:stop])
    plain = task.collate(columns)
    assert torch.equal(plain["labels"], task.collate(columns)["labels"])
    assert not torch.equal(plain["labels"], whole["labels"])
    assert plain["labels"].shape == (6, 16, 16)


def test_the_loss_is_the_sum_over_the_pixels_that_are_not_ignored(task):
    model, batch = build_segformer(), task.collate(rows(3))
    count = int((batch["labels"] != IGNORED).sum())
    assert 0 < count < batch["labels"].numel()
    assert task.num_targets(batch) == count
    theirs = model(pixel_values=batch["pixel_values"], labels=batch["labels"].long()).loss
    ours = task.loss(model, batch)
    torch.testing.assert_close(ours, theirs * count)
    parts = [{name: value[i : i + 1] for name, value in batch.items()} for i in range(3)]
    torch.testing.assert_close(sum(task.loss(model, part) for part in parts), ours)


def test_the_gradient_is_that_of_torchs_own_loss(task):
    batch, gradients = task.collate(rows(2)), []
    for is_ours in (True, False):
        model = build_segformer()
        if is_ours:
            task.loss(model, batch).backward()
        else:
            logits = model(batch["pixel_values"]).logits
            logits = F.interpolate(logits, (16, 16), mode="bilinear", align_corners=False)
            F.cross_entropy(
                logits, batch["labels"].long(), ignore_index=IGNORED, reduction="sum"
            ).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients)


def test_a_batch_without_a_target_bears_no_loss(task):
    batch = task.collate(rows(1))
    blank = batch | {"labels": torch.full_like(batch["labels"], task.no_target)}
    assert task.num_targets(blank) == 0
    assert task.loss(build_segformer(), blank).item() == 0


# ---- measures and answers ------------------------------------------------------------------------


def test_measures_are_those_of_scikit_learn_over_all_pixels():
    truth = [numbers(seed) for seed in range(4)]
    found = [np.where(numbers(seed + 9) == IGNORED, 0, numbers(seed + 9)) for seed in range(4)]
    counts = [pixel_counts(*pair, LABELS) for pair in zip(truth, found, strict=True)]
    is_measured = np.concatenate([t.ravel() for t in truth]) != IGNORED
    true, given = (
        np.concatenate([each.ravel() for each in side])[is_measured] for side in (truth, found)
    )
    ious = jaccard_score(true, given, average=None)
    assert class_ious(counts) == pytest.approx(dict(zip(LABELS, ious, strict=True)))
    scores = pixel_scores(counts)
    assert scores["mean_iou"] == pytest.approx(ious.mean())
    assert scores["pixel_accuracy"] == pytest.approx(accuracy_score(true, given))


def test_a_class_that_neither_has_is_in_no_mean_and_one_that_is_missed_is_0():
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    found = np.zeros((1, 4), np.uint8)
    counts = [pixel_counts(truth, found, LABELS)]
    assert class_ious(counts) == {"ground": pytest.approx(2 / 3), "road": 0.0}
    assert pixel_scores(counts)["mean_iou"] == pytest.approx(1 / 3)


def test_readings_are_taken_in_the_size_of_each_image(task):
    model, columns = build_segformer(), rows(3)
    columns["image"][2], columns["mask"][2] = picture(2, 40, 12), encode_mask(numbers(2, 40, 12))
    readings = task.readings(model, columns)
    answers = task.predict(model, {"image": columns["image"]}, Limits())
    for reading, answer, data in zip(readings, answers, columns["mask"], strict=True):
        truth, found = decode_mask(data), decode_mask(base64.b64decode(answer["mask"]))
        assert found.shape == truth.shape
        expected = pixel_counts(truth.astype(np.uint8), found.astype(np.uint8), LABELS)
        assert reading == expected
    assert set(task.measure_readings(readings)) == set(task.measures)
    [table] = task.tables([], [], readings)
    ious = class_ious(readings)
    assert {name: float(iou) for name, iou in table.rows} == pytest.approx(ious, abs=1e-4)
    assert table.brief.startswith(f"least overlap: {min(ious, key=ious.get)} ")


def test_an_answer_tells_the_share_of_each_class(task):
    model, columns = build_segformer(), rows(2)
    answers, references = task.predict(model, columns, Limits()), task.references(columns)
    found = decode_mask(base64.b64decode(answers[0]["mask"]))
    for each in answers[0]["classes"]:
        assert LABELS[each["number"]] == each["label"]
        assert each["share"] == pytest.approx((found == each["number"]).mean())
    shares = [each["share"] for each in answers[0]["classes"]]
    assert shares == sorted(shares, reverse=True)
    sample = task.sample(columns, 1, answers[1], references[1])
    assert base64.b64decode(sample.request["image"]) == columns["image"][1]
    assert sample.reference == task.answer_text(references[1])
    assert "%" in sample.answer


def test_a_processor_that_cuts_shows_this_task_all(tmp_path):
    place = Location.parse(str(tmp_path))
    ImageProcessor(size=(16, 16), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, scale_to=20).save(
        place
    )
    assert get_task("image_segmentation")().reading_as(place).processor == PROCESSOR
    assert get_task("image_classification")().reading_as(place).processor.scale_to == 20


def test_a_server_answers_with_a_mask_and_its_page_can_show_it(task):
    from raymodel.serve.prediction import PredictionService
    from raymodel.serve.spec import ServeSpec

    plain = type(task)(labels=LABELS, processor=PROCESSOR)
    service = PredictionService(build_segformer(), plain, name="tiny", spec=ServeSpec())
    try:
        encoded = base64.b64encode(picture(1, 30, 18)).decode()
        body = {"model": "tiny", "inputs": {"image": encoded}}
        [answer] = call(service, "POST", "/predict", json=body).json()["data"]
        assert decode_mask(base64.b64decode(answer["mask"])).shape == (30, 18)
        health = call(service, "GET", "/health").json()
        assert (health["answers"], health["fields"]) == ("mask", {"image": "image"})
        body["inputs"] = plain.example_request()
        assert call(service, "POST", "/predict", json=body).status_code == 200
        body["inputs"] = {"image": encoded, "mask": encoded}
        assert call(service, "POST", "/predict", json=body).status_code == 400
        assert 'answers === "mask"' in call(service, "GET", "/").text
    finally:
        service.close()


def test_scenes_are_the_same_again_and_their_boxes_hold_their_masks():
    made, again = list(scenes(3, side=48)), list(scenes(3, side=48))
    for scene, other in zip(made, again, strict=True):
        np.testing.assert_array_equal(scene.mask, other.mask)
        assert scene.boxes
        inside = np.zeros(scene.mask.shape, bool)
        for name, left, top, wide, high in scene.boxes:
            here = (slice(top, top + high), slice(left, left + wide))
            assert (scene.mask[here] == CLASSES[name]).any()
            inside[here] = True
        assert not scene.mask[~inside].any()
