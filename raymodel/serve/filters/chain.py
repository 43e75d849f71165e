"""The filters of a server, in their order: what is asked goes through them here, and what is
answered in `outlet.py`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from raymodel.data.cleaning.pii import covered
from raymodel.serve.filters.base import Filter, Judge, Match, TextFilter
from raymodel.serve.filters.spec import Side
from raymodel.serve.flow import Filtered, notices, unnoticed
from raymodel.serve.refusal import Refusal

CODE = "content_filter"
"""Of what a filter refuses, as OpenAI's clients know it: of an error, and why an answer ended."""
_AT_ONCE_CHARS = 4096  # longer texts are looked at beside the event loop


class Found(NamedTuple):
    """What a filter found in a text."""

    step: int
    """The filter's place among the others."""
    match: Match


class RefusedError(Exception):
    """A filter lets a text not pass."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Chain:
    """The filters of one side.

    Args:
        filters: in their order.
        side: whose texts go through them.
    """

    def __init__(self, filters: Iterable[Filter[Any]], side: Side) -> None:
        self.filters = [each for each in filters if each.spec.side in (side, "both")]
        self.side = side

    def find(self, text: str) -> list[Found]:
        """What the filters that find something by its form find, from left to right; each looks at
        what those before it left, and no two overlap."""
        found: list[Found] = []
        for step, each in enumerate(self.filters):
            if isinstance(each, TextFilter):
                matches = _beside(each.find(text), found)
                found += [Found(step, match) for match in matches]
                found.sort(key=lambda one: one.match.start)
                text = covered(text, [(match.start, match.stop) for match in matches])
        return found

    def settled(self, text: str) -> int:
        """Up to where that stays so, see `TextFilter.settled`."""
        finders = [each for each in self.filters if isinstance(each, TextFilter)]
        return min([each.settled(text) for each in finders], default=len(text))

    def tell(self, found: Sequence[Found]) -> None:
        """Counts what was found. Raises RefusedError where a filter refuses it."""
        for (step, kind), count in Counter((one.step, one.match.kind) for one in found).items():
            self._note(step, kind, count)
        for step, each in enumerate(self.filters):
            if each.spec.action == "refuse" and any(one.step == step for one in found):
                raise RefusedError(each.spec.name)

    async def judge(self, step: int, texts: Sequence[str]) -> list[bool]:
        """Whether the filter at a place, which judges, refuses texts; counts those."""
        judge = self.filters[step]
        assert isinstance(judge, Judge), judge.spec.name
        refused = await unnoticed(lambda: judge.are_refused(texts))
        if any(refused):
            self._note(step, judge.kind, sum(refused))
        return refused

    def _note(self, step: int, kind: str, count: int) -> None:
        spec = self.filters[step].spec
        notices().filter(Filtered(spec.name, self.side, spec.action, kind), count)

    @property
    def judges(self) -> list[int]:
        """The places of those that judge."""
        return [step for step, each in enumerate(self.filters) if isinstance(each, Judge)]


class Filters:
    """All filters of a server.

    Args:
        filters: in their order; closed with this one.
    """

    def __init__(self, filters: Sequence[Filter[Any]] = ()) -> None:
        self._filters = tuple(filters)
        self.asked, self.answered = Chain(filters, "in"), Chain(filters, "out")

    def state(self) -> list[dict[str, Any]]:
        """What `/health` tells."""
        return [each.state() for each in self._filters]

    def close(self) -> None:
        """Ends their threads."""
        for each in self._filters:
            each.close()

    async def admit(self, texts: Sequence[str], param: str) -> list[str]:
        """The texts of a request as the model may read them.

        Args:
            param: the field that they stand in.

        Raises:
            Refusal: 400 where a filter refuses one.
        """
        passed, names = await self._screen(texts, are_one=True)
        if names:
            raise refused(f"{param} holds what this server does not take", names[0], param)
        return [text for text in passed if text is not None]

    async def screen(self, texts: Sequence[str]) -> list[str | None]:
        """As `admit`, of texts that stand each by itself; None in the place of those that a filter
        refuses."""
        return (await self._screen(texts, are_one=False))[0]

    async def _screen(
        self, texts: Sequence[str], *, are_one: bool
    ) -> tuple[list[str | None], list[str]]:
        """Beside the texts, the names of the filters that refused some.

        Args:
            are_one: nothing passes where one does not, so that no more filters need to look.
        """
        chain = self.asked
        if not chain.filters or not texts:
            return list(texts), []
        is_short = sum(map(len, texts)) <= _AT_ONCE_CHARS
        found = [chain.find(t) for t in texts] if is_short else await asyncio.to_thread(
            lambda: [chain.find(text) for text in texts]
        )  # fmt: skip
        passed: list[str | None] = list(texts)
        names = []
        for place, each in enumerate(found):
            try:
                chain.tell(each)
            except RefusedError as error:
                passed[place] = None
                names.append(error.name)
        for step in () if are_one and names else chain.judges:
            left = [place for place, text in enumerate(passed) if text is not None]
            seen = [redacted(texts[place], found[place], step) for place in left]
            for place, is_refused in zip(left, await chain.judge(step, seen), strict=True):
                if is_refused:
                    passed[place] = None
                    names.append(chain.filters[step].spec.name)
        every = len(chain.filters)
        for place, text in enumerate(passed):
            if text is not None:
                passed[place] = redacted(text, found[place], every)
        return passed, names


NO_FILTERS = Filters()


def refused(what: str, name: str | None, param: str) -> Refusal:
    """400 for what a filter refuses; says nothing of the text."""
    by = "a filter" if name is None else f"the filter `{name}`"
    return Refusal(400, f"{what}, as {by} tells; leave it out", param=param, code=CODE)


def redacted(text: str, found: Sequence[Found], before: int, start: int = 0) -> str:
    """A text with placeholders for what the filters before a place found.

    Args:
        start: of the text, where that of what was found counts from elsewhere.
    """
    parts, end = [], 0
    for step, match in found:
        if step < before:
            parts += [text[end : match.start - start], match.placeholder]
            end = match.stop - start
    return "".join([*parts, text[end:]]) if parts else text


def _beside(matches: Sequence[Match], found: Sequence[Found]) -> list[Match]:
    """Those that lie over nothing of what was found, as a phrase around an address does. Both go
    from left to right, so that each is looked at once, however many there are."""
    beside, place = [], 0
    for match in matches:
        while place < len(found) and found[place].match.stop <= match.start:
            place += 1
        if place == len(found) or match.stop <= found[place].match.start:
            beside.append(match)
    return beside
