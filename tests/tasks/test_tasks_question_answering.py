"""Question answering: windows that hold answers, the loss, the best piece, SQuAD's scores."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from served import call
from transformers import AutoModelForQuestionAnswering, PreTrainedModel

from raymodel.chance import Draw
from raymodel.data.columns import columns_of
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
from raymodel.tasks.base import Example, LeftOut, Limits, Task
from raymodel.tasks.squad import answer_scores, normalised, place_answers, read_answers
from raymodel.tasks.template import FieldTypeError, RecordError
from raymodel.tasks.windows import Window, find_answer, windows_of
from raymodel.testing.tiny import build_tiny_bert, train_pair_tokenizer
from raymodel.train.step.batches import Collator

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "type_vocab_size": 2,
}
CONTEXT = " ".join(f"w{i}" for i in range(40))
QUESTION = "which one?"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def task() -> Task:
    tokenizer = train_pair_tokenizer([CONTEXT, QUESTION], vocab_size=320)
    return get_task("question_answering")(processor=TextProcessor(tokenizer))


def build(task: Task) -> PreTrainedModel:
    spec = ModelSpec(architecture="bert", config=SMALL)
    model = build_model(spec, task, task.processor.model_fields(64))
    return materialise(model, InitialWeights(model, 1), torch.float32).eval()


def document(answer: str | None, context: str = CONTEXT) -> dict[str, Any]:
    answers = [] if answer is None else [{"text": answer, "start": context.index(answer)}]
    return {"context": context, "question": QUESTION, "answers": answers}


def columns(task: Task, *documents: dict[str, Any], length: int = 32) -> dict[str, Any]:
    """As a shard gives them."""
    import pyarrow as pa

    rows = []
    for each in documents:
        example = task.features(each, length)
        assert isinstance(example, Example), example
        rows.append(example.features)
    return columns_of(pa.Table.from_pylist(rows, schema=task.schema()))


def are_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Answers, of which the order of sums may change the last digits."""
    score = pytest.approx(other["score"], rel=1e-4)
    return one | {"score": 0} == other | {"score": 0} and bool(one["score"] == score)


# ---- windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 16, 24, 64])
def test_windows_cover_the_context_and_overlap(task: Task, size: int | None) -> None:
    windows, is_cut = windows_of(task.processor.tokenizer, QUESTION, CONTEXT, size)
    assert not is_cut
    assert windows[0].offsets[0][0] == 0
    assert windows[-1].offsets[-1][1] == len(CONTEXT)
    for before, after in pairwise(windows):
        assert after.offsets[0][0] < before.offsets[-1][1], "they overlap"
        assert after.offsets[0][0] > before.offsets[0][0], "and go on"
    assert all(len(window.input_ids) <= (size or 999) for window in windows)
    assert (len(windows) == 1) is (size is None)


def test_a_question_gets_half_of_the_room_and_says_that_it_was_cut(task: Task) -> None:
    values = document("w3") | {"question": " ".join("abcdefgh" * 9)}
    example = task.features(values, 32)
    assert isinstance(example, Example)
    assert example.cut == ("question",)
    assert 2 + 12 <= example.features["pair_start"] <= 2 + 14
    with pytest.raises(ValueError, match=r"max_length 4.*3 special tokens"):
        task.features(values, 4)


@pytest.mark.parametrize("answer", ["w0", "w17 w18", "w39", "w5 w6 w7"])
def test_the_own_window_of_a_row_has_the_answer(task: Task, answer: str) -> None:
    example = task.features(document(answer), 32)
    assert isinstance(example, Example)
    row = example.features
    start, end = row["span"]
    assert task.processor.decode(row["input_ids"][start : end + 1]).strip() == answer
    assert len(row["input_ids"]) <= 32
    lengths, ids = row["other_lengths"], row["other_ids"]
    assert sum(lengths) == len(ids)
    assert len(row["other_spans"]) == 2 * len(lengths)
    assert lengths, "the context is longer than a window"
    for i, length in enumerate(lengths):
        other = ids[sum(lengths[:i]) :][:length]
        first, last = row["other_spans"][2 * i : 2 * i + 2]
        if (first, last) != (0, 0):
            assert task.processor.decode(other[first : last + 1]).strip() == answer
        else:
            assert f"{answer} " not in task.processor.decode(other) + " "


