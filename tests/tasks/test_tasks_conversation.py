"""Conversations of records: their forms, and what is left out of them."""

from __future__ import annotations

from typing import Any

import pytest

from raymodel.tasks.conversation import find_form, opening, read_turns
from raymodel.tasks.template import FieldTypeError, RecordError

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
HUMAN = {"from": "human", "value": "Hi"}
SYSTEM = {"role": "system", "content": "Be kind."}


def listed(*turns: dict[str, Any], **beside: Any) -> dict[str, Any]:
    return {"messages": list(turns), **beside}


@pytest.mark.parametrize(
    ("record", "turns", "form"),
    [
        (listed(USER, ANSWER), [USER, ANSWER], "turns in 'messages', as OpenAI writes them"),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Hello"},
                ]
            },
            [USER, ANSWER],
            "turns in 'conversations', as ShareGPT writes them",
        ),
        (
            {"instruction": "Hi", "input": "", "output": "Hello"},
            [USER, ANSWER],
            "instruction, input and output, as Alpaca has them",
        ),
        (
            {"instruction": "Add", "input": "1 2", "output": "Hello", "system": "Be kind."},
            [SYSTEM, {"role": "user", "content": "Add\n\n1 2"}, ANSWER],
            None,
        ),
        (
            {"instruction": "Hi", "output": "Hello", "history": [["Hi", "Hello"]]},
            [USER, ANSWER, USER, ANSWER],
            None,
        ),
        # What follows the last answer teaches nothing.
        (listed(USER, ANSWER, USER), [USER, ANSWER], None),
        (listed({"role": "developer", "content": "Be kind."}, USER, ANSWER), None, None),
        (listed(USER, ANSWER, system="Be kind."), [SYSTEM, USER, ANSWER], None),
        (listed(SYSTEM, USER, ANSWER, system="no"), [SYSTEM, USER, ANSWER], None),
        # As Parquet gives them, with all keys of all turns.
        (listed(USER | {"tool_calls": None}, ANSWER | {"weight": None}), [USER, ANSWER], None),
        (
            listed({"role": "user", "content": [{"type": "text", "text": "Hi"}]}, ANSWER),
            [USER, ANSWER],
            None,
        ),
        ({"messages": None, "conversation": [USER, ANSWER]}, [USER, ANSWER], None),
    ],
)
def test_a_conversation_is_found_by_its_fields(
    record: dict[str, Any], turns: list[dict[str, str]] | None, form: str | None
) -> None:
    assert read_turns(record, "") == (turns or [SYSTEM, USER, ANSWER])
    assert form in (None, find_form(record, "").text)


def test_a_named_field_is_read_whatever_it_is_called() -> None:
    record = {"dialog": [USER, ANSWER], "messages": [USER]}
    assert read_turns(record, "dialog") == [USER, ANSWER]
    with pytest.raises(RecordError, match="without a value in 'talk'"):
        read_turns(record, "talk")


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([ANSWER, USER, ANSWER], "conversation that begins with the assistant"),
        ([SYSTEM, ANSWER], "conversation that begins with the assistant"),
        ([USER, USER, ANSWER], "conversation with two turns of one role in a row"),
        ([USER, ANSWER, ANSWER], "conversation with two turns of one role in a row"),
        ([USER, {"role": "narrator", "content": "x"}, ANSWER], "conversation with an unknown role"),
        ([USER, {"role": "assistant", "content": " "}], "conversation with a turn without content"),
        (
            [USER, {"role": "assistant", "content": None}],
            "conversation with a turn without content",
        ),
        ([USER], "conversation without an answer"),
        ([], "conversation without an answer"),
        ([USER, {"role": "assistant", "tool_calls": [{}]}], "conversation with tool calls"),
        ([USER, {"role": "tool", "content": "1"}, ANSWER], "conversation with tool calls"),
        ([USER, ANSWER | {"weight": 0}], "conversation with an answer of weight 0"),
        ([USER, {"who": "me"}], "conversation with a turn that has no role and content"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER],
            "conversation with a turn that is not text",
        ),
    ],
)
def test_what_cannot_be_learnt_from_has_a_reason(turns: list[Any], reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        read_turns({"messages": turns}, "")
    assert caught.value.reason == reason


def test_a_conversation_with_tools_and_none_at_all_have_a_reason() -> None:
    with pytest.raises(RecordError, match="conversation with tools"):
        read_turns(listed(USER, ANSWER, tools=[{"type": "function"}]), "")
    with pytest.raises(RecordError, match=r"without messages, conversations.*; it has text"):
        read_turns({"text": "x"}, "")


def test_a_field_that_is_no_list_of_turns_ends_the_data() -> None:
    with pytest.raises(FieldTypeError, match="'messages' holds a value of type str"):
        read_turns({"messages": "user: Hi"}, "")


def test_conversations_that_begin_alike_belong_together() -> None:
    assert opening([SYSTEM, USER, ANSWER]) == opening([SYSTEM, USER, USER | {"role": "assistant"}])
    assert opening([USER, ANSWER]) != opening([SYSTEM, USER, ANSWER])
