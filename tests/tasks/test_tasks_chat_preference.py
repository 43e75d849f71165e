"""Pairs of conversations: the same ids as chat's, told after one prompt."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import torch

from raymodel.data.columns import columns_of
from raymodel.data.references import add_readings
from raymodel.modality.text import TextProcessor
from raymodel.tasks import make_task
from raymodel.tasks.base import Example, LeftOut, Limits, Task
from raymodel.tasks.prompt import TOO_LONG
from raymodel.tasks.spec.language import ChatPreferenceSpec, ChatSpec
from raymodel.testing.families import CHATML, build_tokenizer
from raymodel.testing.tiny import build_tiny_llama, train_tiny_tokenizer

ASKED = [
    {"role": "system", "content": "You are kind."},
    {"role": "user", "content": "Hello, how are you?"},
    {"role": "assistant", "content": "I am well!"},
    {"role": "user", "content": "what is new"},
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def processor() -> TextProcessor:
    return TextProcessor(build_tokenizer(CHATML))


def task_of(processor: TextProcessor, **fields: Any) -> Task:
    return make_task(ChatPreferenceSpec(**fields), processor=processor)


@pytest.fixture
def task(processor: TextProcessor) -> Task:
    return task_of(processor)


def pair(chosen: str, rejected: str, asked: Any = ASKED) -> dict[str, Any]:
    both = {"messages": chosen, "rejected": rejected}
    return {
        role: [*asked, {"role": "assistant", "content": answer}] for role, answer in both.items()
    }


def row_of(task: Task, values: Any, max_length: int | None = 200) -> dict[str, Any]:
    example = task.features(values, max_length)
    assert isinstance(example, Example), example
    return dict(example.features)


def test_both_answers_follow_what_a_server_gives_the_model_and_end_as_turns_do(task: Task) -> None:
    row = row_of(task, pair("Nothing.", "Hello there"))
    chat = task.processor.chat
    length = row["prompt_length"]
    assert row["chosen_ids"][:length] == row["rejected_ids"][:length] == chat.prompt(ASKED)
    for side, text in (("chosen", "Nothing."), ("rejected", "Hello there")):
        answer = row[f"{side}_ids"][length:]
        assert answer[-1] == chat.end_of_turn()
        assert task.processor.tokenizer.decode(answer[:-1]).strip() == text
    # Of the wanted one all ids are those that `chat` teaches.
    taught = make_task(ChatSpec(), processor=task.processor).features(
        {"messages": pair("Nothing.", "")["messages"]}, None
    )
    assert isinstance(taught, Example)
    assert row["chosen_ids"] == taught.features["input_ids"][: len(row["chosen_ids"])]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (pair("yes", " yes"), "pair whose sides are equal"),
        (
            pair("yes", "no") | {"rejected": pair("", "no", asked=ASKED[1:2])["rejected"]},
            "pair whose conversations differ before the last answer",
        ),
    ],
)
def test_a_pair_that_teaches_nothing_is_left_out(task: Task, values: Any, reason: str) -> None:
    assert task.features(values, 200) == LeftOut(reason)


def test_what_is_too_long_is_cut_alike_and_said_of_the_roles_that_records_have(task: Task) -> None:
    values = pair("Nothing.", "Hello there " * 30)
    example = task.features(values, 60)
    assert isinstance(example, Example)
    row = example.features
    length = row["prompt_length"]
    assert row["chosen_ids"][:length] == row["rejected_ids"][:length]
    assert max(len(row["chosen_ids"]), len(row["rejected_ids"])) == 60
    assert example.cut == ("messages", "rejected")
    drops = task_of(task.processor, too_long="drop")
    assert drops.features(values, 60) == LeftOut(TOO_LONG)


def test_a_tokenizer_without_a_template_is_refused_and_one_may_be_named() -> None:
    plain = TextProcessor(train_tiny_tokenizer(["Hello there"], vocab_size=300))
    with pytest.raises(ValueError, match="no chat template; name one"):
        task_of(plain).features(pair("a", "b"), None)
    named = task_of(plain, chat_template="plain")
    named.adapt_processor({})
    assert row_of(named, pair("a", "b"))["prompt_length"] > 0


def test_the_base_is_asked_as_for_plain_pairs_and_nothing_is_lost_yet(task: Task) -> None:
    size = len(task.processor.tokenizer)
    model = build_tiny_llama(seed=1, vocab_size=size).eval()
    rows = [row_of(task, pair(f"Nothing {n}", "Hello")) for n in range(3)]
    table = add_readings(model, task, pa.Table.from_pylist(rows, schema=task.schema()))
    columns = columns_of(table)
    assert all(value < 0 for value in columns["chosen_reference"])
    loss = task.loss(model, task.collate(columns))
    torch.testing.assert_close(loss / 3, torch.tensor(0.6931), atol=1e-3, rtol=0)
    [answer, *_] = task.predict(model, columns, Limits(max_new_tokens=2))
    sample = task.sample(columns, 0, answer, task.references(columns)[0])
    assert sample.request == {"messages": ASKED}
    assert sample.reference == "Nothing 0"