def test_no_answer_is_the_token_that_begins(task: Task) -> None:
    example = task.features(document(None), 32)
    assert isinstance(example, Example)
    assert example.features["span"] == [0, 0]
    assert not any(example.features["other_spans"])
    assert example.features["answers"] == []


def test_an_answer_that_no_window_holds_leaves_its_record_out(task: Task) -> None:
    left_out = LeftOut("record whose answer is in no window whole")
    assert task.features(document(CONTEXT[:90]), 32) == left_out
    empty = task.features(document(None, context=""), 32)
    assert empty == LeftOut("record whose context is nothing to the tokenizer")


# ---- training ------------------------------------------------------------------------------------


def test_a_batch_is_as_the_tokenizer_makes_it_and_its_loss_does_not_know_the_padding(
    task: Task,
) -> None:
    model = build(task)
    documents = [document("w5"), document("w1", context="w0 w1 w2"), document(None)]
    rows = columns(task, *documents, length=40)
    batch = task.collate(rows)
    told = task.processor.tokenizer(QUESTION, "w0 w1 w2")
    width = len(told["input_ids"])
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        assert batch[name][1, :width].tolist() == told[name]
        assert not batch["token_type_ids"][1, width:].any()
    assert task.num_targets(batch) == 3
    expected = torch.tensor(0.0)
    for i in range(3):
        length = int(batch["attention_mask"][i].sum())
        inputs = {n: batch[n][i : i + 1, :length] for n in batch if n != "labels"}
        output = model(**inputs)
        for logits, place in zip((output.start_logits, output.end_logits), batch["labels"][i],
                                 strict=True):  # fmt: skip
            expected = expected + F.cross_entropy(logits, place[None]) / 2
    torch.testing.assert_close(task.loss(model, batch), expected)


def test_training_shows_the_own_window_half_of_the_time_and_others_by_chance(task: Task) -> None:
    rows = columns(task, document("w17"))
    own = rows["input_ids"][0].tolist()
    shown = []
    for step in range(200):
        batch = task.collate(rows, Draw(3, step, [5]))
        ids = batch["input_ids"][0, : int(batch["attention_mask"][0].sum())].tolist()
        start, end = batch["labels"][0].tolist()
        shown.append(tuple(ids))
        if (start, end) != (0, 0):
            assert task.processor.decode(ids[start : end + 1]).strip() == "w17"
    assert 70 < shown.count(tuple(own)) < 130
    assert len(set(shown)) == 1 + len(rows["other_lengths"][0])
    again = task.collate(columns(task, document("w1"), document("w17")), Draw(3, 7, [9, 5]))
    alone = task.collate(rows, Draw(3, 7, [5]))
    length = int(alone["attention_mask"].sum())
    assert torch.equal(again["input_ids"][1, :length], alone["input_ids"][0, :length])


def test_a_blank_batch_bears_no_loss(task: Task) -> None:
    model, collator = build(task), Collator(task, 1, seed=0)
    collator.learn_blank(columns(task, document("w5")))
    blank = collator._blank_batch()
    assert task.num_targets(blank) == 0
    loss = task.loss(model, blank)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not model.qa_outputs.weight.grad.any()


