"""What goes into a task and comes out of it: rows, answers, and what is said of them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Features = dict[str, Any]
Columns = Mapping[str, Any]
"""Columns of B rows: of a list a list of arrays, of a number or a list of fixed length an array. Of
requests a list of values, None where one lacks what another has."""
Answer = dict[str, Any]
"""What a model says to one row, as JSON holds it."""
Reading = dict[str, float]
"""Numbers that a model gives to one example, its targets known."""
AnswerKind = Literal[
    "stream",
    "text",
    "label",
    "labels",
    "score",
    "spans",
    "fills",
    "extract",
    "vector",
    "scores",
    "mask",
    "objects",
]
"""`stream`: text, token by token. `text`: one that comes whole. `label`: one class, with the
probabilities of all. `labels`: any number of classes, with the probability of each. `score`: a
number. `spans`: runs of words with a class each. `fills`: what may stand at each hidden place of a
text, and the text with the most probable. `extract`: a piece of a text. `vector`:
numbers that stand for a text, or an image. `scores`: how relevant documents are to a query. `mask`:
the class of each pixel, as an image. `objects`: boxes, each with its class. Routes of the server
and its page follow from it."""
WRITTEN: frozenset[AnswerKind] = frozenset({"stream", "text"})
"""Answers that are made token by token, which takes long."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """What a document became."""

    features: Features
    """One row of `Task.schema`."""
    cut: tuple[str, ...] = ()
    """Roles whose value did not fit whole."""
    classes: tuple[str, ...] = ()
    """That are in it, where no role of the task names them."""


@dataclass(frozen=True)
class LeftOut:
    """A document in which nothing can be learnt."""

    reason: str
    """The same words for all documents of a kind: they are counted by it."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One held-out example as a person reads it."""

    prompt: str
    answer: str
    reference: str
    request: dict[str, Any] = field(default_factory=dict)
    """What a server is asked for this answer: role → value, as JSON holds it."""

    @classmethod
    def of_file(
        cls, what: str, role: str, rows: Columns, index: int, *, answer: str, reference: str
    ) -> Self:
        """Of one of B rows whose role is a file, which is in the request.

        Args:
            what: the file is, for people.
        """
        data = bytes(rows[role][index])
        return cls(
            prompt=f"{what} {index} ({len(data):,} bytes)",
            answer=answer,
            reference=reference,
            request={role: base64.b64encode(data).decode()},
        )


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One that `evaluate.metrics` may ask of a task."""

    needs: Literal["loss", "readings", "answers"]
    """`loss` can be taken on any rows of the task; `readings` and `answers` on those of examples
    alone, where `readings` ask for no answer: what the model makes of the targets is enough."""
    higher_is_better: bool
    is_of_rows: bool = True
    """Whether it is taken of one row after another, so that those of other rows can be guessed by
    drawing these again."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """What no single measure tells of the answers; as large for any number of rows."""

    title: str
    brief: str
    """The same in a line, for the terminal; empty where there is nothing to tell."""
    note: str
    """How it is read."""
    head: list[str]
    rows: list[list[str | int]]
    """Each with as many cells as `head`."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of answers."""

    max_new_tokens: int = 64
    """Longest answer that is written."""
    beams: int = 1
    """Of an answer that comes whole: how many beginnings are carried on beside each other."""
