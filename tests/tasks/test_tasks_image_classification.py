"""Images and their labels: what is left out, what chance changes, and what a model answers."""

import base64
import io
from contextlib import closing

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from served import call
from transformers import AutoModelForImageClassification, ResNetConfig

from raymodel.chance import Draw
from raymodel.modality.image import ImageProcessor
from raymodel.model.build import build_model
from raymodel.model.spec import ModelSpec
from raymodel.tasks import get_task
from raymodel.tasks.base import LeftOut, Limits
from raymodel.tasks.spec.image import ImageClassificationSpec

PROCESSOR = ImageProcessor(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
SPEC = ImageClassificationSpec.model_validate(
    {"image": {"size": 8, "channels": 1}, "augment": {"shift": 2, "rotate": 20, "flip": True}}
)
LABELS = ("circle", "square")


@pytest.fixture
def task():
    return get_task("image_classification")(SPEC, labels=LABELS, processor=PROCESSOR)


def picture(seed, side=8, mode="L"):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def rows(count):
    return {
        "image": [picture(seed) for seed in range(count)],
        "label": np.arange(count) % 2,
    }


def build_resnet(**config):
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    config = ResNetConfig(num_channels=1, num_labels=2, **sizes | config)
    config.id2label = dict(enumerate(LABELS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return AutoModelForImageClassification.from_config(config).eval()


def test_an_image_stays_encoded_until_it_is_needed(task):
    data = picture(0, side=20, mode="RGB")
    example = task.features({"image": data, "label": "square"}, None)
    assert example.features == {"image": data, "label": 1}
    assert task.features({"image": data}, None).features == {"image": data}
    assert task.collate({"image": [data]})["pixel_values"].shape == (1, 1, 8, 8)


@pytest.mark.parametrize("data", [b"", b"text", picture(0)[:-60], picture(0)[:40]])
def test_what_is_no_whole_image_is_left_out_with_its_reason(task, data):
    found = task.features({"image": data, "label": "square"}, None)
    assert isinstance(found, LeftOut)
    assert found.reason


def test_an_unknown_label_is_named_with_the_known_ones(task):
    with pytest.raises(ValueError, match=r"'triangle'.*circle, square"):
        task.features({"image": picture(0), "label": "triangle"}, None)


def test_chance_is_of_the_rows_place_and_there_is_none_in_evaluation(task):
    columns = rows(6)
    whole = task.collate(columns, Draw(7, 3, range(6)))["pixel_values"]
    for start, stop in ((0, 2), (2, 3), (3, 6)):
        part = {name: column[start:stop] for name, column in columns.items()}
        made = task.collate(part, Draw(7, 3, range(start, stop)))["pixel_values"]
        assert torch.equal(made, whole[start:stop])
    assert not torch.equal(task.collate(columns, Draw(7, 4, range(6)))["pixel_values"], whole)
    plain = task.collate(columns)["pixel_values"]
    assert torch.equal(plain, task.collate(columns)["pixel_values"])
    assert not torch.equal(plain, whole)


def test_the_loss_is_the_sum_over_images(task):
    model = build_resnet()
    batch = task.collate(rows(5))
    assert task.num_targets(batch) == 5
    expected = F.cross_entropy(
        model(batch["pixel_values"]).logits, batch["labels"], reduction="sum"
    )
    torch.testing.assert_close(task.loss(model, batch), expected)


MIXED = ImageClassificationSpec.model_validate(
    {"augment": {"shift": 2, "mixup": 0.3, "mixup_alpha": 1.0, "cutmix": 0.3}}
)


def with_partners(columns, by):
    """Each row beside the one so many places on, as the feed gives them."""
    around = {"image": columns["image"][by:] + columns["image"][:by]}
    around["label"] = np.roll(columns["label"], -by)
    return columns | {f"partner_{name}": column for name, column in around.items()}


@pytest.fixture
def mixing():
    return get_task("image_classification")(MIXED, labels=LABELS, processor=PROCESSOR)


def test_mixed_rows_are_the_same_whoever_collates_them(mixing):
    columns, draw = with_partners(rows(12), 5), Draw(7, 3, range(12))
    whole = mixing.collate(columns, draw)
    assert whole["partner_labels"].tolist() == columns["partner_label"].tolist()
    assert 0 < (whole["share"] == 1).sum() < 12, "some are mixed, and some not"
    for start, stop in ((0, 4), (4, 5), (5, 12)):
        part = {name: column[start:stop] for name, column in columns.items()}
        made = mixing.collate(part, draw.part(start, stop))
        assert all(torch.equal(made[name], whole[name][start:stop]) for name in whole)
    other = mixing.collate(with_partners(rows(12), 6), draw)
    is_mixed = whole["share"] < 1
    changed = (other["pixel_values"] != whole["pixel_values"]).flatten(1).any(1)
    assert torch.equal(changed, is_mixed), "what is mixed shows its partner, and nothing else does"


def test_an_image_that_is_not_mixed_is_what_it_is_without_mixing(mixing):
    columns, draw = with_partners(rows(12), 5), Draw(7, 3, range(12))
    alone = ImageClassificationSpec.model_validate({"augment": {"shift": 2}})
    plain = get_task("image_classification")(alone, labels=LABELS, processor=PROCESSOR)
    expected, made = plain.collate(rows(12), draw), mixing.collate(columns, draw)
    own = made["share"] == 1
    assert torch.equal(made["pixel_values"][own], expected["pixel_values"][own])
    assert not {"share", "partner_labels"} & set(expected)


def test_the_mixed_loss_is_that_of_both_labels_by_their_shares(mixing):
    model = build_resnet()
    batch = mixing.collate(with_partners(rows(12), 5), Draw(7, 3, range(12)))
    loss = mixing.loss(model, batch)
    loss.backward()
    gradient = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    log_probs = model(batch["pixel_values"]).logits.log_softmax(-1)
    soft = batch["share"][:, None] * F.one_hot(batch["labels"], 2)
    soft = soft + (1 - batch["share"][:, None]) * F.one_hot(batch["partner_labels"], 2)
    expected = -(soft * log_probs).sum()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, [parameter.grad for parameter in model.parameters()])
    plain = F.cross_entropy(model(batch["pixel_values"]).logits, batch["labels"], reduction="sum")
    assert abs((loss - plain).item()) > 1e-3, "it differs from the loss of one label"
    assert mixing.num_targets(batch) == 12


def test_nothing_is_mixed_without_chance(mixing):
    batch = mixing.collate(rows(4))
    assert set(batch) == {"pixel_values", "labels"}
    assert mixing.spec.wants_partners
    assert not SPEC.wants_partners


def test_answers_references_and_samples_are_for_people_and_for_servers(task):
    model, columns = build_resnet(), rows(4)
    answers, references = task.predict(model, columns, Limits()), task.references(columns)
    assert references == ["circle", "square", "circle", "square"]
    logits = model(task.collate(columns)["pixel_values"]).logits
    assert [answer["label"] for answer in answers] == [LABELS[int(i)] for i in logits.argmax(-1)]
    assert answers[2]["probs"] == pytest.approx(logits.softmax(-1)[2].tolist())
    scores = task.measure(answers, references, ["accuracy"])
    right = [a["label"] == r for a, r in zip(answers, references, strict=True)]
    assert scores["accuracy"] == np.mean(right)
    sample = task.sample(columns, 1, answers[1], references[1])
    assert base64.b64decode(sample.request["image"]) == columns["image"][1]
    assert sample.reference == "square"


def test_a_fresh_model_takes_the_images_that_the_job_names(task):
    processor = task.fresh_processor()
    assert (processor.size, processor.channels) == ((8, 8), 1)
    for architecture, config in (
        ("vit", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                 "intermediate_size": 8, "patch_size": 4}),
        ("resnet", {"embedding_size": 4, "hidden_sizes": [4], "depths": [1]}),
    ):  # fmt: skip
        spec = ModelSpec(architecture=architecture, config=config)
        model = build_model(spec, task, processor.model_fields(None))
        processor.check_fits(model)
        assert model.config.num_labels == 2
        assert model.config.num_channels == 1
    wrong = ImageProcessor(size=(8, 8), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ValueError, match=r"num_channels 3, and config\.json says 1"):
        wrong.check_fits(model)


def test_without_a_base_the_job_must_say_what_images_are():
    assert get_task("image_classification")().fresh_processor() is None


def test_a_server_answers_about_an_image_in_base64_and_refuses_what_is_none(task):
    from raymodel.serve.prediction import PredictionService
    from raymodel.serve.spec import ServeSpec

    plain = type(task)(labels=LABELS, processor=PROCESSOR)
    service = PredictionService(build_resnet(), plain, name="tiny", spec=ServeSpec())

    def ask(value):
        return call(service, "POST", "/predict", json={"model": "tiny", "inputs": {"image": value}})

    with closing(service):
        encoded = base64.b64encode(picture(1)).decode()
        [answer] = ask(encoded).json()["data"]
        assert answer["label"] in LABELS
        assert ask("data:image/png;base64," + encoded).json()["data"] == [answer]
        assert call(service, "GET", "/health").json()["fields"] == {"image": "image"}
        assert ask(plain.example_request()["image"]).status_code == 200
        for wrong, words in (
            ("?", "base64"),
            (base64.b64encode(b"no").decode(), "nothing to"),
            (3, "text"),
        ):
            response = ask(wrong)
            assert response.status_code == 400
            assert words in response.json()["error"]["message"]
        classified = call(service, "POST", "/classify", json={"model": "tiny", "input": "x"})
        assert classified.status_code == 404
