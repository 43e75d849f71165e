"""A JSON object as it is being written: which members it has so far, and where they lie."""

from __future__ import annotations

import json
from enum import Enum, auto

_SPACES = " \n\r\t"


class _Awaits(Enum):
    """What comes next between the object's own braces."""

    KEY = auto()
    COLON = auto()
    VALUE = auto()
    COMMA = auto()


class ObjectScan:
    """Takes the text of one object in pieces; what its values hold is not looked at."""

    def __init__(self) -> None:
        self.text = ""
        """Of the object so far."""
        self.is_done = False
        """Its last brace has come."""
        self.is_wrong = False
        """It is no object, and will be none."""
        self._places: dict[str, tuple[int, int | None]] = {}
        self._depth = 0
        self._in_string = self._is_escaped = False
        self._awaits = _Awaits.KEY
        self._key = ""
        self._start: int | None = None  # of the key or value that is being written

    @property
    def keys(self) -> tuple[str, ...]:
        """Those whose value has begun, or has come."""
        return tuple(self._places)

    def value(self, key: str) -> tuple[str, bool]:
        """What there is of a value, as it is written, and whether it is whole."""
        start, end = self._places[key]
        return self.text[start:end], end is not None

    def push(self, text: str) -> str:
        """Takes more text; returns what lies behind the object."""
        for index, character in enumerate(text):
            self.text += character
            self._take(character, len(self.text) - 1)
            if self.is_done or self.is_wrong:
                return text[index + 1 :]
        return ""

    def _take(self, character: str, place: int) -> None:
        if self._in_string:
            self._take_in_string(character, place)
        elif character == '"':
            self._in_string = True
            self._begin(place, is_string=True)
        elif character in "{[":
            self._depth += 1
            if self._depth > 1:
                self._begin(place)
            elif character == "[":
                self.is_wrong = True
        elif character in "}]":
            self._depth -= 1
            if self._depth == 1:
                self._end(place + 1)
            elif self._depth == 0:
                self._end(place)
                self.is_done = True
        elif self._depth == 1:
            self._take_between(character, place)
        elif self._depth == 0:
            self.is_wrong = True

    def _take_in_string(self, character: str, place: int) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == '"':
            self._in_string = False
            if self._depth == 1:
                self._end(place + 1)

    def _take_between(self, character: str, place: int) -> None:
        """Punctuation, spaces, and values without quotes."""
        if character in _SPACES:
            if self._awaits is _Awaits.VALUE:
                self._end(place)
        elif character == ",":
            self._end(place)
            self._expect(_Awaits.COMMA, _Awaits.KEY)
        elif character == ":":
            self._expect(_Awaits.COLON, _Awaits.VALUE)
        else:
            self._begin(place)

    def _expect(self, now: _Awaits, after: _Awaits) -> None:
        self.is_wrong |= self._awaits is not now
        self._awaits = after

    def _begin(self, place: int, *, is_string: bool = False) -> None:
        """A key or a value begins here, or goes on."""
        if self._depth != 1 + (self.text[place] in "{["):
            self.is_wrong |= self._depth == 0
            return
        if self._awaits is _Awaits.VALUE:
            if self._start is None:
                self._start = place
                self._places[self._key] = (place, None)
        elif self._awaits is _Awaits.KEY and is_string:
            self._start = place
        else:
            self.is_wrong = True

    def _end(self, place: int) -> None:
        """What was being written ends before this place."""
        if self._start is None:
            return
        if self._awaits is _Awaits.KEY:
            try:
                self._key = str(json.loads(self.text[self._start : place]))
            except ValueError:
                self.is_wrong = True
            self._awaits = _Awaits.COLON
        else:
            self._places[self._key] = (self._start, place)
            self._awaits = _Awaits.COMMA
        self._start = None
