"""Calls of functions in an answer's text, found as it is written.

What is found once is told: first a call's name, then its arguments as the model writes them. Text
that may turn out to be a call is held back until it is clear. What only looks like one stays text:
a name that was not offered, an object of another kind, a call whose name never comes, arguments
that cannot be read.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Iterator
from typing import NamedTuple

from raymodel.modality.call_form import CallForm, find_end
from raymodel.serve.call_written import CallScan, Schemas, begin_call

# As long as the ids that Mistral's templates insist on; others take any.
_ID_CHARS, _ID_ALPHABET = 9, string.ascii_letters + string.digits


class Said(NamedTuple):
    """Text of the answer."""

    text: str


class Called(NamedTuple):
    """A call begins."""

    number: int
    """Its place among the calls of the answer."""
    id: str
    name: str


class Argued(NamedTuple):
    """More of a call's arguments, a piece of JSON."""

    number: int
    text: str


Part = Said | Called | Argued


class CallReader:
    """Reads one answer.

    Args:
        form: how its model calls.
        schemas: of the functions that may be called.
        most: calls of one answer; what comes after the last is left out. None is any number.
    """

    def __init__(self, form: CallForm, schemas: Schemas, most: int | None = None) -> None:
        self._form, self._schemas, self._most = form, schemas, most
        self._marked = [each for each in form.openings if each.trigger]
        self._bare = next((each for each in form.openings if not each.trigger), None)
        self._opening = form.openings[0]
        self._held = ""
        self._is_over = False
        self._state: Callable[[], Iterator[Part]] = self._read_text
        self._has_said = self._is_behind_call = False
        self._scan: CallScan | None = None
        self._before = ""  # what stands before the call that is read
        self._is_next = False  # the call that is read stands behind another one
        self._is_told = False
        self._num_told = 0  # characters of its arguments
        self.num_calls = 0
        """Those that were told so far."""

    def push(self, text: str) -> list[Part]:
        """Takes more text; returns what is clear now."""
        self._held += text
        return self._advance()

    def finish(self) -> list[Part]:
        """At the end of the answer: what is left."""
        self._is_over = True
        return self._advance()

    def _advance(self) -> list[Part]:
        parts: list[Part] = []
        while True:
            state, held = self._state, self._held
            parts += state()
            if (self._state, self._held) == (state, held):
                return parts

    # ---- text ------------------------------------------------------------------------------------

    def _read_text(self) -> Iterator[Part]:
        may_begin = self._bare is not None and not (self._has_said or self.num_calls)
        if may_begin and not self._is_over and self._waits_for_beginning():
            return
        places = [(self._held.find(each.trigger), each) for each in self._marked]
        found = min(((p, each) for p, each in places if p >= 0), default=None)
        if may_begin and not self._is_over and (found is None or self._held[: found[0]].strip()):
            assert self._bare is not None, "it may begin"
            found = 0, self._bare
        if found is None:
            yield from self._say(len(self._held) - self._num_unclear())
            return
        place, self._opening = found
        yield from self._say(len(self._held[:place].rstrip()))
        self._state = self._read_opening

    def _waits_for_beginning(self) -> bool:
        """Of an answer that may be a call from its first character on."""
        begun = self._held.lstrip()
        return any(each.trigger.startswith(begun) for each in self._marked) or not begun

    def _num_unclear(self) -> int:
        """Characters at the end that may belong to a call: its beginning, and spaces before."""
        text = self._held
        if self._is_over:
            return 0
        if not self._marked:
            return len(text) if self._is_behind_call and not text.strip() else 0
        longest = max(
            length
            for each in self._marked
            for length in range(len(each.trigger))
            if text.endswith(each.trigger[:length])
        )
        return len(text) - len(text[: len(text) - longest].rstrip())

    def _say(self, num_chars: int) -> Iterator[Part]:
        text, self._held = self._held[:num_chars], self._held[num_chars:]
        is_rest = self._is_over and self._is_behind_call and not text.strip()
        if text and not is_rest:
            self._has_said, self._is_behind_call = True, False
            yield Said(text)

    # ---- a call ----------------------------------------------------------------------------------

    def _read_opening(self) -> Iterator[Part]:
        end = find_end(self._held, self._opening.text)
        if end is None and not self._is_over:
            return
        if end is None or end < 0:
            yield from self._take_back()
        else:
            self._begin(end, is_next=False)

    def _begin(self, place: int, *, is_next: bool) -> None:
        """A call is expected here, behind another one or the first."""
        self._before, self._held = self._held[:place], self._held[place:]
        self._scan, self._is_told, self._num_told = None, False, 0
        self._is_next = is_next
        self._state = self._read_call

    def _take_back(self) -> Iterator[Part]:
        """It was no call: what made it look like one is text."""
        scanned = "" if self._scan is None else self._scan.text
        self._held = self._before + scanned + self._held
        self._before, self._scan = "", None
        if self._is_next:  # what looked like it stands between two calls may end them
            self._is_next = False
            self._state = self._close
            return
        before, trigger, _ = self._held.partition(self._opening.trigger or self._held)
        self._state = self._read_text
        yield from self._say(len(before + trigger))

    def _read_call(self) -> Iterator[Part]:
        if self._scan is None:
            self._scan = begin_call(self._form, self._schemas)
        scan = self._scan
        self._held = scan.push(self._held, is_over=self._is_over)
        if not self._is_told:
            if scan.name is None:
                if scan.is_wrong or scan.is_done or self._is_over:
                    yield from self._take_back()
                return
            if self.num_calls == self._most:
                self._state = self._leave_out
                return
            self._is_told = True
            identity = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_CHARS))
            yield Called(self.num_calls, identity, scan.name)
            self.num_calls += 1
            self._is_behind_call = True
        if more := scan.arguments[self._num_told :]:
            yield Argued(self.num_calls - 1, more)
            self._num_told = len(scan.arguments)
        if scan.is_done:
            self._state = self._read_closing

    def _read_closing(self) -> Iterator[Part]:
        form = self._form
        end = -1 if form.between is None else find_end(self._held, form.between)
        if end is None and not self._is_over:
            return
        if end is not None and end >= 0:
            self._begin(end, is_next=True)
        else:
            yield from self._close()

    def _close(self) -> Iterator[Part]:
        end = find_end(self._held, self._form.closing)
        if end is None and not self._is_over:
            return
        if end is not None and end < 0:
            end = _end_of_parts(self._held, self._form.closing)
        self._held = "" if end is None else self._held[end:]
        self._before, self._scan = "", None
        self._state = self._read_text
        yield from ()

    def _leave_out(self) -> Iterator[Part]:
        self._held = ""
        yield from ()


def _end_of_parts(text: str, closing: str) -> int:
    """Where the last of those parts ends of which a model wrote only the first ones."""
    parts = re.split("(?=<)", closing)
    ends = (find_end(text, "".join(parts[:count])) for count in range(len(parts), 0, -1))
    return next((end for end in ends if end is not None and end >= 0), 0)
