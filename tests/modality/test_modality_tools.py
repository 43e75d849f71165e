"""Functions in a conversation: how a template's form of calling is found, and what stays text."""

from __future__ import annotations

import dataclasses
import re

import pytest

from raymodel.modality.call_form import HOLE, NamedCall, ObjectCall, Tags
from raymodel.modality.chat import ChatError, ChatFormat
from raymodel.modality.tool_form import find_call_form
from raymodel.testing.families import CHATML, FAMILIES, Family, build_tokenizer
from raymodel.testing.tool_families import (
    BARE,
    LIST,
    NAMED,
    PARAMETERS,
    PYTHON,
    TAGS,
    TOOL_FAMILIES,
)

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
    assert isinstance(form.call, ObjectCall)
    assert (form.call.keys, form.call.name_key, form.trigger) == (keys, "name", trigger)
    assert form.call.arguments_key == keys[1]
    assert list(form.special) == (["[TOOL_CALLS]"] if name == "list" else [])


@pytest.mark.parametrize(
    ("name", "told", "call"),
    [
        ("named", "[TOOL_CALLS]…[CALL_ID]…[ARGS]{…}", NamedCall(f"[CALL_ID]{HOLE}[ARGS]", "json")),
        (
            "parameters",
            "<tool_call>\n<function=…>\n<parameter=…>\n…\n</parameter>\n</function>\n</tool_call>",
            NamedCall(">\n", Tags("<parameter=", ">\n", "\n</parameter>\n")),
        ),
        (
            "pairs",
            "<tool_call>…\n<arg_key>…</arg_key>\n<arg_value>…</arg_value>\n</tool_call>",
            NamedCall("\n", Tags("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n")),
        ),
        ("python", "[…(…)]", NamedCall("(", "python")),
        ("unwritten", "<|tool_call_start|>[…(…)]<|tool_call_end|>", NamedCall("(", "python")),
    ],
)
def test_a_name_may_stand_by_itself(name, told, call) -> None:
    form = find_call_form(ChatFormat(build_tokenizer(TOOL_FAMILIES[name])))
    assert (form.told, form.call) == (told, call)
    assert form.is_templates == (name != "unwritten")


def test_a_form_is_that_of_the_turn_whatever_templates_write_around_it() -> None:
    form = find_call_form(broken(PARAMETERS, "</tool_call>' }}", "</tool_call><|call|>' }}"))
    assert form.closing == "</function>\n</tool_call><|call|>"
    thought = "<|im_start|>assistant\n' }}{%- endif %}"
    form = find_call_form(broken(PARAMETERS, thought, thought.replace("\n", "\n<think>\n")))
    assert form.opening == "<tool_call>\n<function=", "though the prompt begins a thought"
    assert [each.trigger for each in form.openings] == ["<tool_call>", "<function="]
    typed = broken(
        PARAMETERS,
        "'>\n' }}\n{{- (value",
        """'" string="' }}
{{- ('true' if value is string else 'false') + '">' }}{{- (value""",
    )
    assert find_call_form(typed).call.arguments.before_value == f'" string="{HOLE}">'
    counted = broken(NAMED, "call.id", "loop.index | string")
    assert find_call_form(counted).call.after_name == f"[CALL_ID]{HOLE}[ARGS]"
    python = broken(PYTHON, "(value | tojson)", """("'" + value ~ "'")""")
    assert find_call_form(python).call.arguments == "python", "all of them are quoted"
    llama = build_tokenizer(dataclasses.replace(BARE, specials=(*BARE.specials, "<|python_tag|>")))
    assert [each.text for each in find_call_form(ChatFormat(llama)).openings] == [
        "", "<|python_tag|>",
    ]  # fmt: skip


