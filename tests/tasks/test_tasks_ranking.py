"""Ranking: pairs of a row, the softmax over its candidates, measures by hand, reranking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from served import call
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from raymodel.chance import Draw
from raymodel.data.columns import columns_of
from raymodel.errors import ArtifactError
from raymodel.modality.text import TextProcessor
from raymodel.model.build import build_model
from raymodel.model.initial import InitialWeights
from raymodel.model.load import check_folder, load_for_use, open_model
from raymodel.model.materialise import materialise
from raymodel.model.purpose import find_task
from raymodel.model.spec import ModelSpec
from raymodel.serve.prediction import PredictionService
from raymodel.serve.spec import ServeSpec
from raymodel.storage.uri import Location
from raymodel.tasks import TASKS, get_task
from raymodel.tasks.base import Example, LeftOut, Limits, Task
from raymodel.tasks.spec.retrieval import RankingSpec
from raymodel.testing.tiny import build_tiny_bert, train_pair_tokenizer, train_tiny_tokenizer

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
ROWS = [
    {"query": "ann", "document": "ann reads files", "negatives": ["bo writes", "cy", "rome"]},
    {"query": "bo", "document": "bo writes rows", "negatives": ["ann reads"]},
    {"query": "cy", "document": "cy sorts words now", "negatives": ["bo", "ann and dee"]},
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def processor() -> TextProcessor:
    return TextProcessor(train_tiny_tokenizer(["ann reads files", "bo writes rows"]))


@pytest.fixture(scope="module")
def bert_processor() -> TextProcessor:
    """With the special tokens of BERT around and between two texts."""
    return TextProcessor(train_pair_tokenizer(["ann reads files", "bo writes rows"]))


def task_of(processor: TextProcessor, **spec: Any) -> Task:
    return get_task("ranking")(RankingSpec.model_validate(spec), processor=processor)


@pytest.fixture
def task(bert_processor: TextProcessor) -> Task:
    return task_of(bert_processor)


def build(task: Task, architecture: str = "bert") -> PreTrainedModel:
    config = SMALL | ({"num_key_value_heads": 2} if architecture == "llama" else {})
    needed = task.processor.model_fields(64)
    outline = build_model(ModelSpec(architecture=architecture, config=config), task, needed)
    model = materialise(outline, InitialWeights(outline, 1), torch.float32)
    head = model.classifier if architecture == "bert" else model.score
    head.weight.data *= 50  # fresh heads say nearly the same of everything
    return model


def columns(task: Task, *documents: dict[str, Any]) -> dict[str, Any]:
    """As a shard gives them."""
    import pyarrow as pa

    rows = []
    for document in documents:
        example = task.features(document, 64)
        assert isinstance(example, Example), example
        rows.append(example.features)
    return columns_of(pa.Table.from_pylist(rows, schema=task.schema()))


def score_of(model: PreTrainedModel, task: Task, query: str, document: str) -> torch.Tensor:
    """By transformers alone, one pair at a time and so without padding."""
    tokenizer = task.processor.tokenizer
    made = tokenizer(query, document)
    tensors = {name: torch.tensor([value]) for name, value in made.items()}
    assert tensors["token_type_ids"].unique().tolist() == [0, 1]
    if model.config.model_type == "llama":
        del tensors["token_type_ids"]
    return model(**tensors).logits[0, 0]


# ---- examples ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"query": "", "document": "a", "negatives": ["b"]}, "record with an empty query"),
        ({"query": "a", "document": " ", "negatives": ["b"]}, "query without a document"),
        ({"query": "a", "document": "b", "negatives": []}, "query without a negative"),
        ({"query": "a", "document": "b", "negatives": ["\n"]}, "record with an empty negative"),
        ({"query": "a", "document": "b", "negatives": ["b"]}, "document that is among its negat"),
    ],
)
def test_what_teaches_nothing_is_left_out(task: Task, values: dict[str, Any], reason: str) -> None:
    found = task.features(values, 64)
    assert isinstance(found, LeftOut)
    assert found.reason.startswith(reason)


def test_what_is_cut_is_counted_by_its_role(task: Task) -> None:
    long = "ann reads files " * 20
    values = {"query": "ann", "document": "a", "negatives": ["b", long]}
    example = task.features(values, 16)
    assert isinstance(example, Example)
    assert example.cut == ("negatives",)
    assert max(example.features["lengths"]) == 16
    both = task.features({"query": long, "document": long + "a", "negatives": ["b"]}, 16)
    assert isinstance(both, Example)
    assert both.cut == ("document", "query")


def test_a_tokenizer_without_a_form_for_pairs_is_refused(processor: TextProcessor) -> None:
    with pytest.raises(ValueError, match="no form for pairs"):
        task_of(processor).features(ROWS[0], 64)
    with pytest.raises(ValueError, match="no form for pairs"):
        task_of(processor).check_processor(processor)


def test_negatives_are_drawn_by_row_and_all_are_used_without_chance(
    bert_processor: TextProcessor,
) -> None:
    task = task_of(bert_processor, negatives=1)
    rows = columns(task, *ROWS)
    assert task.collate(rows)["owner"].tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    seen = set()
    for step in range(20):
        whole = task.collate(rows, Draw(7, step, range(3)))
        assert whole["owner"].tolist() == [0, 0, 1, 1, 2, 2]
        alone = {name: column[2:] for name, column in rows.items()}
        part = task.collate(alone, Draw(7, step, [2]))
        mask = part["attention_mask"][1].bool()
        ids = part["input_ids"][1][mask].tolist()
        assert ids == whole["input_ids"][5][whole["attention_mask"][5].bool()].tolist()
        seen.add(tuple(ids))
    assert len(seen) == 2


# ---- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_the_loss_is_the_softmax_over_the_candidates_of_each_row(
    task: Task, architecture: str
) -> None:
    model = build(task, architecture).eval()
    task.settle(model)
    expected = torch.tensor(0.0)
    for row in ROWS:
        texts = [row["document"], *row["negatives"]]
        scores = torch.stack([score_of(model, task, str(row["query"]), text) for text in texts])
        expected += torch.logsumexp(scores, 0) - scores[0]
    batch = task.collate(columns(task, *ROWS))
    assert task.num_targets(batch) == 3
    torch.testing.assert_close(task.loss(model, batch), expected, rtol=1e-5, atol=1e-5)
    one = {name: tensor[:1] for name, tensor in batch.items()} | {"labels": torch.tensor([-100])}
    blank = task.loss(model, one)
    blank.backward()  # of a worker without rows
    assert blank.item() == 0.0


def test_a_small_encoder_learns_rows_by_heart(task: Task) -> None:
    model, rows = build(task), columns(task, *ROWS)
    batch = task.collate(rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(40):
        (task.loss(model, batch) / 3).backward()
        optimizer.step()
        optimizer.zero_grad()
    answers = task.predict(model.eval(), rows, Limits())
    assert task.measure(answers, task.references(rows), [])["mrr"] == 1.0


# ---- answers -------------------------------------------------------------------------------------


def test_answers_are_scores_of_all_candidates_and_measured_by_the_rank_of_the_first(
    task: Task,
) -> None:
    model, rows = build(task).eval(), columns(task, *ROWS)
    answers = task.predict(model, rows, Limits())
    for row, answer in zip(ROWS, answers, strict=True):
        texts = [row["document"], *row["negatives"]]
        expected = [
            score_of(model, task, str(row["query"]), text).sigmoid().item() for text in texts
        ]
        assert answer["scores"] == pytest.approx(expected, abs=1e-5)
    given = [{"scores": scores} for scores in ([0.9, 0.1], [0.5, 0.5, 0.4], [0.1, *[0.2] * 10])]
    measured = task.measure(given, [0, 0, 0], [])  # ranks 1; 2, for nothing is won by a tie; 11
    assert measured["hit_rate@1"] == pytest.approx(1 / 3)
    assert measured["hit_rate@10"] == pytest.approx(2 / 3)
    assert measured["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 11) / 3)
    assert measured["ndcg@10"] == pytest.approx((1 + 0.6309297) / 3)
    assert measured.keys() == task.measures.keys()
    assert task.measure([{"scores": [float("nan"), 0.1]}], [0], [])["mrr"] == 0.5
    sample = task.sample(rows, 0, {"scores": [0.5, 0.7, 0.1, 0.2]}, 0)
    assert (sample.prompt, sample.answer) == ("ann", "rank 2 of 4 (0.500)")
    assert sample.request == {"query": "ann", "document": "ann reads files"}
    assert task.answer_text({"scores": [0.91]}) == "relevance 0.910"


# ---- folders -------------------------------------------------------------------------------------


def save(model: PreTrainedModel, processor: TextProcessor, folder: Path) -> Location:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Location.parse(str(folder))


def test_a_model_is_found_by_its_one_output_and_loads_as_a_cross_encoder(
    task: Task, tmp_path: Path
) -> None:
    model = build(task).eval()
    place = save(model, task.processor, tmp_path / "one")
    assert find_task(place) == "ranking"
    loaded, used = load_for_use(tmp_path / "one", "ranking")
    rows = columns(task, *ROWS)
    mine, same = (t.predict(m, rows, Limits()) for t, m in ((task, model), (used, loaded)))
    for one, other in zip(mine, same, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-6)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "one")
    assert plain.config.num_labels == 1
    classifier = build_tiny_bert(vocab_size=task.processor.num_ids)
    other = save(classifier, task.processor, tmp_path / "two")
    assert find_task(other) == "text_classification"
    with pytest.raises(ArtifactError, match="classifier"):
        check_folder(other, TASKS["ranking"]())
    _, stored = open_model(other, task)  # to be trained it is given a head of its own
    assert set(stored.missing) == {"classifier.weight", "classifier.bias"}
    theirs = pytest.importorskip("sentence_transformers")
    encoder = theirs.CrossEncoder(str(tmp_path / "one"), device="cpu")
    pairs = [("ann", "ann reads files"), ("bo", "rome")]
    expected = [score_of(model, task, *pair).sigmoid().item() for pair in pairs]
    assert encoder.predict(pairs).tolist() == pytest.approx(expected, abs=1e-5)


# ---- serving -------------------------------------------------------------------------------------


@pytest.fixture
def service(task: Task) -> Any:
    service = PredictionService(
        build(task).eval(), task, name="tiny", spec=ServeSpec(batch=4, queue=8)
    )
    yield service
    service.close()


def test_documents_are_ranked_and_scored(service: PredictionService, task: Task) -> None:
    texts = ["rome", "ann reads files", "bo", "nothing at all", "cy"]
    logits = [score_of(service.model, task, "ann", text) for text in texts]
    scores = [float(logit.detach().sigmoid()) for logit in logits]
    best = sorted(range(5), key=lambda index: -scores[index])
    body = {
        "model": "tiny",
        "query": "ann",
        "documents": [texts[0], {"text": texts[1]}, *texts[2:]],
    }
    told = call(service, "POST", "/rerank", json=body).json()
    assert [result["index"] for result in told["results"]] == best
    for result in told["results"]:
        assert result["relevance_score"] == pytest.approx(scores[result["index"]], abs=1e-5)
        assert result["document"] == {"text": texts[result["index"]]}
    assert told["usage"]["total_tokens"] > 10
    few = call(service, "POST", "/v1/rerank", json=body | {"top_n": 2, "return_documents": False})
    assert [result["index"] for result in few.json()["results"]] == best[:2]
    assert "document" not in few.json()["results"][0]
    pairs = {"model": "tiny", "text_1": "ann", "text_2": texts}
    scored = call(service, "POST", "/score", json=pairs).json()["data"]
    assert [each["score"] for each in scored] == pytest.approx(scores, abs=1e-5)
    twice = {"model": "tiny", "text_1": ["ann", "bo"], "text_2": ["rome", "ann"]}
    assert len(call(service, "POST", "/score", json=twice).json()["data"]) == 2
    health = call(service, "GET", "/health").json()
    assert health["answers"] == "scores"
    assert health["fields"] == {"query": "text", "document": "text"}
    path, question = service.question(TASKS["ranking"].example_request(), "tiny")
    answer = service.answer(call(service, "POST", path, json=question).json())
    assert task.answer_text(answer).startswith("relevance 0.")


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/rerank", {"query": "a", "documents": []}, "0 items; give at least 1"),
        ("/rerank", {"query": " ", "documents": ["a"]}, "empty query"),
        ("/rerank", {"query": "a", "documents": ["b", ""]}, "query without a document"),
        ("/rerank", {"query": "a", "documents": ["b"] * 13}, "at most 12"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["c"] * 3}, "text_1 has 2 texts and text_2 3"),
        ("/score", {"text_1": "a", "text_2": "b " * 100}, "at most 64"),
    ],
)
def test_requests_that_cannot_be_ranked_are_refused(
    service: PredictionService, path: str, body: dict[str, Any], told: str
) -> None:
    response = call(service, "POST", path, json=body | {"model": "tiny"})
    assert response.status_code == 400
    assert told in response.json()["error"]["message"]
