"""Texts within what is asked and answered, on their way through the filters: inputs by role, turns,
functions, answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from raymodel.modality.chat import Turn
from raymodel.serve.filters.chain import CODE, Filters, refused
from raymodel.serve.filters.outlet import REFUSED, Outlet
from raymodel.serve.pieces import Piece
from raymodel.tasks.base import Answer
from raymodel.tasks.base.values import AnswerKind
from raymodel.tasks.fields import Kind

_NAMES = frozenset({"label", "labels", "type", "id", "name"})
"""Keys of what is the name of something that the model, or a function, has."""
_WITH_TEXT: frozenset[AnswerKind] = frozenset({"text", "spans", "fills", "extract"})


async def admit_values(
    filters: Filters, inputs: Sequence[Mapping[str, Any]], kinds: Mapping[str, Kind], param: str
) -> list[dict[str, Any]]:
    """The inputs of a request as the model may read them.

    Args:
        inputs: role → value each.
        kinds: of the roles; words are one text, and of texts each is one.
        param: the field of the request that they stand in.

    Raises:
        Refusal: 400 where a filter refuses one, or would take several words out as one.
    """
    texts = [text for one in inputs for role, v in one.items() for text in _texts(v, kinds[role])]
    passed = iter(await filters.admit(texts, param))
    admitted = []
    for one in inputs:
        values = {}
        for role, value in one.items():
            if kinds[role] == "words":
                values[role] = await _admit_words(filters, value, next(passed), param)
            else:
                values[role] = refilled(value, passed.__next__)
        admitted.append(values)
    return admitted


def _texts(value: Any, kind: Kind) -> list[str]:
    return [" ".join(value)] if kind == "words" else list(leaves(value))


async def _admit_words(
    filters: Filters, words: Sequence[str], passed: str, param: str
) -> Sequence[str]:
    """Words, of which each has an answer, so that none may go."""
    if passed == " ".join(words):
        return words
    each = await filters.admit(words, param)
    if " ".join(each) != passed:
        raise refused(f"{param} holds in several words what is taken out of texts", None, param)
    return each


async def admit_turns(filters: Filters, turns: Sequence[Turn], param: str) -> list[Turn]:
    """The turns of a conversation as the model may read them. Raises Refusal as `admit_values`."""
    parts = [{key: turn[key] for key in ("content", "tool_calls") if key in turn} for turn in turns]
    passed = iter(await filters.admit(list(leaves(parts)), param))
    return [
        {**turn, **refilled(part, passed.__next__)} for turn, part in zip(turns, parts, strict=True)
    ]


async def admit_whole(filters: Filters, value: Any, param: str) -> None:
    """Raises Refusal (400) for texts of which a filter would take something out, or refuses one:
    functions, without which calls would not be what the client offers."""
    texts = list(leaves(value))
    if await filters.admit(texts, param) != texts:
        raise refused(f"{param} holds what is taken out of texts", None, param)


async def pass_excerpts(filters: Filters, texts: Sequence[str]) -> list[str | None]:
    """Texts of documents as the model may read them and clients be told them; None in the place of
    those that a filter refuses."""
    passed = await filters.screen(texts)
    if not filters.answered.filters:
        return passed
    told = [None if text is None else await _told(filters, text) for text in passed]
    return [None if piece is None or piece == REFUSED else piece.text for piece in told]


async def _told(filters: Filters, text: str) -> Piece:
    return await Outlet(filters.answered).push(Piece(text, (), "stop"))


async def release_answers(
    filters: Filters, answers: Sequence[Answer], kind: AnswerKind
) -> list[Answer]:
    """The answers as they may go out. One that a filter refuses has no text any more, and a
    `finish_reason`."""
    if not filters.answered.filters or kind not in _WITH_TEXT:
        return list(answers)
    return [await _release(filters, answer) for answer in answers]


async def _release(filters: Filters, answer: Answer) -> Answer:
    pieces = [await _told(filters, text) for text in leaves(answer)]
    if REFUSED in pieces:
        return {**refilled(answer, lambda: ""), "finish_reason": CODE}
    released: Answer = refilled(answer, iter([piece.text for piece in pieces]).__next__)
    return released


def leaves(value: Any) -> Iterator[str]:
    """The texts in what JSON can hold, but names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            if key not in _NAMES:
                yield from leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each)


def refilled(value: Any, take: Callable[[], str]) -> Any:
    """The same with other texts, which `take` gives in the order of `leaves`."""
    if isinstance(value, str):
        return take()
    if isinstance(value, dict):
        return {k: v if k in _NAMES else refilled(v, take) for k, v in value.items()}
    return [refilled(each, take) for each in value] if isinstance(value, list) else value
