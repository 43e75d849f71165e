"""Functions that one request offers: what the model is shown, what it may write, how it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raymodel.modality.call_form import CallForm
from raymodel.modality.chat import ChatError, ChatFormat
from raymodel.modality.tool_form import find_call_form
from raymodel.serve.call_grammar import only_calls, text_with_calls
from raymodel.serve.call_reader import CallReader
from raymodel.serve.generation_protocol import ChatRequest
from raymodel.serve.refusal import Refusal
from raymodel.serve.sampling import Form
from raymodel.serve.tool_protocol import NamedChoice, ToolEntry


@dataclass(frozen=True, kw_only=True)
class Offer:
    """The functions of one request, of which its answer may call some."""

    form: CallForm
    tools: Sequence[ToolEntry]
    choice: str | NamedChoice
    """`auto`, `required`, or one of them."""
    is_parallel: bool
    """An answer may have several calls."""

    @property
    def shown(self) -> list[dict[str, Any]]:
        """As the chat template takes them."""
        return [tool.shown for tool in self.tools]

    @property
    def most(self) -> int | None:
        """Calls of one answer; None is any number."""
        return None if self.is_parallel and not isinstance(self.choice, NamedChoice) else 1

    @property
    def answer_form(self) -> Form | None:
        """What the answer must be: calls, where it must call, and else text with calls in it, if
        the arguments of some must have their schema."""
        called = [tool.function for tool in self.tools]
        if isinstance(self.choice, NamedChoice):
            called = [each for each in called if each.name == self.choice.function.name]
        elif self.choice == "auto":
            is_strict = any(function.strict for function in called)
            return text_with_calls(self.form, called, self.most) if is_strict else None
        return only_calls(self.form, called, self.most)

    def reader(self) -> CallReader:
        """Of one answer."""
        functions = [tool.function for tool in self.tools]
        schemas = {function.name: function.schema_ for function in functions}
        return CallReader(self.form, schemas, self.most)


class ToolUse:
    """What a model's chat template has for functions.

    Args:
        chat: how its tokenizer writes conversations.
    """

    def __init__(self, chat: ChatFormat) -> None:
        self._chat = chat
        self._template: str | None = None
        self._found: CallForm | ChatError = ChatError()

    def offer(self, body: ChatRequest) -> Offer | None:
        """The functions that a request offers; None where it offers none, or wants none called.

        Raises:
            Refusal: 400 where this model cannot be shown them, or cannot call them.
        """
        choice = body.tool_choice or "auto"
        if not body.tools or choice == "none":
            return None
        form = self.form("tools")
        name, wanted = body.form
        if wanted is not None:
            raise Refusal(
                400,
                f"{name} says what the answer is, and tools what it may call instead; leave one of "
                "them out, or set tool_choice: 'none'",
                param=name,
            )
        return Offer(
            form=form,
            tools=body.tools,
            choice=choice,
            is_parallel=body.parallel_tool_calls is not False,
        )

    def form(self, param: str) -> CallForm:
        """How the model calls.

        Raises:
            Refusal: 400, for the field that asks for it.
        """
        found = self._find()
        if isinstance(found, ChatError):
            raise Refusal(
                400,
                f"{found}; leave tools, their calls and their results out of {param}",
                param=param,
                code="unsupported_by_model",
            )
        return found

    @property
    def told(self) -> str | None:
        """The form in short; None where there are no tools."""
        found = self._find()
        return None if isinstance(found, ChatError) else found.told

    def _find(self) -> CallForm | ChatError:
        """Looked for once; a template is a text that can be exchanged."""
        template = str(self._chat.template)
        if template != self._template:
            try:
                self._found = find_call_form(self._chat)
            except ChatError as error:
                self._found = error
            self._template = template
        return self._found


def has_calls(turns: Iterable[Mapping[str, Any]]) -> bool:
    """Whether turns call tools, or bring results."""
    return any("tool_calls" in turn or turn["role"] == "tool" for turn in turns)
