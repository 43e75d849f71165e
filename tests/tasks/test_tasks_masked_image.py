"""Masked images: which patches are hidden, what the loss is, and what a classifier takes over."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig

from raymodel.chance import Draw
from raymodel.errors import SpecError
from raymodel.modality.image import ImageProcessor
from raymodel.model.adapters import AdaptedWeights, attach_adapter
from raymodel.model.build import build_model
from raymodel.model.initial import InitialWeights
from raymodel.model.load import load_for_use, open_model
from raymodel.model.materialise import materialise
from raymodel.model.spec import AdapterSpec, ModelSpec
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.autoencoder import cut_up
from raymodel.tasks.base import LeftOut, Limits
from raymodel.tasks.loss import IGNORED
from raymodel.tasks.spec.image import MaskedImageSpec

PROCESSOR = ImageProcessor(size=(12, 12), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
SIZES = {
    "patch_size": 4,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "decoder_hidden_size": 8,
    "decoder_intermediate_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
}
SHOWN, HIDDEN = 2, 7  # of nine patches, at 75 %


def picture(seed, side=12):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def rows(count):
    return {"image": [picture(seed) for seed in range(count)]}


def plain_task(**spec):
    return get_task("masked_image")(MaskedImageSpec.model_validate(spec), processor=PROCESSOR)


def outline(**config):
    spec = ModelSpec(architecture="vit_mae", config=SIZES | config)
    return build_model(spec, plain_task(), PROCESSOR.model_fields(None))


def build(**config):
    made = outline(**config)
    return materialise(made, InitialWeights(made, seed=3), torch.float32).eval()


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture
def task(model):
    return plain_task().for_model(model.config)


def test_an_image_without_a_label_stays_encoded_and_a_broken_one_is_left_out(task):
    assert task.features({"image": picture(0)}, None).features == {"image": picture(0)}
    assert isinstance(task.features({"image": picture(0)[:-60]}, None), LeftOut)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_the_loss_is_the_sum_over_the_hidden_patches_of_what_transformers_averages(norm_pix_loss):
    model = build(norm_pix_loss=norm_pix_loss)
    task = plain_task().for_model(model.config)
    batch = task.collate(rows(5), Draw(7, 3, range(5)))
    output = model(pixel_values=batch["pixel_values"], noise=batch["noise"])
    assert torch.equal(batch["labels"] != IGNORED, output.mask.bool()), "what is hidden is learnt"
    assert task.num_targets(batch) == 5 * HIDDEN
    assert task.num_positions(batch) == 5, "an image counts as one"
    torch.testing.assert_close(task.loss(model, batch), output.loss * 5 * HIDDEN)
    torch.testing.assert_close(
        cut_up(batch["pixel_values"], 4), model.patchify(batch["pixel_values"])
    )
    blank = batch["labels"].clone()
    blank[1:] = IGNORED
    alone = {name: value[:1] for name, value in batch.items()}
    torch.testing.assert_close(task.loss(model, batch | {"labels": blank}), task.loss(model, alone))


def test_the_loss_is_fp32_whatever_the_model_computes_in(task):
    half = build().to(torch.bfloat16)
    batch = task.collate(rows(2))
    assert task.loss(half, batch).dtype == torch.float32
    hidden = half(batch["pixel_values"].bfloat16(), noise=batch["noise"]).mask.bool()
    assert torch.equal(hidden, batch["labels"] != IGNORED)


def test_what_is_hidden_is_of_the_rows_place_and_anew_at_every_step(task):
    columns = rows(6)
    whole = task.collate(columns, Draw(7, 3, range(6)))
    for start, stop in ((0, 2), (2, 3), (3, 6)):
        part = {"image": columns["image"][start:stop]}
        made = task.collate(part, Draw(7, 3, range(start, stop)))
        assert all(torch.equal(made[name], whole[name][start:stop]) for name in whole)
    assert len({tuple(row.tolist()) for row in whole["labels"]}) > 1
    later = task.collate(columns, Draw(7, 4, range(6)))
    assert not torch.equal(later["labels"], whole["labels"])
    assert (whole["labels"] == IGNORED).sum(1).tolist() == [SHOWN] * 6


def test_without_chance_what_is_hidden_follows_from_the_image_alone(task):
    columns = rows(4)
    whole = task.collate(columns)
    turned = task.collate({"image": columns["image"][::-1]})
    assert torch.equal(turned["labels"].flip(0), whole["labels"])
    augmented = plain_task(augment={"flip": True, "crop": 0.3}).for_model(build().config)
    assert torch.equal(augmented.collate(columns)["pixel_values"], whole["pixel_values"])
    drawn = augmented.collate(columns, Draw(1, 1, range(4)))
    assert not torch.equal(drawn["pixel_values"], whole["pixel_values"])
    plain = task.collate(columns, Draw(1, 1, range(4)))
    assert torch.equal(drawn["labels"], plain["labels"]), "what changes an image hides nothing else"


def test_every_patch_is_hidden_as_often(task):
    columns = {"image": [picture(0)]}
    steps = [task.collate(columns, Draw(5, step, [0]))["labels"] != IGNORED for step in range(300)]
    share = torch.cat(steps).float().mean(0)
    assert share.sub(HIDDEN / 9).abs().max() < 0.1


def test_a_fresh_decoder_knows_where_it_paints(model):
    """transformers alone leaves its positions at zero, and they are never learnt."""
    kept = dict(model.named_parameters())
    for name in ("decoder.decoder_pos_embed", "vit.embeddings.position_embeddings"):
        positions = kept[name][0, 1:]
        assert not kept[name].requires_grad
        assert len({tuple(row) for row in positions.tolist()}) == 9, name
    assert kept["decoder.mask_token"].std() > 0


def test_the_answer_is_the_vector_of_the_whole_image(model, task):
    columns = rows(3)
    answers = task.predict(model, columns, Limits())
    found = torch.tensor([answer["embedding"] for answer in answers])
    assert found.shape == (3, 16)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert model.config.mask_ratio == 0.75, "it hides again after that"
    one = task.predict(model, {"image": columns["image"][1:2]}, Limits())
    torch.testing.assert_close(torch.tensor(one[0]["embedding"]), found[1])
    assert task.answer_text(answers[0]).startswith("16 numbers")
    assert not task.has_answers(columns)
    assert task.measure_loss(6.0, 3, 0) == {"reconstruction_error": 2.0}


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    place = tmp_path_factory.mktemp("autoencoder")
    model.save_pretrained(place)
    PROCESSOR.save_pretrained(place)
    return place


def test_a_classifier_takes_the_encoder_over_and_draws_a_head_alone(model, task, folder):
    classes = get_task("image_classification")(labels=("a", "b", "c"), processor=PROCESSOR)
    made, stored = open_model(Location.parse(str(folder)), classes)
    assert type(made).__name__ == "ViTForImageClassification"
    assert sorted(stored.missing) == ["classifier.bias", "classifier.weight"]
    assert made.config.id2label == {0: "a", 1: "b", 2: "c"}
    tuned = materialise(made, InitialWeights(made, 0, stored), torch.float32).eval()
    assert tuned.vit.embeddings.position_embeddings.requires_grad
    batch = task.collate(rows(2))
    encoded = tuned.vit(pixel_values=batch["pixel_values"]).last_hidden_state[:, 1:]
    expected = torch.nn.functional.normalize(encoded.mean(1), dim=-1).tolist()
    answers = task.predict(model, rows(2), Limits())
    for answer, vector in zip(answers, expected, strict=True):
        assert answer["embedding"] == pytest.approx(vector, abs=1e-5)


def test_a_folder_is_loaded_for_the_task_that_its_architecture_is_for(model, folder):
    from raymodel.model.purpose import find_task

    name = find_task(Location.parse(str(folder)))
    assert name == "masked_image"
    loaded, task = load_for_use(folder, name)
    batch = task.collate(rows(3))
    torch.testing.assert_close(task.loss(loaded, batch), task.loss(model, batch))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"patch_size": 5}, "patch_size is 5, and images of 12 pixels are no whole number"),
        ({"mask_ratio": 0.99}, "leaves 0 of the 9 patches .* make patch_size smaller"),
        ({"mask_ratio": 0.0}, "leaves 9 of the 9 patches"),
        ({"hidden_size": 18}, "hidden_size is 18.*multiple of 4"),
        ({"image_size": [12, 16]}, r"image_size is \[12, 16\].*takes squares"),
    ],
)
def test_a_model_that_cannot_learn_so_is_refused_before_it_is_built(config, words):
    with pytest.raises(SpecError, match=words):
        build(**config)


def test_an_encoder_without_a_decoder_that_paints_is_refused():
    with pytest.raises(ValueError, match=r"a 'vit' model has no decoder that paints.*vit_mae"):
        plain_task().check_model(AutoConfig.for_model("vit"))


@pytest.mark.parametrize("patch_size", [16, 5])
def test_where_the_size_of_images_is_not_known_nothing_is_said_of_it(patch_size):
    config = AutoConfig.for_model("vit_mae", patch_size=patch_size)
    get_task("masked_image")().check_model(config)


def test_an_adapter_learns_beside_a_frozen_autoencoder(task):
    spec = AdapterSpec.model_validate({"lora": {"rank": 2, "target": ["q_proj", "v_proj"]}})
    adapted = attach_adapter(outline(), spec, task)
    weights = AdaptedWeights(adapted, InitialWeights(outline(), 3), seed=0)
    adapted = materialise(adapted, weights, torch.float32)
    trained = [name for name, each in adapted.named_parameters() if each.requires_grad]
    assert len(trained) == 2 * 2 * 3, "two matrices beside each of two, in three layers"
    assert all("lora_" in name for name in trained)
    batch = task.collate(rows(2))
    torch.testing.assert_close(task.loss(adapted, batch), task.loss(build(), batch))


def test_a_server_gives_the_vector_of_an_image_and_takes_no_text(model):
    from fastapi.testclient import TestClient

    from raymodel.serve.app import build_app
    from raymodel.serve.prediction import PredictionService
    from raymodel.serve.spec import ServeSpec

    task = plain_task().for_model(model.config)
    service = PredictionService(model, task, name="tiny", spec=ServeSpec())
    with TestClient(build_app(service)) as client:
        asked = {"model": "tiny", "inputs": task.example_request()}
        [answer] = client.post("/predict", json=asked).json()["data"]
        assert len(answer["embedding"]) == 16
        assert client.post("/v1/embeddings", json={"input": "x"}).status_code == 404
