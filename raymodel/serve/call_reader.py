"""Calls of functions in an answer's text, found as it is written.

What is found once is told: first a call's name, then its arguments as the model writes them. Text
that may turn out to be a call is held back until it is clear. What only looks like one stays text:
a name that was not offered, an object of another kind, a call whose name never comes.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Callable, Iterator, Set
from typing import NamedTuple

from raymodel.modality.tool_form import CallForm
from raymodel.serve.call_scan import ObjectScan

# Models mix up the two names of arguments, and some say what kind of thing they call.
_OTHER_KEYS = frozenset({"name", "arguments", "parameters", "type", "id"})
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
        names: functions that may be called.
        most: calls of one answer; what comes after the last is left out. None is any number.
    """

    def __init__(self, form: CallForm, names: Set[str], most: int | None = None) -> None:
        self._form, self._names, self._most = form, names, most
        self._held = ""
        self._is_over = False
        self._state: Callable[[], Iterator[Part]] = self._read_text
        self._has_said = False
        self._scan = ObjectScan()
        self._before = ""  # what stands before the object that is read
        self._is_told = False  # the call that is read
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
        trigger = self._form.trigger
        if not trigger:
            yield from self._read_beginning()
            return
        place = self._held.find(trigger)
        if place >= 0:
            yield from self._say(len(self._held[:place].rstrip()))
            self._state = self._read_opening
        else:
            yield from self._say(len(self._held) - self._num_unclear(trigger))

    def _read_beginning(self) -> Iterator[Part]:
        """Of an answer that is a call from its first character on, or none."""
        is_blank = not self._held.strip()
        if self._has_said or self._is_over or (self.num_calls and not is_blank):
            yield from self._say(len(self._held))
        elif not is_blank:
            self._state = self._read_opening

    def _num_unclear(self, trigger: str) -> int:
        """Characters at the end that may belong to a call: its beginning, and spaces before."""
        if self._is_over:
            return 0
        clear = self._held
        for length in range(min(len(trigger) - 1, len(clear)), 0, -1):
            if clear.endswith(trigger[:length]):
                clear = clear[:-length]
                break
        return len(self._held) - len(clear.rstrip())

    def _say(self, num_chars: int) -> Iterator[Part]:
        text, self._held = self._held[:num_chars], self._held[num_chars:]
        is_rest = self._is_over and not self._held and self.num_calls > 0
        if text and not (is_rest and not text.strip()):
            self._has_said = True
            yield Said(text)

    # ---- a call ----------------------------------------------------------------------------------

    def _read_opening(self) -> Iterator[Part]:
        end = _match(self._held, self._form.opening)
        if end is None and not self._is_over:
            return
        if end is None or end < 0:
            yield from self._take_back()
        else:
            yield from self._begin_object(end, self._take_back)

    def _begin_object(self, place: int, otherwise: Callable[[], Iterator[Part]]) -> Iterator[Part]:
        """The object that must begin here, but for spaces."""
        rest = self._held[place:].lstrip()
        if rest.startswith("{"):
            start = len(self._held) - len(rest)
            self._before, self._held = self._held[:start], rest
            self._scan, self._is_told, self._num_told = ObjectScan(), False, 0
            self._state = self._read_object
        elif rest or self._is_over:
            yield from otherwise()

    def _take_back(self) -> Iterator[Part]:
        """It was no call: what made it look like one is text."""
        self._held = self._before + self._scan.text + self._held
        self._before, self._scan = "", ObjectScan()
        before, trigger, _ = self._held.partition(self._form.trigger or self._held)
        self._state = self._read_text
        yield from self._say(len(before + trigger))

    def _read_object(self) -> Iterator[Part]:
        scan = self._scan
        self._held = scan.push(self._held)
        if not self._is_told:
            is_open = not (scan.is_done or self._is_over)
            name = self._find_name()
            if scan.is_wrong or (name is None and not is_open):
                yield from self._take_back()
                return
            if name is None:
                return
            if self.num_calls == self._most:
                self._state = self._leave_out
                return
            self._is_told = True
            identity = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_CHARS))
            yield Called(self.num_calls, identity, name)
            self.num_calls += 1
        yield from self._tell_arguments()
        if scan.is_done:
            self._state = self._read_closing

    def _find_name(self) -> str | None:
        """The name of the function, once it is there. An object that is no call is wrong."""
        scan, key = self._scan, self._form.name_key
        if not set(scan.keys) <= {*self._form.keys, *_OTHER_KEYS}:
            scan.is_wrong = True
        if key not in scan.keys:
            return None
        text, is_whole = scan.value(key)
        if not is_whole:
            return None
        try:
            name = json.loads(text)
        except ValueError:
            name = None
        if not (isinstance(name, str) and name in self._names):
            scan.is_wrong = True
            return None
        return name

    def _tell_arguments(self) -> Iterator[Part]:
        wanted = (self._form.arguments_key, "arguments", "parameters")
        key = next((each for each in wanted if each in self._scan.keys), None)
        number = self.num_calls - 1
        if key is None:
            if self._scan.is_done:
                yield Argued(number, "{}")
            return
        text, is_whole = self._scan.value(key)
        if text.startswith('"'):  # JSON within a text
            text = _unquoted(text) if is_whole else ""
        elif text == "null" and is_whole:
            text = "{}"
        elif text[:1] not in "{[" and not is_whole:
            text = ""
        if text[self._num_told :]:
            yield Argued(number, text[self._num_told :])
            self._num_told = len(text)

    def _read_closing(self) -> Iterator[Part]:
        form = self._form
        end = -1 if form.between is None else _match(self._held, form.between)
        if end is None and not self._is_over:
            return
        if end is not None and end >= 0:
            yield from self._begin_object(end, self._close)
        else:
            yield from self._close()

    def _close(self) -> Iterator[Part]:
        end = _match(self._held, self._form.closing)
        if end is None and not self._is_over:
            return
        self._held = "" if end is None else self._held[max(0, end) :]
        self._before, self._scan = "", ObjectScan()
        self._state = self._read_text
        yield from ()

    def _leave_out(self) -> Iterator[Part]:
        self._held = ""
        yield from ()


def _match(text: str, expected: str) -> int | None:
    """Where `expected` ends at the beginning of a text, whatever spaces either has; None when the
    text is too short to tell, -1 when it says something else."""
    place = 0
    for character in "".join(expected.split()):
        while place < len(text) and text[place].isspace():
            place += 1
        if place == len(text):
            return None
        if text[place] != character:
            return -1
        place += 1
    return place


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text