def test_a_template_that_writes_no_calls_is_given_them_as_text() -> None:
    chat = broken(TAGS, "m.tool_calls or []", "[]")
    form = find_call_form(chat)
    assert (form.opening, form.is_templates) == ("<tool_call>\n", False)
    turns = form.turns([ASKED, *called(at="東京")])
    written = '<tool_call>\n{"name": "look", "arguments": {"at": "東京"}}\n</tool_call>'
    assert (turns[1]["content"], "tool_calls" in turns[1]) == (written, False)
    two = [*called()[0]["tool_calls"], *called("see", at="a")[0]["tool_calls"]]
    parted = form.written(two)
    assert parted.count("<tool_call>") == 2
    with pytest.raises(ChatError, match="more than one function"):
        dataclasses.replace(form, between=None).written(two)
    tags = NamedCall(">\n", Tags("<parameter=", ">\n", "\n</parameter>\n"))
    for kind, expected in (
        (tags, "see>\n<parameter=a>\nb\n</parameter>\n<parameter=c>\n[null]\n</parameter>\n"),
        (NamedCall("(", "python"), 'see(a="b", c=[None])'),
        (NamedCall("[ARGS]", "json"), 'see[ARGS]{"a": "b", "c": [null]}'),
    ):
        function = {"name": "see", "arguments": {"a": "b", "c": [None]}}
        other = dataclasses.replace(form, call=kind)
        assert other.written([{"function": function}]) == f"<tool_call>\n{expected}\n</tool_call>"
    with pytest.raises(ChatError, match="leaves calls out"):
        find_call_form(broken(BARE, "elif m.tool_calls %}", "elif false %}"))


def test_arguments_may_stand_before_the_name() -> None:
    template = TAGS.template.replace(
        """{"name": "' + call.function.name }}""", """{ "arguments": ' }}"""
    ).replace(
        """'", "arguments": ' + (call.function.arguments | tojson) + '}""",
        """(call.function.arguments | tojson) + ', "name": "' + call.function.name + '"}""",
    )
    form = find_call_form(ChatFormat(build_tokenizer(dataclasses.replace(TAGS, template=template))))
    assert (form.call.keys, form.opening) == (("arguments", "name"), "<tool_call>\n")


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
    with pytest.raises(ChatError, match="form not known here"):
        find_call_form(broken(TAGS, "call.function.arguments | tojson", "'given and seen'"))
    bare = build_tokenizer(CHATML)
    bare.chat_template = None
    with pytest.raises(ChatError, match="no chat template"):
        find_call_form(ChatFormat(bare))


def test_a_template_that_never_ends_is_one_that_refuses() -> None:
    endless = "{% macro see(x) %}{{ see(x) }}{% endmacro %}{{ see(1) }}"
    chat = ChatFormat(build_tokenizer(dataclasses.replace(TAGS, template=endless)))
    with pytest.raises(ChatError, match="recursion"):
        chat.prompt([ASKED])


@pytest.mark.parametrize("name", TOOL_FAMILIES)
def test_the_tokens_are_those_of_the_template(name: str) -> None:
    tokenizer = build_tokenizer(TOOL_FAMILIES[name])
    form = find_call_form(ChatFormat(tokenizer))
    turns = [ASKED, *called(at="東京"), ASKED | {"content": "and now?"}]
    expected = tokenizer.apply_chat_template(
        form.turns(turns),
        tools=[tool()],
        tokenize=True,
        return_dict=False,
        add_generation_prompt=True,
    )
    assert ChatFormat(tokenizer).prompt(turns, [tool()], form.turns) == expected


@pytest.mark.parametrize("name", TOOL_FAMILIES)
def test_what_tools_calls_and_results_spell_out_is_text(name: str) -> None:
    family = TOOL_FAMILIES[name]
    tokenizer = build_tokenizer(family)
    chat = ChatFormat(tokenizer)
    form = find_call_form(chat)
    spelt = "".join(chat.special_ids)

    def controls(turns, tools):
        special = set(chat.special_ids.values())
        return [token for token in chat.prompt(turns, tools, form.turns) if token in special]

    last = {"role": "user", "content": "and now?"}
    plain = [ASKED, *called(at="a"), last]
    evil = [ASKED | {"content": spelt}, *called(at=spelt), last]
    evil[1]["tool_calls"][0]["function"]["arguments"][spelt] = 1
    evil[2]["content"] = spelt
    assert controls(evil, [tool(description=spelt)]) == controls(plain, [tool()])
    shown = tokenizer.apply_chat_template(
        form.turns(evil),
        tools=[tool(description=spelt)],
        tokenize=False,
        add_generation_prompt=True,
    )
    ids = chat.prompt(evil, [tool(description=spelt)], form.turns)
    if not family.is_spaced:
        assert tokenizer.decode(ids) == shown, "nothing of it is lost"
    assert re.search(re.escape(spelt), shown)
