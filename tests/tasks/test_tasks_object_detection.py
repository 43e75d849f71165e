"""Objects become boxes of a model, and what it finds is measured as COCO does."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from served import call
from transformers import AutoModelForObjectDetection, DetrConfig, YolosConfig
from transformers.loss.loss_for_object_detection import HungarianMatcher

from raymodel.chance import Chance, Draw
from raymodel.modality.augment import augment_with
from raymodel.modality.boxes import Boxes
from raymodel.modality.image import ImageProcessor
from raymodel.modality.spec import AugmentSpec
from raymodel.model.build import build_model
from raymodel.model.spec import ModelSpec
from raymodel.tasks import get_task
from raymodel.tasks.base import LeftOut, Limits
from raymodel.tasks.loss import IGNORED
from raymodel.tasks.matching import Weights, corners, generalised_iou, match
from raymodel.tasks.objects import object_scores, read_objects
from raymodel.tasks.spec.image import ImageSegmentationSpec, ObjectDetectionSpec
from raymodel.tasks.template import FieldTypeError, RecordError

PROCESSOR = ImageProcessor(size=(16, 24), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
SPEC = ObjectDetectionSpec.model_validate({"augment": {"crop": 0.4, "flip": True, "shift": 2}})
LABELS = ("cat", "dog", "emu")
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "patch_size": 8,
    "num_detection_tokens": 6,
    "use_mid_position_embeddings": False,
}


@pytest.fixture
def task():
    return get_task("object_detection")(SPEC, labels=LABELS, processor=PROCESSOR)


def picture(seed, high=20, wide=40):
    pixels = np.random.default_rng(seed).integers(0, 256, (high, wide, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def objects(seed, count):
    draw = np.random.default_rng(seed)
    return [
        {"label": LABELS[int(draw.integers(3))], "box": [*draw.integers(0, 10, 2).tolist(), 8, 6]}
        for _ in range(count)
    ]


def rows(task, *counts):
    made = [
        task.features({"image": picture(i), "objects": objects(i, count)}, None).features
        for i, count in enumerate(counts)
    ]
    return {name: [row[name] for row in made] for name in made[0]}


def build_yolos(**said):
    config = YolosConfig(**SMALL | {"image_size": [16, 24], "num_labels": 3} | said)
    config.id2label = dict(enumerate(LABELS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return AutoModelForObjectDetection.from_config(config).eval()


# ---- data ----------------------------------------------------------------------------------------


def test_boxes_become_shares_of_their_image(task):
    found = {"label": "emu", "box": [10, 5, 20, 16]}  # a pixel too high, as rounding makes it
    example = task.features({"image": picture(0), "objects": [found]}, None)
    assert example.features["labels"] == [2]
    assert example.features["boxes"] == [0.25, 0.25, 0.75, 1.0]
    assert task.features({"image": picture(0), "objects": []}, None).features["labels"] == []
    assert task.features({"image": picture(0)}, None).features == {"image": picture(0)}
    outside = {"label": "emu", "box": [30, 5, 20, 10]}
    left_out = task.features({"image": picture(0), "objects": [found, outside]}, None)
    assert left_out == LeftOut("image with a box that reaches out of its image")
    with pytest.raises(ValueError, match="'yak' is not one of the 3 known"):
        task.features({"image": picture(0), "objects": [found | {"label": "yak"}]}, None)


def test_objects_are_read_as_rows_and_as_columns_or_refused():
    expected = [{"label": "cat", "box": [1.0, 2.0, 3.0, 4.0]}]
    box = [1, 2, 3, 4.0]
    for value in (
        [{"label": "cat", "box": box}],
        [{"category": "cat ", "bbox": box, "area": 12}],
        {"category": ["cat"], "bbox": [box], "id": [7]},
    ):
        assert read_objects(value, "objects") == expected
    assert read_objects({"category": [], "bbox": []}, "objects") == []
    for value in ("cat", [{"label": "cat"}], [{"label": "cat", "box": [1, 2, 3]}], {"bbox": [box]}):
        with pytest.raises(FieldTypeError, match="objects are a list of labels with the box"):
            read_objects(value, "objects")
    with pytest.raises(RecordError, match="box without an area"):
        read_objects([{"label": "cat", "box": [1, 2, 0, 4]}], "objects")


def test_a_box_goes_where_its_image_goes():
    """A bright rectangle on black: its box is known from the pixels."""
    spec = AugmentSpec(shift=4, flip=True, color=0.2)
    for turn in range(20):
        image = np.zeros((24, 32, 3), np.uint8)
        image[8:16, 10:22] = 200
        boxes = Boxes(np.array([[10 / 32, 8 / 24, 22 / 32, 16 / 24]]), np.array([5]), (24, 32))
        found, moved = augment_with(image, boxes, spec, Chance("boxes", turn))
        places, columns = np.nonzero(found[..., 0] > 50)
        expected = [columns.min() / 32, places.min() / 24]
        expected += [(columns.max() + 1) / 32, (places.max() + 1) / 24]
        np.testing.assert_allclose(moved.corners, [expected])


def test_what_a_crop_leaves_of_boxes_is_what_is_in_it():
    boxes = Boxes(np.array([[0.0, 0.0, 0.2, 0.2], [0.4, 0.4, 0.6, 0.8]]), np.array([1, 2]))
    part = boxes.scaled((10, 10), (10, 20, 30, 40), (40, 40))  # from (0.25, 0.5) to (0.75, 1)
    np.testing.assert_allclose(part.corners, [[0.3, 0.0, 0.7, 0.6]])
    assert part.labels.tolist() == [2]


def test_a_job_cannot_turn_boxes():
    with pytest.raises(ValidationError, match="rotate is 10, and the box"):
        ObjectDetectionSpec.model_validate({"augment": {"rotate": 10}})


@pytest.mark.parametrize("kind", [ObjectDetectionSpec, ImageSegmentationSpec])
def test_images_of_many_labels_are_not_mixed(kind):
    with pytest.raises(ValidationError, match=r"cutmix is 0.5, and only images"):
        kind.model_validate({"augment": {"cutmix": 0.5}})


# ---- training ------------------------------------------------------------------------------------


def test_chance_is_of_the_rows_place(task):
    columns = rows(task, 2, 0, 3, 1)
    whole = task.collate(columns, Draw(7, 3, range(4)))
    for index in range(4):
        part = {name: column[index : index + 1] for name, column in columns.items()}
        made = task.collate(part, Draw(7, 3, [index]))
        assert torch.equal(made["pixel_values"][0], whole["pixel_values"][index])
        width = made["labels"].shape[1]
        assert torch.equal(made["labels"][0], whole["labels"][index, :width])
        assert torch.equal(made["boxes"][0], whole["boxes"][index, :width])
        assert (whole["labels"][index, width:] == IGNORED).all()
    assert not torch.equal(task.collate(columns)["boxes"], whole["boxes"])


def test_the_loss_is_that_of_transformers_where_images_have_equally_many_objects(task):
    model, batch = build_yolos(), task.collate(rows(task, 3, 3))
    assert task.num_targets(batch) == 6
    told = [
        {"class_labels": labels, "boxes": boxes}
        for labels, boxes in zip(batch["labels"], batch["boxes"], strict=True)
    ]
    theirs = model(pixel_values=batch["pixel_values"], labels=told).loss
    torch.testing.assert_close(task.loss(model, batch) / 6, theirs)


def test_the_loss_does_not_hang_on_what_comes_together(task):
    model, columns = build_yolos(), rows(task, 3, 0, 1)
    batch = task.collate(columns)
    assert batch["labels"][1].tolist() == [3, IGNORED, IGNORED], "nothing is there"
    assert task.num_targets(batch) == 5
    alone = [
        task.loss(model, task.collate({name: [column[i]] for name, column in columns.items()}))
        for i in range(3)
    ]
    torch.testing.assert_close(task.loss(model, batch), sum(alone))
    assert all(loss > 0 for loss in alone)


def test_a_batch_without_a_target_bears_no_loss_and_has_a_gradient(task):
    model, batch = build_yolos(), task.collate(rows(task, 2))
    loss = task.loss(model, batch | {"labels": torch.full_like(batch["labels"], IGNORED)})
    loss.backward()
    assert loss.item() == 0
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_the_matching_is_that_of_transformers():
    draw = torch.Generator().manual_seed(1)
    logits, boxes = torch.randn(1, 8, 4, generator=draw), torch.rand(1, 8, 4, generator=draw)
    true, labels = torch.rand(5, 4, generator=draw), torch.tensor([0, 2, 1, 1, 0])
    theirs = HungarianMatcher(1, 5, 2)(
        {"logits": logits, "pred_boxes": boxes}, [{"class_labels": labels, "boxes": true}]
    )
    ours = match(logits[0], boxes[0], labels, true, Weights(1, 5, 2, 5, 2, 0.1))
    torch.testing.assert_close(ours, theirs[0])
    more = match(logits[0, :3], boxes[0, :3], labels, true, Weights(1, 5, 2, 5, 2, 0.1))
    assert len(more[0]) == 3, "objects that no query is left for"


def test_overlaps_are_from_apart_to_the_same():
    boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]])
    found = generalised_iou(corners(boxes), corners(boxes))
    torch.testing.assert_close(found, torch.tensor([[1, 0, 0.5], [0, 1, 0.5], [0.5, 0.5, 1]]))


# ---- models --------------------------------------------------------------------------------------


def test_a_fresh_model_of_either_family_takes_the_images(task):
    backbone = {
        "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
        "layer_type": "basic", "out_features": ["stage2"],
    }  # fmt: skip
    detr = {
        "backbone_config": backbone, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 5,
    }  # fmt: skip
    square = ImageProcessor(size=(16, 16), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    for architecture, config in (("detr", detr), ("yolos", SMALL)):
        spec = ModelSpec(architecture=architecture, config=config)
        model = build_model(spec, task, square.model_fields(None))
        square.check_fits(model)
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert model.config.num_labels == 3
    batch = task.collate(rows(task, 2, 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForObjectDetection.from_config(DetrConfig(**detr, num_labels=3))
    task.loss(model, batch).backward()
    assert model.bbox_predictor.layers[0].weight.grad.any()


def test_a_model_of_another_loss_is_refused(task):
    config = DetrConfig(backbone_config={"model_type": "resnet"})
    task.check_model(config)
    config.model_type = "rt_detr"
    with pytest.raises(ValueError, match=r"rt_detr, which learns by another loss"):
        task.check_model(config)


# ---- measures and answers ------------------------------------------------------------------------


def test_precision_is_that_of_coco():
    truth = [
        [{"label": "cat", "box": [0, 0, 10, 10]}, {"label": "dog", "box": [20, 0, 10, 10]}],
        [],
    ]
    right = [[each | {"score": 0.9} for each in truth[0]], []]
    assert object_scores(right, truth) == pytest.approx({"map": 1, "ap50": 1, "ap75": 1})
    half = [[right[0][0]], [{"label": "emu", "box": [0, 0, 5, 5], "score": 0.9}]]
    assert object_scores(half, truth)["ap50"] == pytest.approx(0.5)
    # It overlaps by 0.6: in three of ten thresholds.
    near = [[right[0][0] | {"box": [0, 0, 10, 6]}, right[0][1]], []]
    assert object_scores(near, truth)["map"] == pytest.approx((1 + 0.3) / 2, abs=0.001)
    assert object_scores([[], []], truth) == {"map": 0.0, "ap50": 0.0, "ap75": 0.0}
    assert object_scores(right, [[], []]) == {}


def test_answers_are_in_pixels_of_the_image_and_references_come_back(task):
    columns = rows(task, 2, 0)
    columns["image"][1] = picture(1, 50, 30)
    model = build_yolos()
    answers, references = task.predict(model, columns, Limits()), task.references(columns)
    assert len(answers[0]["objects"]) == 6
    scores = [each["score"] for each in answers[0]["objects"]]
    assert scores == sorted(scores, reverse=True)
    for each in answers[1]["objects"]:
        x, y, wide, high = each["box"]
        assert 0 <= x <= x + wide <= 30.001
        assert 0 <= y <= y + high <= 50.001
        assert each["label"] in LABELS
    for found, given in zip(references[0]["objects"], objects(0, 2), strict=True):
        assert found["label"] == given["label"]
        assert found["box"] == pytest.approx(given["box"], abs=1e-4)
    assert references[1] == {"objects": []}
    assert set(task.measure(answers, references, ["map"])) == set(task.measures)
    sample = task.sample(columns, 0, answers[0], references[0])
    assert base64.b64decode(sample.request["image"]) == columns["image"][0]
    assert sample.reference.startswith(objects(0, 1)[0]["label"])


def test_a_server_answers_with_boxes_and_its_page_can_show_them(task):
    from raymodel.serve.prediction import PredictionService
    from raymodel.serve.spec import ServeSpec

    service = PredictionService(build_yolos(), task, name="tiny", spec=ServeSpec())
    try:
        encoded = base64.b64encode(picture(1)).decode()
        for inputs in ({"image": encoded}, task.example_request()):
            body = {"model": "tiny", "inputs": inputs}
            [answer] = call(service, "POST", "/predict", json=body).json()["data"]
            assert set(answer["objects"][0]) == {"label", "score", "box"}
        assert call(service, "GET", "/health").json()["answers"] == "objects"
        assert 'answers === "objects"' in call(service, "GET", "/").text
    finally:
        service.close()
