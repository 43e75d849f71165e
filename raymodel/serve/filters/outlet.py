"""What is answered, on its way through the filters: as it is made, or whole.

A filter that finds something by its form must not be shown half of it, so text is held back from
where a match may begin that has not ended yet. One that judges is shown whole sentences, or the
whole answer, and until then all of that is held back. What was given out stays so; where a filter
refuses, nothing more comes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from raymodel.serve.filters.chain import CODE, Chain, Filters, Found, RefusedError, redacted
from raymodel.serve.filters.sentences import last_end, sentences
from raymodel.serve.filters.spec import ClassifierFilterSpec
from raymodel.serve.pieces import Entry, Piece, Pieces

_CONTEXT_CHARS = 64  # that filters see before what is held: no match looks back further
REFUSED = Piece("", finish_reason="content_filter")
"""The end of an answer that a filter refuses."""


class Outlet:
    """One answer.

    Args:
        chain: the filters of what is answered.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        judges = [chain.filters[step].spec for step in chain.judges]
        units = [spec.unit for spec in judges if isinstance(spec, ClassifierFilterSpec)]
        self._waits_for_sentences = bool(units)
        self._waits_for_end = "answer" in units
        self._text = ""
        """What is held, behind some of what was given out."""
        self._first = 0
        """Place of that in the answer."""
        self._given = 0
        """Up to where in it text was given out."""
        self._tokens = _Tokens()

    async def push(self, piece: Piece) -> Piece:
        """What may go out now, with the tokens of it; `REFUSED` where a filter refuses it."""
        self._text += piece.text
        self._tokens.add(piece.entries, self._first + len(self._text))
        found = [one for one in self._chain.find(self._text) if one.match.start >= self._given]
        is_end = piece.finish_reason is not None
        stop = len(self._text) if is_end else self._boundary(found)
        found = [one for one in found if one.match.stop <= stop]
        held = self._text[self._given : stop]
        try:
            self._chain.tell(found)
            await self._judge(held, found)
        except RefusedError:
            return REFUSED
        text = redacted(held, found, len(self._chain.filters), self._given)
        entries = self._tokens.take(self._first, stop, found, is_end=is_end)
        self._given = stop
        self._forget()
        return Piece(text, entries, piece.finish_reason)

    def _boundary(self, found: list[Found]) -> int:
        """Up to where nothing changes any more: it lies in no match, and ends a sentence where
        sentences are judged."""
        if self._waits_for_end:
            return self._given
        stop, before = max(self._given, self._chain.settled(self._text)), -1
        while stop != before:
            before = stop
            matches = [one.match for one in found]
            stop = min([m.start for m in matches if m.start < stop < m.stop], default=stop)
            if self._waits_for_sentences:
                stop = last_end(self._text, self._given, stop)
        return stop

    async def _judge(self, held: str, found: list[Found]) -> None:
        """Raises RefusedError where a filter that judges refuses what is held."""
        for step in self._chain.judges:
            spec = self._chain.filters[step].spec
            text = redacted(held, found, step, self._given)
            is_one = isinstance(spec, ClassifierFilterSpec) and spec.unit == "answer"
            texts = ([text] if text.strip() else []) if is_one else sentences(text)
            if texts and any(await self._chain.judge(step, texts)):
                raise RefusedError(spec.name)

    def _forget(self) -> None:
        """Text that no filter looks back to."""
        gone = max(0, self._given - _CONTEXT_CHARS)
        self._text = self._text[gone:]
        self._first += gone
        self._given -= gone


@dataclass
class _Tokens:
    """The tokens of an answer whose text is held back, where log-probabilities are told."""

    _held: list[tuple[Entry, int]] = field(default_factory=list)
    """With the place where each ends."""
    _taken: list[tuple[int, int]] = field(default_factory=list)
    """What was redacted, of the answer."""
    _moves: list[tuple[int, int]] = field(default_factory=list)
    """From where on places are moved, and by how much."""

    def add(self, entries: tuple[Entry, ...], stop: int) -> None:
        """Takes those of a piece, which ends at `stop`."""
        ends = [*(entry.offset for entry in entries[1:]), stop]
        self._held += zip(entries, ends, strict=False)

    def take(self, first: int, stop: int, found: list[Found], *, is_end: bool) -> tuple[Entry, ...]:
        """Those whose text is given out as it is, at their places in what is given out.

        Args:
            first: the place in the answer from which the others count.
            stop: up to where it is given out.
            found: what is redacted.
        """
        for _, match in found:
            self._taken.append((first + match.start, first + match.stop))
            moved = len(match.placeholder) - (match.stop - match.start)
            self._moves.append((first + match.stop, moved))
        told = []
        while self._held and (is_end or self._held[0][1] <= first + stop):
            entry, end = self._held.pop(0)
            if not any(a < max(end, entry.offset + 1) and entry.offset < b for a, b in self._taken):
                told.append(entry._replace(offset=entry.offset + self._moved(entry.offset)))
        return tuple(told)

    def _moved(self, offset: int) -> int:
        return sum(by for place, by in self._moves if place <= offset)


class FilteredPieces:
    """The pieces of a request's answers that go out.

    Args:
        pieces: as they are made.
        filters: of the server.
    """

    def __init__(self, pieces: Pieces, filters: Filters) -> None:
        self._pieces, self._chain = pieces, filters.answered

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
        if not self._chain.filters:
            async for item in self._pieces:
                yield item
            return
        outlets: dict[int, Outlet] = {}
        async for index, piece in self._pieces:
            if index not in outlets:
                outlets[index] = Outlet(self._chain)
            out = await outlets[index].push(piece)
            if out.finish_reason == CODE:
                self._pieces.end(index)
            if out.text or out.entries or out.finish_reason:
                yield index, out

    async def collect(self) -> list[Piece]:
        """Each answer whole; of one that a filter refuses nothing."""
        parts: dict[int, Piece] = {}
        async for index, piece in self:
            parts[index] = parts[index] + piece if index in parts else piece
        return [
            REFUSED if parts[index].finish_reason == CODE else parts[index]
            for index in sorted(parts)
        ]
