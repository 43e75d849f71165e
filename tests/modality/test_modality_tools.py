"""Functions in a conversation: how a template's form of calling is found, and what stays text."""

from __future__ import annotations

import dataclasses
import re

import pytest

from raymodel.modality.chat import ChatError, ChatFormat
from raymodel.modality.tool_form import find_call_form
from raymodel.testing.families import CHATML, FAMILIES, Family, build_tokenizer
from raymodel.testing.tool_families import LIST, TAGS, TOOL_FAMILIES

ASKED = {"role": "user", "content": "what is new?"}


def tool(name: str = "look", **texts: str) -> dict[str, object]:
    schema = {"type": "object", "properties": {"at": {"type": "string", **texts}}}
    function = {"name": name, "description": "Looks.", "parameters": schema, **texts}
    return {"type": "function", "function": function}


def called(name: str = "look", **arguments: str) -> list[dict[str, object]]:
    function = {"name": name, "arguments": arguments}
    call = {"id": "abcdefgh1", "type": "function", "function": function}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "it rains", "tool_call_id": "abcdefgh1", "name": name},
    ]


@pytest.mark.parametrize(
    ("name", "opening", "between", "closing", "keys", "trigger"),
    [
        ("tags", "<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>",
         ("name", "arguments"), "<tool_call>"),
        ("bare", "", None, "", ("name", "parameters"), ""),
        ("list", "[TOOL_CALLS] [", ", ", "]", ("name", "arguments"), "[TOOL_CALLS]"),
    ],
)  # fmt: skip
def test_the_form_of_calls_is_what_the_template_writes(
    name, opening, between, closing, keys, trigger
) -> None:
    form = find_call_form(ChatFormat(build_tokenizer(TOOL_FAMILIES[name])))
    assert (form.opening, form.between, form.closing) == (opening, between, closing)
    assert (form.keys, form.name_key, form.trigger) == (keys, "name", trigger)
    assert form.arguments_key == keys[1]
    assert list(form.special) == (["[TOOL_CALLS]"] if name == "list" else [])


def test_arguments_may_stand_before_the_name() -> None:
    template = TAGS.template.replace(
        """{"name": "' + call.function.name }}""", """{ "arguments": ' }}"""
    ).replace(
        """'", "arguments": ' + (call.function.arguments | tojson) + '}""",
        """(call.function.arguments | tojson) + ', "name": "' + call.function.name + '"}""",
    )
    form = find_call_form(ChatFormat(build_tokenizer(dataclasses.replace(TAGS, template=template))))
    assert (form.keys, form.opening) == (("arguments", "name"), "<tool_call>\n")


def broken(family: Family, old: str, new: str) -> ChatFormat:
    assert old in family.template
    changed = dataclasses.replace(family, template=family.template.replace(old, new))
    return ChatFormat(build_tokenizer(changed))


def test_what_a_template_lacks_is_found_by_rendering() -> None:
    for family in FAMILIES.values():
        with pytest.raises(ChatError, match="shows it no tools"):
            find_call_form(ChatFormat(build_tokenizer(family)))
    with pytest.raises(ChatError, match="no results of tools"):
        find_call_form(broken(LIST, "m.content | tojson", "'' | tojson"))
    with pytest.raises(ChatError, match=r"takes no tools.*never"):
        find_call_form(broken(TAGS, "m.tool_calls or []", "raise_exception('never')"))
    for odd in ("<function=", '{"call": ["'):
        with pytest.raises(ChatError, match="form not known here"):
            find_call_form(broken(TAGS, '{"name": "', odd))
    bare = build_tokenizer(CHATML)
    bare.chat_template = None
    with pytest.raises(ChatError, match="no chat template"):
        find_call_form(ChatFormat(bare))


@pytest.mark.parametrize("name", TOOL_FAMILIES)
def test_the_tokens_are_those_of_the_template(name: str) -> None:
    tokenizer = build_tokenizer(TOOL_FAMILIES[name])
    turns = [ASKED, *called(at="東京"), ASKED | {"content": "and now?"}]
    expected = tokenizer.apply_chat_template(
        turns, tools=[tool()], tokenize=True, return_dict=False, add_generation_prompt=True
    )
    assert ChatFormat(tokenizer).prompt(turns, [tool()]) == expected


@pytest.mark.parametrize("name", TOOL_FAMILIES)
def test_what_tools_calls_and_results_spell_out_is_text(name: str) -> None:
    family = TOOL_FAMILIES[name]
    tokenizer = build_tokenizer(family)
    chat = ChatFormat(tokenizer)
    spelt = "".join(chat.special_ids)

    def controls(turns, tools):
        special = set(chat.special_ids.values())
        return [token for token in chat.prompt(turns, tools) if token in special]

    last = {"role": "user", "content": "and now?"}
    plain = [ASKED, *called(at="a"), last]
    evil = [ASKED | {"content": spelt}, *called(at=spelt), last]
    evil[1]["tool_calls"][0]["function"]["arguments"][spelt] = 1
    evil[2]["content"] = spelt
    assert controls(evil, [tool(description=spelt)]) == controls(plain, [tool()])
    shown = tokenizer.apply_chat_template(
        evil, tools=[tool(description=spelt)], tokenize=False, add_generation_prompt=True
    )
    ids = chat.prompt(evil, [tool(description=spelt)])
    if not family.is_spaced:
        assert tokenizer.decode(ids) == shown, "nothing of it is lost"
    assert re.search(re.escape(spelt), shown)
