"""One head over a text or a pair: pairs as their tokenizer has them, several labels, numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import pearsonr, spearmanr
from served import call
from sklearn import metrics
from transformers import PreTrainedModel, TextClassificationPipeline

from raymodel.data.columns import columns_of
from raymodel.errors import ArtifactError
from raymodel.modality.text import TextProcessor
from raymodel.model.adapters import attach_adapter
from raymodel.model.build import build_model
from raymodel.model.initial import InitialWeights
from raymodel.model.load import load_for_use, open_model
from raymodel.model.materialise import materialise
from raymodel.model.purpose import find_task
from raymodel.model.spec import AdapterSpec, ModelSpec
from raymodel.serve.prediction import PredictionService
from raymodel.serve.spec import ServeSpec
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.agreement import label_set_scores, number_scores
from raymodel.tasks.base import Example, Limits, Task
from raymodel.testing.tiny import train_pair_tokenizer, train_tiny_tokenizer
from raymodel.train.step.batches import Collator

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LABELS = ("for", "if", "raise")
TASKS = ("text_classification", "multi_label_classification", "text_regression")
VALUE = {"text_classification": "if", "multi_label_classification": ["for", "raise"],
         "text_regression": 2.5}  # fmt: skip
PAIR = {"text": "a dog barks", "text_pair": "an animal makes a noise"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def processor() -> TextProcessor:
    return TextProcessor(train_pair_tokenizer(["a dog barks", "an animal makes a noise"]))


def task_of(name: str, processor: TextProcessor, *, pairs: bool = False) -> Task:
    kind = get_task(name)
    labels = LABELS if kind.class_role() else ()
    roles = kind.fields if pairs else None
    return kind(labels=labels, processor=processor, roles=roles)


def build(task: Task, architecture: str = "bert") -> PreTrainedModel:
    more = {"type_vocab_size": 2} if architecture == "bert" else {"num_key_value_heads": 2}
    spec = ModelSpec(architecture=architecture, config=SMALL | more)
    model = build_model(spec, task, task.processor.model_fields(64))
    return materialise(model, InitialWeights(model, 1), torch.float32).eval()


def columns(task: Task, *documents: dict[str, Any]) -> dict[str, Any]:
    """As a shard gives them."""
    import pyarrow as pa

    rows = []
    for document in documents:
        example = task.features(document, 64)
        assert isinstance(example, Example)
        rows.append(example.features)
    return columns_of(pa.Table.from_pylist(rows, schema=task.schema()))


def save(model: PreTrainedModel, processor: TextProcessor, folder: Path) -> Location:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Location.parse(str(folder))


# ---- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_length", [None, 18, 10, 5])
def test_a_pair_is_what_its_tokenizer_makes_of_it(
    processor: TextProcessor, max_length: int | None
) -> None:
    task = task_of("text_classification", processor, pairs=True)
    example = task.features({**PAIR, "label": "if"}, max_length)
    assert isinstance(example, Example)
    more = {} if max_length is None else {"truncation": "longest_first", "max_length": max_length}
    told = processor.tokenizer(*PAIR.values(), **more)
    assert example.features == {
        "input_ids": told["input_ids"],
        "token_type_ids": told["token_type_ids"],
        "pair_start": told["token_type_ids"].index(1),
        "label": 1,
    }
    whole, kept = processor.tokenizer(*PAIR.values()).sequence_ids(), told.sequence_ids()
    lost = [whole.count(number) > kept.count(number) for number in (0, 1)]
    assert example.cut == tuple(role for role, is_cut in zip(PAIR, lost, strict=True) if is_cut)


def test_a_length_without_room_for_both_texts_is_refused(processor: TextProcessor) -> None:
    task = task_of("text_regression", processor, pairs=True)
    with pytest.raises(ValueError, match=r"max_length 4.*3 special tokens"):
        task.features(PAIR, 4)


def test_a_tokenizer_without_a_form_for_pairs_is_refused_with_the_way_around() -> None:
    task = task_of("text_classification", TextProcessor(train_tiny_tokenizer(["a dog"])))
    with pytest.raises(ValueError, match=r"puts nothing between two texts.*leave .*text_pair out"):
        task.features(PAIR, 64)


def test_a_model_sees_which_text_is_which(processor: TextProcessor) -> None:
    task = task_of("text_classification", processor, pairs=True)
    model = build(task)
    rows = columns(task, {**PAIR, "label": "if"}, {"text": "a", "text_pair": "dog", "label": "for"})
    answers = task.predict(model, rows, Limits())
    for index, pair in enumerate([PAIR, {"text": "a", "text_pair": "dog"}]):
        told = processor.tokenizer(*pair.values(), return_tensors="pt")
        expected = model(**told).logits.softmax(-1)[0].tolist()
        assert answers[index]["probs"] == pytest.approx(expected, abs=1e-6)
    blind = {name: column for name, column in rows.items() if name != "token_type_ids"}
    assert answers[0]["probs"] != pytest.approx(
        task.predict(model, blind, Limits())[0]["probs"], abs=1e-5
    )
    batch = task.collate(rows)
    logits = model(**{name: batch[name] for name in batch if name != "labels"}).logits
    expected_loss = F.cross_entropy(logits, torch.tensor([1, 0]), reduction="sum")
    torch.testing.assert_close(task.loss(model, batch), expected_loss)


def test_a_decoder_takes_pairs_without_types(processor: TextProcessor) -> None:
    task = task_of("text_classification", processor, pairs=True)
    model = build(task, "llama")
    task.settle(model)
    rows = columns(task, {**PAIR, "label": "if"})
    assert len(task.predict(model, rows, Limits())[0]["probs"]) == 3
    assert task.loss(model, task.collate(rows)).isfinite()


def test_rows_of_single_texts_stay_as_they_were(processor: TextProcessor) -> None:
    assert task_of("text_classification", processor).schema().names == ["input_ids", "label"]


def test_a_sample_asks_for_both_texts(processor: TextProcessor) -> None:
    task = task_of("text_classification", processor, pairs=True)
    rows = columns(task, {**PAIR, "label": "if"})
    sample = task.sample(rows, 0, {"label": "for", "probs": [1.0, 0.0, 0.0]}, "if")
    assert sample.request == PAIR
    assert (sample.prompt, sample.answer, sample.reference) == (
        "a dog barks\nan animal makes a noise", "for", "if",
    )  # fmt: skip


# ---- several labels ------------------------------------------------------------------------------


def test_the_loss_of_labels_is_summed_over_classes_and_counted_in_rows(
    processor: TextProcessor,
) -> None:
    task = task_of("multi_label_classification", processor)
    model = build(task)
    documents = [{"text": "a dog", "label": ["for", "raise"]}, {"text": "a", "label": []}]
    batch = task.collate(columns(task, *documents))
    assert batch["labels"].tolist() == [[1, 0, 1], [0, 0, 0]]
    assert task.num_targets(batch) == 2
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = F.binary_cross_entropy_with_logits(logits, batch["labels"], reduction="sum")
    torch.testing.assert_close(task.loss(model, batch), expected)
    whole = task.loss(model, batch)
    parts = [task.collate(columns(task, document)) for document in documents]
    torch.testing.assert_close(sum(task.loss(model, part) for part in parts), whole)


def test_labels_are_those_that_are_more_likely_than_not(processor: TextProcessor) -> None:
    task = task_of("multi_label_classification", processor)
    model = build(task)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, -0.1, 2.0]))
    rows = columns(task, {"text": "a", "label": ["raise"]})
    [answer] = task.predict(model, rows, Limits())
    assert answer["labels"] == ["for", "raise"]
    assert answer["probs"] == pytest.approx([0.5, 1 / (1 + math.exp(0.1)), 1 / (1 + math.exp(-2))])
    assert task.references(rows) == [["raise"]]
    assert task.answer_text(answer) == "for, raise"
    assert task.answer_text({"labels": [], "probs": []}) == "none of the labels"


def test_scores_of_label_sets_equal_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    truth, predicted = (generator.random((2, 60, 5)) < 0.4).astype(int)
    truth[:, 4] = 0  # a class that is predicted and never true

    def named(flags: Any) -> list[list[str]]:
        return [[f"c{i}" for i in np.flatnonzero(row)] for row in flags]

    found = label_set_scores(named(predicted), named(truth), num_classes=5)
    given = {"y_true": truth, "y_pred": predicted}
    assert found == pytest.approx(
        {
            "micro_f1": metrics.f1_score(**given, average="micro", zero_division=0),
            "macro_f1": metrics.f1_score(**given, average="macro", zero_division=0),
            "subset_accuracy": metrics.accuracy_score(**given),
            "hamming_loss": metrics.hamming_loss(**given),
        }
    )
    assert label_set_scores([[], []], [[], []], num_classes=3) == {
        "micro_f1": 0.0, "macro_f1": 0.0, "subset_accuracy": 1.0, "hamming_loss": 0.0,
    }  # fmt: skip


# ---- numbers -------------------------------------------------------------------------------------


def test_the_loss_of_numbers_is_the_sum_of_squares_and_every_number_is_a_target(
    processor: TextProcessor,
) -> None:
    task = task_of("text_regression", processor)
    model = build(task)
    rows = columns(task, {"text": "a dog", "label": -100.0}, {"text": "a", "label": 0.5})
    batch = task.collate(rows)
    assert task.num_targets(batch) == 2
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = ((logits[:, 0] - torch.tensor([-100.0, 0.5])) ** 2).sum()
    torch.testing.assert_close(task.loss(model, batch), expected)
    [first, second] = task.predict(model, rows, Limits())
    assert [first["score"], second["score"]] == pytest.approx(logits[:, 0].tolist(), abs=1e-6)
    assert task.references(rows) == [-100.0, 0.5]
    assert task.answer_text({"score": 3.14159}) == "3.142"


def test_scores_of_numbers_equal_scipy_and_scikit_learn() -> None:
    generator = np.random.default_rng(4)
    truth = generator.integers(0, 6, 80).astype(float)  # with ties
    predicted = truth + generator.normal(0, 2, 80).round(1)
    found = number_scores(predicted.tolist(), truth.tolist())
    assert found == pytest.approx(
        {
            "mse": metrics.mean_squared_error(truth, predicted),
            "mae": metrics.mean_absolute_error(truth, predicted),
            "pearson": pearsonr(truth, predicted).statistic,
            "spearman": spearmanr(truth, predicted).statistic,
        }
    )
    assert math.isnan(number_scores([1.0, 1.0], [1.0, 2.0])["pearson"])


# ---- what all have -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_a_blank_batch_bears_no_loss_and_no_gradient(name: str, processor: TextProcessor) -> None:
    task = task_of(name, processor, pairs=True)
    model = build(task)
    collator = Collator(task, 1, seed=0)
    collator.learn_blank(columns(task, {**PAIR, "label": VALUE[name]}))
    blank = collator._blank_batch()
    assert task.num_targets(blank) == 0
    loss = task.loss(model, blank)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not model.classifier.weight.grad.any()


@pytest.mark.parametrize("name", TASKS)
def test_a_head_learns(name: str, processor: TextProcessor) -> None:
    torch.manual_seed(0)  # of what is dropped
    task = task_of(name, processor)
    model = build(task).train()
    documents = [
        {"text": "dog dog", "label": VALUE[name]},
        {"text": "noise a", "label": {"text_classification": "raise", "text_regression": -1.0}.get(
            name, [])},
    ]  # fmt: skip
    rows = columns(task, *documents)
    batch = task.collate(rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    answers = task.predict(model.eval(), rows, Limits())
    scores = task.measure(answers, task.references(rows), task.measures)
    assert set(scores) == set(task.measures)
    measure = next(iter(task.measures))
    assert scores[measure] == pytest.approx(0.0 if measure == "mse" else 1.0, abs=0.1)


@pytest.mark.parametrize("name", TASKS)
def test_a_folder_tells_its_task_and_is_used_without_the_job(
    name: str, processor: TextProcessor, tmp_path: Path
) -> None:
    task = task_of(name, processor)
    model = build(task)
    place = save(model, processor, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["problem_type"] == get_task(name).problem_type
    assert find_task(place) == name
    loaded, same = load_for_use(tmp_path, name)
    rows = columns(task, {"text": "a dog", "label": VALUE[name]})
    [answer], [again] = task.predict(model, rows, Limits()), same.predict(loaded, rows, Limits())
    assert again.keys() == answer.keys()
    # And transformers answers the same from the folder.
    pipeline = TextClassificationPipeline(model=loaded, tokenizer=same.processor.tokenizer)
    told = {each["label"]: each["score"] for each in pipeline("a dog", top_k=None)}
    given = answer.get("probs") or [answer["score"]]
    assert given == pytest.approx(again.get("probs") or [again["score"]], abs=1e-6)
    names = LABELS if len(given) > 1 else ("LABEL_0",)
    assert told == pytest.approx(dict(zip(names, given, strict=True)), abs=1e-6)


def test_a_folder_that_says_no_problem_is_one_of_classes(
    processor: TextProcessor, tmp_path: Path
) -> None:
    place = save(build(task_of("text_classification", processor)), processor, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"problem_type": None}))
    assert find_task(place) == "text_classification"


@pytest.mark.parametrize("name", TASKS)
def test_a_base_of_another_problem_gets_a_new_head_and_says_the_new_one(
    name: str, processor: TextProcessor, tmp_path: Path
) -> None:
    base = get_task("multi_label_classification")(labels=("x", "y"), processor=processor)
    place = save(build(base), processor, tmp_path)
    task = task_of(name, processor)
    model, stored = open_model(place, task)
    assert model.config.problem_type == get_task(name).problem_type
    assert model.config.num_labels == task.num_outputs
    assert "classifier.weight" in {*stored.missing, *stored.misshapen}


def test_a_model_of_several_classes_is_no_model_of_numbers(
    processor: TextProcessor, tmp_path: Path
) -> None:
    save(build(task_of("text_classification", processor)), processor, tmp_path)
    with pytest.raises(ArtifactError, match="classifier"):
        load_for_use(tmp_path, "text_regression")


@pytest.mark.parametrize("name", TASKS)
def test_an_adapter_leaves_the_head_to_train(name: str, processor: TextProcessor) -> None:
    task = task_of(name, processor)
    model = build_model(
        ModelSpec(architecture="bert", config=SMALL), task, processor.model_fields(64)
    )
    spec = AdapterSpec.model_validate({"lora": {"rank": 2, "target": ["query"]}})
    adapted = attach_adapter(model, spec, task)
    trained = {each for each, weight in adapted.named_parameters() if weight.requires_grad}
    assert any("classifier" in each for each in trained)
    assert all("classifier" in each or "lora" in each for each in trained)


# ---- serving -------------------------------------------------------------------------------------


def served(name: str, processor: TextProcessor, *calls: tuple[str, str, Any]) -> list[Any]:
    task = get_task(name)(processor=processor)
    model = build(task_of(name, processor))
    service = PredictionService(model, task, name="tiny", spec=ServeSpec(batch=4, queue=4))

    try:
        return [call(service, method, path, json=body).json() for method, path, body in calls]
    finally:
        service.close()


@pytest.mark.parametrize("name", TASKS)
def test_texts_and_pairs_are_served_together(name: str, processor: TextProcessor) -> None:
    task = task_of(name, processor)
    inputs = [{"text": "a dog"}, PAIR]
    health, told, wrong = served(
        name,
        processor,
        ("GET", "/health", None),
        ("POST", "/predict", {"model": "tiny", "inputs": inputs}),
        ("POST", "/predict", {"model": "tiny", "inputs": {"text_pair": "a"}}),
    )
    assert health["fields"] == {"text": "text"}
    assert health["optional_fields"] == {"text_pair": "text"}
    assert health["answers"] == task.answers
    assert "is given text, perhaps text_pair" in wrong["error"]["message"]
    model = build(task)
    for given, answer in zip(inputs, told["data"], strict=True):
        example = task.features(given, None)
        assert isinstance(example, Example)
        alone = task.predict(model, {k: [v] for k, v in example.features.items()}, Limits())[0]
        for key, value in alone.items():
            is_text = key in ("label", "labels")
            assert answer[key] == (value if is_text else pytest.approx(value, abs=1e-6))


def test_classify_has_the_most_probable_class_and_the_probabilities_of_all(
    processor: TextProcessor,
) -> None:
    body = {"model": "tiny", "input": "a dog"}
    for name in TASKS[:2]:
        predicted, told = served(
            name,
            processor,
            ("POST", "/predict", {"model": "tiny", "inputs": {"text": "a dog"}}),
            ("POST", "/classify", body),
        )
        [result], [answer] = told["data"], predicted["data"]
        assert result["probs"] == pytest.approx(answer["probs"], abs=1e-6)
        assert result["label"] == LABELS[int(np.argmax(answer["probs"]))]
        assert (sum(result["probs"]) == pytest.approx(1.0)) is (name == "text_classification")
    [told] = served("text_regression", processor, ("POST", "/classify", body))
    assert told["error"]["message"]
