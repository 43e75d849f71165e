"""Forms of calls that models use whose templates show them functions and write no calls.

Such a form is told by its markers: those that the template tells the model of, or else those that
its tokenizer has tokens for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from raymodel.modality.call_form import CallForm, NamedCall, ObjectCall, Opening, Tags


class _Known(NamedTuple):
    marks: tuple[str, ...]
    """Regular expressions, all of which are found."""
    opening: str
    trigger: str
    between: str | None
    closing: str
    call: ObjectCall | NamedCall


_OBJECT = ObjectCall(("name", "arguments"), "name")
_FUNCTION_TAGS = Tags("<parameter=", ">\n", "\n</parameter>\n")
_KEY_TAGS = Tags("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n")
# In the order in which they are looked for: those with more marks before those with fewer.
_KNOWN = (
    _Known(
        ("<tool_call>", "<function="),
        "<tool_call>\n<function=",
        "<tool_call>",
        "</function>\n</tool_call>\n<tool_call>\n<function=",
        "</function>\n</tool_call>",
        NamedCall(">\n", _FUNCTION_TAGS),
    ),
    _Known(
        ("<tool_call>", "<arg_key>"),
        "<tool_call>",
        "<tool_call>",
        "</tool_call>\n<tool_call>",
        "</tool_call>",
        NamedCall("\n", _KEY_TAGS),
    ),
    _Known(
        ("<tool_call>",),
        "<tool_call>\n",
        "<tool_call>",
        "\n</tool_call>\n<tool_call>\n",
        "\n</tool_call>",
        _OBJECT,
    ),
    _Known(
        (r"\[TOOL_CALLS\]", r"\[ARGS\]"),
        "[TOOL_CALLS]",
        "[TOOL_CALLS]",
        "[TOOL_CALLS]",
        "",
        NamedCall("[ARGS]", "json"),
    ),
    _Known((r"\[TOOL_CALLS\]",), "[TOOL_CALLS][", "[TOOL_CALLS]", ", ", "]", _OBJECT),
    _Known(  # LFM2
        (r"<\|tool_call_start\|>",),
        "<|tool_call_start|>[",
        "<|tool_call_start|>",
        ", ",
        "]<|tool_call_end|>",
        NamedCall("(", "python"),
    ),
    _Known((r"<\|tool_call\|>",), "<|tool_call|>[", "<|tool_call|>", ", ", "]", _OBJECT),  # Granite
    _Known((r"\[\w+\(\w+=",), "[", "", ", ", "]", NamedCall("(", "python")),  # Llama 4
    _Known(
        (r"<\|python_tag\|>",), "", "", None, "", ObjectCall(("name", "parameters"), "name")
    ),
)  # fmt: skip


def find_known_form(prompt: str, added: Sequence[str]) -> CallForm | None:
    """The form that a prompt with functions tells of, or that added tokens are for."""
    for text in (prompt, "\n".join(added)):
        for known in _KNOWN:
            if all(re.search(mark, text) for mark in known.marks):
                return CallForm(
                    openings=(Opening(known.opening, known.trigger),),
                    between=known.between,
                    closing=known.closing,
                    call=known.call,
                    is_templates=False,
                )
    return None
