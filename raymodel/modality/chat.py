"""Conversations as tokens: one way for training and serving, by the tokenizer's chat template.

What people write in a turn is text, whatever it spells: a user's `<|im_end|>` ends no turn. So
marks stand for such spellings while a template is rendered, which tells its own special tokens from
theirs; and the whole is encoded by a copy of the tokenizer that knows its special tokens under
other names, which only the template's text is given. Without such spellings the ids are those of
`tokenizer.apply_chat_template`. For training a template is rendered once more, with marks in place
of the turns, which tells where each of them lies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from raymodel.modality.spec import TEMPLATES

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Turn = Mapping[str, Any]
"""`role` (`system`, `user` or `assistant`) and `content`, a text. In a prompt also `tool_calls` of
the assistant, and the role `tool` with `tool_call_id` and `name`, as templates take them."""
Tool = Mapping[str, Any]
"""`type: function` and a `function` with `name`, `description` and `parameters`, a JSON schema."""
# Noncharacters, which Unicode keeps for a program's own use: no text that is interchanged has them.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_FOREIGN = str.maketrans({_OPEN: "\ufffd", _CLOSE: "\ufffd"})
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_SHOWN_CHARS = 120  # of what a template says


class ChatError(ValueError):
    """These turns cannot become tokens; the message is the same for all conversations of a kind."""


class Conversation(NamedTuple):
    """The tokens of one."""

    input_ids: list[int]
    answers: list[tuple[int, int]]
    """Of each of the assistant's turns what the model has to write: from after the prompt that a
    server gives it to after the token that ends the turn."""


class _Run(NamedTuple):
    """A run of the rendered text."""

    text: str
    start: int
    """Its place in the whole."""
    special: int | None = None
    """The id, of a special token that the template writes."""
    turn: int | None = None
    """The turn whose content it is."""

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def template_text(name: str) -> str:
    """The text of one of `TEMPLATES`."""
    return (Path(__file__).parent / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


class ChatFormat:
    """How a tokenizer writes conversations."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer: Any = tokenizer

    @property
    def has_template(self) -> bool:
        """Whether the tokenizer brings a chat template."""
        return bool(self.template)

    @property
    def template(self) -> Any:
        """Its text; of several, texts by their names."""
        return getattr(self._tokenizer, "chat_template", None)

    # ---- what is asked of it ---------------------------------------------------------------------

    def prompt(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Tool] | None = None,
        write: Callable[[Sequence[Turn]], Sequence[Turn]] | None = None,
    ) -> list[int]:
        """The ids of what a server gives the model, ready for the assistant's turn.

        Without a template each turn is `role: text` on lines of its own, behind what the tokenizer
        puts in front of a text.

        Args:
            tools: functions that it may call; for a template that shows them (`tool_form.py`).
            write: makes turns what the template takes; special tokens that it adds are such.

        Raises:
            ChatError: the template refuses the turns.
        """
        if not self.has_template:
            return self._encode(list(_plain(_own(turns))), add_special_tokens=True)
        spelt: list[str] = []

        def shield(text: str) -> str:
            def mark(found: re.Match[str]) -> str:
                spelt.append(found[0])
                return f"{_OPEN}{len(spelt) - 1}{_CLOSE}"

            return self._special.sub(mark, text.translate(_FOREIGN))

        shielded = _changed(turns, shield)
        if write is not None:
            shielded = write(shielded)
        shown = self.render(shielded, _changed(tools, shield), is_prompt=True)
        return self._encode([
            run._replace(text=_MARK.sub(lambda found: spelt[int(found[1])], run.text))
            for run in self._control(shown, 0)
        ])  # fmt: skip

    def conversation(self, turns: Sequence[Turn]) -> Conversation:
        """The ids of a whole conversation, and where its answers lie.

        Each answer follows exactly the ids that `prompt` gives for the turns before it.

        Raises:
            ChatError: the template refuses the turns, rewrites them, does not close an answer with
                a special token, or writes a prompt otherwise once it is answered.
        """
        turns = _own(turns)
        text = self.render(turns, is_prompt=False)
        runs = self._runs(text, turns)
        ids = self._encode(runs)
        marks = [run for run in runs if run.special is not None]
        places = dict(zip(marks, self._places(ids), strict=True))
        answers = []
        for number, turn in enumerate(turns):
            if turn["role"] == "assistant":
                prompt = self.render(turns[:number], is_prompt=True)
                if not text.startswith(prompt):
                    raise ChatError("conversation whose prompt the chat template changes later")
                start = self._start(len(prompt), runs, ids, places)
                answers.append((start, places[_closing(runs, number)] + 1))
        return Conversation(ids, answers)

    def end_of_turn(self) -> int:
        """The token that closes an answer, as a short conversation shows it.

        Raises:
            ChatError: the tokenizer has no template, or no conversation can be learnt with it.
        """
        if not self.has_template:
            raise ChatError(
                "the tokenizer has no chat template; name one with chat_template: one of "
                f"{', '.join(TEMPLATES)}, or the path of a .jinja file"
            )
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        ids, [(_, end)] = self.conversation(turns)
        return ids[end - 1]

    def control_tokens(self) -> dict[str, int]:
        """Text → id of the special tokens that the template names."""
        template = str(self.template or "")
        return {name: token for name, token in self.special_ids.items() if name in template}

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """Text → id. What stands for unknown characters is none: text becomes it too."""
        unknown = self._tokenizer.unk_token
        return {
            each["content"]: int(each["id"])
            for each in self._added
            if each["special"] and each["content"] != unknown
        }

    @cached_property
    def added_names(self) -> list[str]:
        """Texts of the tokens that the tokenizer finds before it looks at anything else."""
        return [str(each["content"]) for each in self._added]

    # ---- the template's text and the turns' ------------------------------------------------------

    def render(
        self, turns: Sequence[Turn], tools: Sequence[Tool] | None = None, *, is_prompt: bool
    ) -> str:
        """What the template makes of turns as they are. Raises ChatError when it refuses them."""
        from jinja2 import TemplateError

        try:
            return str(
                self._tokenizer.apply_chat_template(
                    [dict(turn) for turn in turns],
                    tools=None if tools is None else [dict(tool) for tool in tools],
                    tokenize=False,
                    add_generation_prompt=is_prompt,
                )
            )
        except (
            *(TemplateError, TypeError, ValueError, LookupError, ArithmeticError),
            RecursionError,  # of a macro that follows a client's schema
        ) as error:
            said = " ".join(str(error).split())[:_SHOWN_CHARS]
            raise ChatError(f"conversation that the chat template refuses ({said})") from error

    def _runs(self, text: str, turns: Sequence[Turn]) -> list[_Run]:
        """The rendered text in runs: the template's special tokens, its other text, and the turns.

        A template may strip white space around a turn; what else it does with one is rewriting.
        """
        marked = [{**turn, "content": f"{_OPEN}{i}{_CLOSE}"} for i, turn in enumerate(turns)]
        first, *rest = _MARK.split(self.render(marked, is_prompt=False))
        numbers, between = [int(number) for number in rest[::2]], rest[1::2]
        rewritten = ChatError("conversation that the chat template rewrites")
        if sorted(numbers) != list(range(len(turns))) or not text.startswith(first):
            raise rewritten
        runs, place = list(self._control(first, 0)), len(first)
        for number, after in zip(numbers, between, strict=True):
            content = turns[number]["content"]
            for kept in (content, content.strip(), content.rstrip(), content.lstrip()):
                if text.startswith(kept + after, place):
                    runs.append(_Run(kept, place, turn=number))
                    runs += self._control(after, place + len(kept))
                    place += len(kept) + len(after)
                    break
            else:
                raise rewritten
        if place != len(text):
            raise rewritten
        return runs

    def _control(self, text: str, start: int) -> Iterator[_Run]:
        """The template's own text: its special tokens, and what is between them."""
        place = 0
        for found in self._special.finditer(text):
            if found.start() > place:
                yield _Run(text[place : found.start()], start + place)
            yield _Run(found[0], start + found.start(), special=self.special_ids[found[0]])
            place = found.end()
        if place < len(text):
            yield _Run(text[place:], start + place)

    # ---- tokens ----------------------------------------------------------------------------------

    def _start(
        self, end: int, runs: Sequence[_Run], ids: Sequence[int], places: dict[_Run, int]
    ) -> int:
        """How many ids the text up to `end`, a prompt, has in the whole; that they are what the
        prompt alone becomes is verified.

        A special token parts what is before it from what is after, so it is enough to look from
        the last one of the prompt on.
        """
        last = next((run for run in reversed(places) if run.start < end), None)
        if last is not None and last.end > end:
            raise ChatError("conversation whose prompt the chat template changes later")
        first, index = (0, 0) if last is None else (last.start, places[last])
        tail = self._encode([_until(run, end) for run in runs if first <= run.start < end])
        if list(ids[index : index + len(tail)]) != tail:
            raise ChatError("answer whose beginning the tokenizer joins to the prompt")
        return index + len(tail)

    def _encode(self, runs: Sequence[_Run], *, add_special_tokens: bool = False) -> list[int]:
        text = "".join(
            run.text if run.special is None else f"{_OPEN}{run.special}{_CLOSE}" for run in runs
        )
        # `encode` of one text would keep all other threads waiting, a server's among them.
        [encoded] = self._shielded.encode_batch([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoded.ids
        written = [run.special for run in runs if run.special is not None]
        if not add_special_tokens and [ids[place] for place in self._places(ids)] != written:
            raise ChatError("conversation whose text the tokenizer reads as a special token")
        return ids

    def _places(self, ids: Sequence[int]) -> list[int]:
        """Of the special tokens."""
        special = set(self.special_ids.values())
        return [index for index, token in enumerate(ids) if token in special]

    @cached_property
    def _shielded(self) -> Tokenizer:
        """The tokenizer with other names for its special tokens."""
        from tokenizers import Tokenizer

        data = json.loads(self._backend)
        data["truncation"] = data["padding"] = None
        for added in data["added_tokens"]:
            name = f"{_OPEN}{added['id']}{_CLOSE}" if added["special"] else added["content"]
            _rename(data["model"], added["content"], name, added["id"])
            # What is in front of a normaliser, none can change.
            added |= {"content": name, "normalized": added["normalized"] and not added["special"]}
        shielded = Tokenizer.from_str(json.dumps(data))
        for added in data["added_tokens"]:
            if shielded.token_to_id(added["content"]) != added["id"]:
                raise ChatError("the tokenizer numbers its special tokens in a way not known here")
        return shielded

    @cached_property
    def _backend(self) -> str:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ChatError(
                "the tokenizer is a slow one, and conversations need a fast one (tokenizer.json)"
            )
        return str(backend.to_str())

    @cached_property
    def _added(self) -> list[dict[str, Any]]:
        added: list[dict[str, Any]] = json.loads(self._backend)["added_tokens"]
        return added

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """As the tokenizer finds them: of several at one place the longest."""
        names = sorted(self.special_ids, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or "(?!)")


def _own(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    return [{**turn, "content": turn["content"].translate(_FOREIGN)} for turn in turns]


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """Every text in it changed, those of names too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(name): _changed(each, change) for name, each in value.items()}
    if isinstance(value, Sequence):
        return [_changed(each, change) for each in value]
    return value


def _plain(turns: Sequence[Turn]) -> Iterator[_Run]:
    """`user: …\\nassistant:`, for a model without a template."""
    text = "".join([*(f"{turn['role']}: {turn['content']}\n" for turn in turns), "assistant:"])
    yield _Run(text, 0)


def _closing(runs: Sequence[_Run], turn: int) -> _Run:
    """The special token that follows an answer before the next turn."""
    place = next(index for index, run in enumerate(runs) if run.turn == turn)
    for run in runs[place + 1 :]:
        if run.turn is not None:
            break
        if run.special is not None:
            return run
    raise ChatError(
        "the chat template closes an answer with no special token of this tokenizer, so that a "
        "model could not learn where to end; take a template with one, such as {{ eos_token }}"
    )


def _until(run: _Run, end: int) -> _Run:
    return run._replace(text=run.text[: end - run.start])


def _rename(model: dict[str, Any], name: str, new: str, token_id: int) -> None:
    """Gives a token of the vocabulary another name, and one outside of it a number of its own."""
    vocab = model["vocab"]
    if isinstance(vocab, list):  # of a unigram model, where the place is the number
        if token_id < len(vocab):
            vocab[token_id][0] = new
        return
    if name != new and model["type"] != "BPE":  # whose merges may name it
        vocab.pop(name, None)
    vocab[new] = token_id
    if model.get("unk_token") == name:
        model["unk_token"] = new