def test_it_learns_and_answers_from_any_window(task: Task) -> None:
    torch.manual_seed(0)  # of what is dropped
    model = build(task).train()
    long = CONTEXT + " the red fox " + CONTEXT
    rows = columns(task, document("red fox", long), document(None), length=62)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(120):
        optimizer.zero_grad()
        task.loss(model, task.collate(rows, Draw(0, step, range(2)))).backward()
        optimizer.step()
    model.eval()
    found = task.predict(model, rows, Limits())
    assert [answer["answer"] for answer in found] == ["red fox", ""]
    assert long[found[0]["start"] : found[0]["end"]] == "red fox"
    assert (found[1]["start"], found[1]["end"]) == (0, 0)
    assert all(0 < answer["score"] <= 1 for answer in found)
    assert task.measure(found, task.references(rows), ["f1"]) == {"exact_match": 1.0, "f1": 1.0}
    assert [task.answer_text(answer) for answer in found] == ["red fox", "no answer"]
    sample = task.sample(rows, 0, found[0], ["red fox"])
    assert (sample.answer, sample.reference) == ("red fox", "red fox")
    assert sample.request == {"context": long, "question": QUESTION}
    [alone] = task.predict(model, columns(task, document("red fox", long)), Limits())
    assert are_same(alone, found[0]), "whatever is asked beside it, and whatever it learnt from"


# ---- answers -------------------------------------------------------------------------------------


def test_the_best_piece_is_in_the_context_in_order_and_short() -> None:
    offsets = [(i, i + 1) for i in range(40)]
    window = Window(input_ids=[0] * 44, first=3, offsets=offsets)
    start, end = np.zeros(44, np.float32), np.zeros(44, np.float32)
    start[1], end[43] = 99, 99  # in the question, and after the context
    start[10], end[9], end[41], end[12] = 5, 5, 5, 4
    found = find_answer(window, start, end, null=0)
    assert found.span == (7, 10), "not backwards, and not of 32 tokens"
    assert found.logit == 9.0
    places = [*range(3, 43), 0]
    expected = torch.tensor(start[places]).softmax(0)[7] * torch.tensor(end[places]).softmax(0)[9]
    assert found.prob == pytest.approx(float(expected), rel=1e-5)
    assert found.null_logit == 0.0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("a U.S.-led, (joint) force", "usled joint force"),
        ("An apple\tand the theatre", "apple and theatre"),
        ("the", ""),
    ],
)
def test_answers_are_compared_without_case_articles_and_punctuation(text: str, told: str) -> None:
    assert normalised(text) == told


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "f1"),
    [
        ("the Denver Broncos", ["Denver Broncos", "Broncos"], 1.0, 1.0),
        ("Denver Broncos team", ["Denver Broncos", "Broncos"], 0.0, 0.8),
        ("gold gold", ["gold"], 0.0, 2 / 3),
        ("silver", ["gold"], 0.0, 0.0),
        ("", [], 1.0, 1.0),
        ("silver", [], 0.0, 0.0),
        ("", ["gold"], 0.0, 0.0),
    ],
)
def test_scores_are_those_of_squad(
    answer: str, accepted: list[str], exact: float, f1: float
) -> None:
    scores = answer_scores([answer], [accepted])
    assert scores == {"exact_match": exact, "f1": pytest.approx(f1)}


def test_answers_are_read_in_rows_and_in_columns() -> None:
    rows = [{"text": "b", "answer_start": 2, "answer_id": 1}]
    expected = [{"text": "b", "start": 2}]
    assert read_answers(rows, "x") == expected
    assert read_answers({"text": ["b"], "answer_start": [2]}, "x") == expected
    assert read_answers([], "x") == read_answers({"text": [], "answer_start": []}, "x") == []
    for wrong in ("b", ["b"], [{"text": "b"}], {"text": ["b"], "answer_start": []}, 3,
                  [{"text": "b", "answer_start": True}]):  # fmt: skip
        with pytest.raises(FieldTypeError, match="answers are a list of texts"):
            read_answers(wrong, "x")
    with pytest.raises(RecordError, match="empty answer"):
        read_answers([{"text": " ", "answer_start": 0}], "x")


