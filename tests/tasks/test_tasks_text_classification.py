"""Text classification: labels, padding, measures against scikit-learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score

from raymodel.modality.text import TextProcessor
from raymodel.tasks import get_task
from raymodel.tasks.agreement import accuracy, macro_f1
from raymodel.tasks.base import Limits
from raymodel.tasks.batch import encoder_inputs
from raymodel.testing.tiny import build_tiny_bert, train_tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tiny_tokenizer(["sport and business news"])


@pytest.fixture
def task(tokenizer):
    labels = ("business", "sport")
    return get_task("text_classification")(labels=labels, processor=TextProcessor(tokenizer))


def test_a_document_becomes_ids_and_the_number_of_its_label(task, tokenizer):
    example = task.features({"text": "Cup: final", "label": "sport"}, 64)
    assert example.features == {"input_ids": tokenizer("Cup: final")["input_ids"], "label": 1}
    assert example.cut == ()


def test_a_text_that_is_too_long_is_cut_and_said_to_be(task, tokenizer):
    length = len(tokenizer("Cup: final")["input_ids"])
    for max_length, cut in ((length, ()), (length - 1, ("text",)), (3, ("text",))):
        example = task.features({"text": "Cup: final", "label": "sport"}, max_length)
        assert len(example.features["input_ids"]) == max_length
        assert example.cut == cut


def test_an_unknown_label_is_named_with_the_known_ones(task):
    with pytest.raises(ValueError, match=r"'sprot'.*business, sport"):
        task.features({"text": "Cup", "label": "sprot"}, 64)


def test_a_request_has_no_label(task, tokenizer):
    example = task.features({"text": "Cup: final"}, None)
    assert example.features == {"input_ids": tokenizer("Cup: final")["input_ids"]}
    assert "labels" not in task.collate({"input_ids": [example.features["input_ids"]]})


def test_the_loss_is_the_sum_over_examples_whatever_the_padding(task):
    model = build_tiny_bert(task.labels).eval()
    rows = {"input_ids": [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15, 16]], "label": [0, 1]}
    batch = task.collate(rows)
    assert batch["input_ids"].shape == (2, 16)
    assert task.num_targets(batch) == 2
    expected = sum(
        F.cross_entropy(model(torch.tensor([ids])).logits, torch.tensor([label]))
        for ids, label in zip(rows["input_ids"], rows["label"], strict=True)
    )
    torch.testing.assert_close(task.loss(model, batch), expected)


def test_accuracy_and_macro_f1_equal_scikit_learn():
    generator = np.random.default_rng(5)
    truth, predicted = generator.integers(0, 4, 200), generator.integers(0, 5, 200)
    assert accuracy(truth, predicted) == pytest.approx(accuracy_score(truth, predicted))
    assert macro_f1(truth, predicted) == pytest.approx(
        f1_score(truth, predicted, average="macro", zero_division=0)
    )


def test_answers_are_compared_with_the_names_of_the_labels(task):
    model = build_tiny_bert(task.labels).eval()
    with torch.no_grad():  # always answers "sport"
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 1.0]))
    rows = {"input_ids": [[5, 6], [7], [8, 9, 10]], "label": [1, 0, 1]}
    answers, references = task.predict(model, rows, Limits()), task.references(rows)
    assert references == ["sport", "business", "sport"]
    assert answers[0]["label"] == "sport"
    assert answers[0]["probs"] == pytest.approx([1 / (1 + np.e), np.e / (1 + np.e)])
    scores = task.measure(answers, references, ["accuracy", "f1"])
    assert scores == pytest.approx({"accuracy": 2 / 3, "f1": 0.4})
    sample = task.sample(rows, 1, answers[1], references[1])
    assert (sample.answer, sample.reference) == ("sport", "business")
    assert task.answer_text(answers[0]) == "sport (73%)"


def test_a_model_with_other_numbers_for_its_labels_is_judged_by_their_names(task):
    model = build_tiny_bert(("sport", "business")).eval()
    with torch.no_grad():  # always answers its second label
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 1.0]))
    rows = {"input_ids": [[5, 6], [7]], "label": [1, 0]}
    answers = task.predict(model, rows, Limits())
    assert task.measure(answers, task.references(rows), ["accuracy"])["accuracy"] == 0.5
    assert [answer["label"] for answer in answers] == ["business", "business"]


def test_padding_beyond_the_last_position_of_the_model_is_taken_off(task):
    model = build_tiny_bert(task.labels).eval()
    batch = task.collate({"input_ids": [[5] * 61, [6]]})
    for positions, width in ((64, 64), (61, 61)):
        model.config.max_position_embeddings = positions
        inputs = encoder_inputs(batch, model)
        assert {name: value.shape for name, value in inputs.items()} == {
            "input_ids": (2, width),
            "attention_mask": (2, width),
        }
