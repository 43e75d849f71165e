"""Embedding: texts of a row, pooling, the contrastive loss, measures, folders and serving."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from served import call
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from raymodel.chance import Draw
from raymodel.data.columns import columns_of
from raymodel.errors import ArtifactError
from raymodel.modality.embedding import EmbeddingProcessor
from raymodel.model.build import build_model
from raymodel.model.export import save_model
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
from raymodel.tasks.spec.retrieval import EmbeddingSpec
from raymodel.tasks.texts import key_of, texts_of
from raymodel.testing.tiny import (
    ModelWeights,
    build_tiny_bert,
    build_tiny_llama,
    train_tiny_tokenizer,
)

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
PAIRS = [
    {"query": "read a file", "positive": "def read(path): return open(path).read()"},
    {"query": "sort rows", "positive": "def sort(rows): return sorted(rows)"},
    {"query": "count words", "positive": "def count(words): return len(words)"},
    {"query": "drop keys", "positive": "def drop(table): table.clear()"},
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def processor() -> EmbeddingProcessor:
    texts = [text for pair in PAIRS for text in pair.values()]
    return EmbeddingProcessor(train_tiny_tokenizer(texts, vocab_size=300))


def task_of(processor: EmbeddingProcessor, **spec: Any) -> Task:
    return get_task("embedding")(EmbeddingSpec.model_validate(spec), processor=processor)


@pytest.fixture
def task(processor: EmbeddingProcessor) -> Task:
    return task_of(processor)


def build(task: Task, architecture: str = "bert") -> PreTrainedModel:
    config = SMALL | ({"num_key_value_heads": 2} if architecture == "llama" else {})
    needed = task.processor.model_fields(64)
    model = build_model(ModelSpec(architecture=architecture, config=config), task, needed)
    return materialise(model, InitialWeights(model, 1), torch.float32)


def columns(task: Task, *documents: dict[str, Any], max_length: int = 64) -> dict[str, Any]:
    """As a shard gives them."""
    import pyarrow as pa

    rows = []
    for document in documents:
        example = task.features(document, max_length)
        assert isinstance(example, Example), example
        rows.append(example.features)
    return columns_of(pa.Table.from_pylist(rows, schema=task.schema()))


def vector_of(model: PreTrainedModel, task: Task, text: str, pooling: str = "mean") -> torch.Tensor:
    """By transformers alone, one text at a time and so without padding. (D,)"""
    ids = torch.tensor([task.processor.tokenizer(text)["input_ids"]])
    hidden_TD = model(ids).last_hidden_state[0]
    pooled = {"mean": hidden_TD.mean(0), "cls": hidden_TD[0], "last": hidden_TD[-1]}[pooling]
    return F.normalize(pooled, dim=0)


# ---- examples ------------------------------------------------------------------------------------


def test_a_row_holds_query_positive_and_negatives_end_to_end(task: Task) -> None:
    document = PAIRS[0] | {"negatives": ["close it", "open"]}
    rows = columns(task, document, PAIRS[1])
    texts = [task.processor.decode(ids) for ids in texts_of(rows, 0)]
    assert texts == [document["query"], document["positive"], *document["negatives"]]
    assert len(texts_of(rows, 1)) == 2
    batch = task.collate(rows)
    assert batch["side"].tolist() == [0, 0, 1, 1, 2, 2]
    assert batch["owner"].tolist() == [0, 1, 0, 1, 0, 0]
    assert task.num_targets(batch) == 2
    assert batch["input_ids"].shape[1] % 8 == 0
    ids = batch["input_ids"][2][batch["attention_mask"][2] == 1]
    assert task.processor.decode(ids) == document["positive"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"query": " ", "positive": "a"}, "record with an empty query"),
        ({"query": "a", "positive": "\n"}, "query without a positive"),
        ({"query": "a", "positive": "b", "negatives": ["c", ""]}, "record with an empty negative"),
        ({"query": "a", "positive": "b", "negatives": ["b"]}, "positive that is among its negat"),
    ],
)
def test_what_teaches_nothing_is_left_out(task: Task, values: dict[str, Any], reason: str) -> None:
    found = task.features(values, 64)
    assert isinstance(found, LeftOut)
    assert found.reason.startswith(reason)


def test_each_text_is_cut_by_itself_and_counted_by_its_role(task: Task) -> None:
    long = "read the file " * 30
    example = task.features({"query": "a", "positive": long, "negatives": ["b", "no " + long]}, 16)
    assert example.cut == ("positive", "negatives")
    assert example.features["lengths"][1:] == [16, 1, 16]


def test_negatives_are_drawn_by_row_whatever_the_cut(processor: EmbeddingProcessor) -> None:
    task = task_of(processor, negatives=2)
    many = {"negatives": [f"number {index}" for index in range(6)]}
    rows = columns(task, *(pair | many for pair in PAIRS))

    def negatives(batch: dict[str, torch.Tensor]) -> list[int]:
        return batch["key"][batch["side"] == 2].tolist()

    whole = negatives(task.collate(rows, Draw(7, 3, range(4))))
    parts = [
        negatives(task.collate({n: c[i : i + 2] for n, c in rows.items()}, Draw(7, 3, [i, i + 1])))
        for i in (0, 2)
    ]
    assert len(whole) == 8
    assert whole == parts[0] + parts[1]
    other = negatives(task.collate(rows, Draw(7, 4, range(4))))
    assert other != whole
    assert len(negatives(task.collate(rows))) == 24  # without chance all


# ---- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "pooling"), [("bert", "mean"), ("bert", "cls"), ("llama", "last")]
)
def test_the_loss_is_the_softmax_over_all_documents_of_the_step(
    processor: EmbeddingProcessor, architecture: str, pooling: str
) -> None:
    task = task_of(processor, pooling=pooling, temperature=0.1)
    model = build(task, architecture).eval()
    documents = [PAIRS[0], PAIRS[1] | {"negatives": ["rows", "not sorted at all"]}, PAIRS[2]]
    queries = [vector_of(model, task, each["query"], pooling) for each in documents]
    texts = [each["positive"] for each in documents] + documents[1]["negatives"]
    candidates = torch.stack([vector_of(model, task, text, pooling) for text in texts])
    logits = torch.stack(queries) @ candidates.T / 0.1
    expected = F.cross_entropy(logits, torch.arange(3), reduction="sum")
    loss = task.loss(model, task.collate(columns(task, *documents)))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


SAME_DOCUMENT = {"query": "look into files", "positive": PAIRS[0]["positive"]}
SAME_QUERY = {"query": PAIRS[1]["query"], "positive": "rows.sort()"}


@pytest.mark.parametrize(
    ("extra", "wrong"),
    [(SAME_DOCUMENT, [[1], [0, 2], [1]]), (SAME_QUERY, [[1, 2], [0], [0]])],
    ids=["document", "query"],
)
def test_an_equal_document_and_that_of_an_equal_query_are_not_wrong(
    task: Task, extra: dict[str, str], wrong: list[list[int]]
) -> None:
    model, documents = build(task).eval(), [*PAIRS[:2], extra]
    queries, positives = (
        torch.stack([vector_of(model, task, each[role]) for each in documents])
        for role in ("query", "positive")
    )
    scores = queries @ positives.T / 0.05
    expected = sum(
        torch.logsumexp(scores[row, [row, *others]], 0) - scores[row, row]
        for row, others in enumerate(wrong)
    )
    loss = task.loss(model, task.collate(columns(task, *documents)))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_rows_that_bear_no_loss_are_nobodys_negatives(task: Task) -> None:
    model = build(task).eval()
    batch = task.collate(columns(task, *PAIRS))
    batch["labels"][2:] = -100
    two = task.loss(model, task.collate(columns(task, *PAIRS[:2])))
    torch.testing.assert_close(task.loss(model, batch), two, rtol=1e-5, atol=1e-5)
    batch["labels"][:] = -100
    none = task.loss(model, batch)
    none.backward()  # every worker has a backward pass
    assert none.item() == 0.0


def test_a_small_encoder_learns_pairs_by_heart(task: Task) -> None:
    model, rows = build(task), columns(task, *PAIRS)
    batch = task.collate(rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(40):
        (task.loss(model, batch) / 4).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    answers = task.predict(model, rows, Limits())
    assert task.measure(answers, task.references(rows), [])["recall@1"] == 1.0


# ---- answers -------------------------------------------------------------------------------------


def test_answers_are_the_vectors_of_both_sides(task: Task) -> None:
    model = build(task).eval()
    rows = columns(task, *PAIRS[:2])
    answers = task.predict(model, rows, Limits())
    for pair, answer in zip(PAIRS, answers, strict=False):
        for name, text in (("embedding", pair["query"]), ("document", pair["positive"])):
            expected = vector_of(model, task, text)
            torch.testing.assert_close(torch.tensor(answer[name]), expected, rtol=1e-5, atol=1e-5)
    request = task.features({"query": "sort rows"}, None).features
    [asked] = task.predict(model, {name: [value] for name, value in request.items()}, Limits())
    assert list(asked) == ["embedding"]
    assert asked["embedding"] == pytest.approx(answers[1]["embedding"], abs=1e-5)
    sample = task.sample(rows, 0, answers[0], task.references(rows)[0])
    assert (sample.prompt, sample.reference) == (PAIRS[0]["query"], PAIRS[0]["positive"])
    assert sample.answer.startswith("similarity ")
    assert sample.request == {"query": PAIRS[0]["query"]}
    assert task.answer_text(asked).startswith("32 numbers (")


def test_measures_by_hand(task: Task) -> None:
    def unit(degrees: float) -> list[float]:
        return [float(np.cos(np.deg2rad(degrees))), float(np.sin(np.deg2rad(degrees)))]

    # Document A stands twice, and query 3 has two documents: neither counts as a wrong one.
    rows = [(1, "A", 0, 0), (2, "B", 0, 20), (3, "C", 90, 80), (3, "D", 90, 85), (4, "A", 10, 0)]
    answers = [{"embedding": unit(q), "document": unit(d)} for _, _, q, d in rows]
    references = [{"query": q, "document": key_of([ord(d)])} for q, d, _, _ in rows]
    scores = task.measure(answers, references, [])
    # Ranks 1; 2 behind A; 1 (D is right too); 1; 2 with B as near as A.
    ranks = [1, 2, 1, 1, 2]
    assert scores["recall@1"] == pytest.approx(3 / 5)
    assert scores["recall@10"] == 1.0
    assert scores["mrr"] == pytest.approx(sum(1 / rank for rank in ranks) / 5)
    assert scores["ndcg@10"] == pytest.approx(sum(1 / np.log2(1 + rank) for rank in ranks) / 5)


def test_a_model_that_says_the_same_of_everything_finds_nothing(task: Task) -> None:
    references = [{"query": index, "document": index + 100} for index in range(20)]
    for number in (1.0, float("nan")):
        answers = [{"embedding": [number, 0.0], "document": [1.0, 0.0]}] * 20
        assert task.measure(answers, references, [])["recall@10"] == 0.0


# ---- folders -------------------------------------------------------------------------------------


def export(task: Task, model: PreTrainedModel, folder: Path) -> Location:
    card = {"name": "tiny", "pipeline_tag": task.pipeline_tag}
    save_model(model, ModelWeights(model), task.processor, folder, torch.float32, card)
    return Location.parse(str(folder))


@pytest.mark.parametrize(("architecture", "pooling"), [("bert", "cls"), ("llama", "last")])
def test_what_is_saved_gives_the_same_vectors_by_transformers_and_sentence_transformers(
    processor: EmbeddingProcessor, tmp_path: Path, architecture: str, pooling: str
) -> None:
    task = task_of(processor, pooling=pooling)
    model = build(task, architecture).eval()
    place = export(task, model, tmp_path / "model")
    assert find_task(place) == "embedding"
    loaded, used = load_for_use(tmp_path / "model", "embedding")
    texts = ["read a file", "sort"]
    rows = columns(used, *({"query": text, "positive": "a"} for text in texts))
    mine = [answer["embedding"] for answer in used.predict(loaded, rows, Limits())]
    plain = AutoModel.from_pretrained(tmp_path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    for text, vector in zip(texts, mine, strict=True):
        hidden = plain(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        pooled = hidden[0] if pooling == "cls" else hidden[-1]
        assert F.normalize(pooled, dim=0).tolist() == pytest.approx(vector, abs=1e-5)
    theirs = pytest.importorskip("sentence_transformers")
    encoder = theirs.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(encoder.encode(texts), np.array(mine), atol=1e-5)


def test_a_base_says_how_to_pool_and_the_job_may_say_otherwise(
    processor: EmbeddingProcessor, tmp_path: Path
) -> None:
    place = export(task_of(processor, pooling="cls"), build(task_of(processor)), tmp_path / "m")
    kind = get_task("embedding")
    assert kind().reading_as(place).pooling == "cls"
    chosen = kind(EmbeddingSpec(pooling="last")).reading_as(place)
    assert chosen.pooling == "last"
    chosen.processor.save(Location.parse(str(tmp_path / "dataset")))
    again = EmbeddingProcessor.load(Location.parse(str(tmp_path / "dataset")))
    assert again.pooling == "last"
    plain = tmp_path / "plain"
    processor.save_pretrained(plain)
    assert kind().reading_as(Location.parse(str(plain))).pooling == "mean"
    newer = {"pooling_mode": "lasttoken", "embedding_dimension": 32}
    (tmp_path / "m/1_Pooling/config.json").write_text(json.dumps(newer))
    assert kind().reading_as(place).pooling == "last"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"1_Pooling": {"pooling_mode_max_tokens": True}}, "pools by max_tokens.* mean, cls, last"),
        ({"modules": ["Transformer", "Pooling", "Dense"]}, "makes vectors by .*, Dense; .*without"),
    ],
)
def test_a_base_whose_vectors_are_made_otherwise_is_refused(
    processor: EmbeddingProcessor, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    place = export(task_of(processor), build(task_of(processor)), tmp_path)
    if "modules" in change:
        modules = [{"type": f"sentence_transformers.models.{each}"} for each in change["modules"]]
        (tmp_path / "modules.json").write_text(json.dumps(modules))
    else:
        (tmp_path / "1_Pooling/config.json").write_text(json.dumps(change["1_Pooling"]))
    with pytest.raises(ArtifactError, match=message):
        get_task("embedding")().reading_as(place)


def test_a_base_may_be_a_classifier_a_decoder_or_lack_a_pooler(task: Task, tmp_path: Path) -> None:
    classifier = build_tiny_bert(vocab_size=task.processor.num_ids)
    assert classifier.bert.pooler is not None
    bases = {
        "classifier": classifier,
        "pooler": classifier.bert,
        "decoder": build_tiny_llama(vocab_size=task.processor.num_ids),
        "none": build(task),
    }
    for name, base in bases.items():
        base.save_pretrained(tmp_path / name)
        model, stored = open_model(Location.parse(str(tmp_path / name)), task)
        assert (stored.missing, stored.extra) == ((), ()), name
        assert not any("pooler" in key for key in model.state_dict())
    check_folder(Location.parse(str(tmp_path / "none")), TASKS["embedding"]())


# ---- serving -------------------------------------------------------------------------------------


@pytest.fixture
def service(task: Task) -> Any:
    service = PredictionService(
        build(task).eval(), task, name="tiny", spec=ServeSpec(batch=4, queue=4)
    )
    yield service
    service.close()


def test_vectors_are_served_as_openai_and_tei_have_them(
    service: PredictionService, task: Task
) -> None:
    texts = ["read a file", "sort"]
    expected = [vector_of(service.model, task, text).tolist() for text in texts]
    body = {"model": "tiny", "input": texts, "user": "someone"}
    told = call(service, "POST", "/v1/embeddings", json=body).json()
    assert (told["object"], told["model"]) == ("list", "tiny")
    assert told["usage"]["prompt_tokens"] == told["usage"]["total_tokens"] > 2
    assert [each["index"] for each in told["data"]] == [0, 1]
    for each, vector in zip(told["data"], expected, strict=True):
        assert each["embedding"] == pytest.approx(vector, abs=1e-5)
    packed = call(
        service, "POST", "/v1/embeddings", json=body | {"encoding_format": "base64"}
    ).json()
    for each, plain in zip(packed["data"], told["data"], strict=True):
        numbers = np.frombuffer(base64.b64decode(each["embedding"]), dtype="<f4")
        np.testing.assert_allclose(numbers, np.float32(plain["embedding"]))
    assert call(service, "POST", "/embed", json={"inputs": texts}).json() == [
        each["embedding"] for each in told["data"]
    ]
    long = {"inputs": "read " * 500, "truncate": True}
    assert len(call(service, "POST", "/embed", json=long).json()[0]) == 32
    assert call(service, "GET", "/health").json()["answers"] == "vector"
    path, question = service.question(TASKS["embedding"].example_request(), "tiny")
    answer = service.answer(call(service, "POST", path, json=question).json())
    assert task.answer_text(answer).startswith("32 numbers")


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/v1/embeddings", {"model": "tiny", "input": ""}, "empty query"),
        ("/v1/embeddings", {"model": "tiny", "input": [1, 2]}, "input.0 is 1: give a text"),
        ("/v1/embeddings", {"model": "tiny", "input": "a", "dimensions": 8}, "have 32 numbers"),
        ("/v1/embeddings", {"model": "tiny", "input": "read " * 500}, "at most 64"),
        ("/embed", {"inputs": "a", "normalize": False}, "normalize is false: give true"),
        ("/embed", {"inputs": []}, "inputs"),
    ],
)
def test_requests_that_have_no_vector_are_refused(
    service: PredictionService, path: str, body: dict[str, Any], told: str
) -> None:
    response = call(service, "POST", path, json=body)
    assert response.status_code == 400
    assert told in response.json()["error"]["message"]


def test_a_job_that_cuts_the_step_is_refused_before_it_runs() -> None:
    from raymodel.job.check import check_step
    from raymodel.job.spec import Job

    job = {
        "name": "tiny",
        "cluster": {"workers": 2},
        "finetune": {
            "task": "embedding",
            "base": "base",
            "sources": [{"path": "pairs.jsonl"}],
            "global_batch": 16,
            "micro_batch": 4,
            "duration": "2 steps",
        },
    }
    [problem] = check_step(Job.model_validate(job))
    assert problem.path == ("finetune", "micro_batch")
    assert "2 passes, of which none sees the others; leave out micro_batch, use 4 workers" in (
        problem.rule
    )
    job["finetune"]["task"] = "ranking"
    assert [*check_step(Job.model_validate(job))] == []