def test_an_answer_is_found_where_it_stands_or_nearest_to_it() -> None:
    context = "ab ab ab"
    for start, found in ((3, 3), (4, 3), (99, 6), (-1, 0)):
        assert place_answers([{"text": "ab", "start": start}], context) == [
            {"text": "ab", "start": found}
        ]
    with pytest.raises(RecordError) as caught:
        place_answers([{"text": "c", "start": 0}], context)
    assert caught.value.reason == "record with an answer that its context does not have"


@pytest.mark.parametrize("architecture", ["bert", "roberta", "llama"])
def test_long_contexts_are_asked_of_models_with_few_positions(
    task: Task, architecture: str
) -> None:
    more: dict[str, Any] = {"num_key_value_heads": 2} if architecture == "llama" else {}
    if architecture == "roberta":
        more = {"type_vocab_size": 1}
    config = {**SMALL, **more} if architecture != "llama" else {
        **{name: size for name, size in SMALL.items() if name != "type_vocab_size"}, **more
    }  # fmt: skip
    spec = ModelSpec(architecture=architecture, config=config)
    model = build_model(spec, task, task.processor.model_fields(64))
    model = materialise(model, InitialWeights(model, 1), torch.float32).eval()
    asked = {"question": [QUESTION], "context": [CONTEXT * 4]}
    [answer] = task.predict(model, asked, Limits())
    assert asked["context"][0][answer["start"] : answer["end"]] == answer["answer"]
    assert task.loss(model, task.collate(columns(task, document("w5")))).isfinite()


# ---- models and serving --------------------------------------------------------------------------


def test_a_classifier_is_a_base_and_what_is_saved_tells_its_task(
    task: Task, tmp_path: Path
) -> None:
    base = build_tiny_bert(("a", "b", "c"), vocab_size=task.processor.num_ids)
    base.bert.save_pretrained(tmp_path / "base")
    model, stored = open_model(Location.parse(str(tmp_path / "base")), task)
    assert type(model).__name__ == "BertForQuestionAnswering"
    assert {"qa_outputs.weight", "qa_outputs.bias"} <= {*stored.missing}
    spec = AdapterSpec.model_validate({"lora": {"rank": 2, "target": ["query"]}})
    adapted = attach_adapter(model, spec, task)
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert any("qa_outputs" in name for name in trained)
    assert all("qa_outputs" in name or "lora" in name for name in trained)

    tuned = build(task)
    tuned.save_pretrained(tmp_path / "tuned")
    task.processor.save_pretrained(tmp_path / "tuned")
    assert find_task(Location.parse(str(tmp_path / "tuned"))) == "question_answering"
    loaded, same = load_for_use(tmp_path / "tuned", "question_answering")
    rows = columns(task, document("w5"))
    [found], [again] = (t.predict(m, rows, Limits()) for m, t in ((tuned, task), (loaded, same)))
    assert are_same(found, again)
    plain = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "tuned")
    assert plain.qa_outputs.out_features == 2


def test_questions_are_served(task: Task) -> None:
    model = build(task)
    spec = ServeSpec(batch=4, queue=4)
    service = PredictionService(model, task, name="tiny", spec=spec)
    asked = [{"context": CONTEXT * 5, "question": QUESTION}, {"context": "w1", "question": "a?"}]

    def predicted(inputs: Any) -> Any:
        return call(service, "POST", "/predict", json={"model": "tiny", "inputs": inputs}).json()

    try:
        told, empty = predicted(asked), predicted({"context": "", "question": "a?"})
        missing, health = predicted({"context": "w1"}), call(service, "GET", "/health").json()
    finally:
        service.close()
    for index, (given, answer) in enumerate(zip(asked, told["data"], strict=True)):
        rows = {role: [text] for role, text in given.items()}
        [alone] = task.predict(model, rows, Limits())
        assert are_same(answer, {"index": index, **alone})
        assert given["context"][answer["start"] : answer["end"]] == answer["answer"]
    assert "nothing to answer" in empty["error"]["message"]
    assert "is given context, question" in missing["error"]["message"]
    assert health["fields"] == {"context": "text", "question": "text"}
