"""Several classifiers that answer as one."""

import pytest
import torch
from asked import call, check_error
from pydantic import ValidationError

from raymodel.errors import ArtifactError
from raymodel.modality.text import TextProcessor
from raymodel.serve.ensemble import EnsembleService
from raymodel.serve.prediction import PredictionService
from raymodel.serve.spec import ServeSpec
from raymodel.tasks import get_task
from raymodel.testing.tiny import build_tiny_bert, train_tiny_tokenizer

TEXTS = ["def read_file(items)", "東京", "a"]


def classifier(labels, seed, texts=TEXTS, vocab_size=300):
    """One with a tokenizer and classes of its own."""
    tokenizer = train_tiny_tokenizer(texts * 3, vocab_size=vocab_size)
    torch.manual_seed(seed)
    model = build_tiny_bert(labels, vocab_size=len(tokenizer)).eval()
    for weight in model.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    task = get_task("text_classification")(processor=TextProcessor(tokenizer))
    return PredictionService(model, task, name="tiny", spec=ServeSpec(batch=4))


@pytest.fixture
def members():
    return [
        classifier(("no", "maybe", "yes"), 1),
        classifier(("yes", "no", "maybe"), 2, ["other words, another tokenizer"], 280),
    ]


@pytest.fixture
def ensemble(members):
    service = EnsembleService(members)
    yield service
    service.close()


def probs_of(service, **asked):
    body = {"model": "tiny", "input": TEXTS} | asked
    data = call(service, "POST", "/classify", json=body).json()["data"]
    return data, [dict(zip(service.labels, each["probs"], strict=True)) for each in data]


def test_probabilities_are_the_mean_of_the_members_whatever_the_order_of_their_classes(
    ensemble, members
):
    data, mean = probs_of(ensemble)
    (_, first), (_, second) = map(probs_of, members)
    for told, probs, one, other in zip(data, mean, first, second, strict=True):
        expected = {label: (one[label] + other[label]) / 2 for label in ("no", "maybe", "yes")}
        assert probs == pytest.approx(expected, abs=1e-5)
        assert told["label"] == max(expected, key=expected.__getitem__)
    assert first != second
    assert ensemble.health()["ensemble"] == 2
    assert ensemble.health()["labels"] == ["no", "maybe", "yes"]
    ensemble.probe()


def test_requests_are_refused_as_ever_and_cut_for_the_member_that_reads_least(ensemble, members):
    bad = call(ensemble, "POST", "/classify", json={"model": "tiny", "input": ""})
    check_error(bad, 400, "empty", param="input")
    for each in (*members, ensemble):
        each.max_input_tokens = 8
    long = {"model": "tiny", "input": "many words " * 20}
    check_error(call(ensemble, "POST", "/classify", json=long), 400, "at most 8", param="input")
    assert call(ensemble, "POST", "/classify", json=long | {"truncate": True}).status_code == 200
    answer = call(
        ensemble, "POST", "/predict", json={"model": "tiny", "inputs": {"text": "a"}}
    ).json()
    assert answer["data"][0]["label"] in ensemble.labels


def test_models_of_other_classes_or_of_none_are_refused(members, generation):
    other = classifier(("no", "maybe", "perhaps"), 3)
    with pytest.raises(ArtifactError, match=r"no, maybe, perhaps, and the first no, maybe, yes"):
        EnsembleService([members[0], other])
    with pytest.raises(ArtifactError, match="causal_lm"):
        EnsembleService([members[0], generation])


def test_what_is_followed_is_one_model():
    with pytest.raises(ValidationError, match="watch changes one model"):
        ServeSpec(watch="best", ensemble=("a/best",))
    with pytest.raises(ValidationError, match="twice"):
        ServeSpec(ensemble=("a/best", "a/best"))
    assert "ensemble" not in ServeSpec(ensemble=("a/best",)).identity()
