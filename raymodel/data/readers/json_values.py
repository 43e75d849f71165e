"""JSON values one after the other, over any number of lines, in bounded memory.

It reads an array as its elements, and objects that are pretty-printed or not parted by line ends.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from typing import IO, Any

from raymodel.data.readers.json_object import Misfit, as_record, scan, scan_any

MAX_VALUE_CHARS = 2**26
"""Of one value; where more do not end it, it has no end."""
_CHUNK_BYTES = 2**20
_SAMPLE_CHARS = 1000
_MAX_INDENT = 1000  # characters before a value on its line
_LONGEST_TOKEN = 16  # characters of `-Infinity` and of an escaped pair of surrogates, and some
_BETWEEN = re.compile(r"[ \t\r\n,]*")
MARK = "raymodel.mark"
"""How decoders are told to put `_UNDECODED` in the place of what is not of the encoding."""
_UNDECODED = "\udcff"  # no text that was decoded holds it


def _mark_undecoded(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _UNDECODED, error.end


codecs.register_error(MARK, _mark_undecoded)


class ValueReader:
    """The values of a stream. The elements of an array are values; those of an object are not."""

    def __init__(self, stream: IO[bytes], codec: str) -> None:
        self.line = 1
        """Where the value begins."""
        self.sample = ""
        """Text of the value that was taken; of what was passed over, the beginning."""
        self._stream, self._is_open = stream, True
        self._decode = codecs.getincrementaldecoder(codec)(MARK).decode
        self._text, self._at = "", 0
        self._in_array = False

    def find_next(self) -> bool:
        """Goes to the next value, into an array or out of it; False at the end."""
        while True:
            between = _BETWEEN.match(self._text, self._at)
            assert between is not None
            self._go_to(between.end())
            if self._at == len(self._text):
                if not self._read_more():
                    return False
            elif self._text[self._at] == ("]" if self._in_array else "["):
                self._in_array = not self._in_array
                self._go_to(self._at + 1)
            else:
                return True

    def take(self) -> dict[str, Any]:
        """The value as a record.

        Raises:
            Misfit: it is none. It is passed over, if its end can be told; else all up to the next
                line that begins with an object and is indented no deeper.
            UnicodeError: its text is not of the encoding.
        """
        self.sample = self._text[self._at : self._at + _SAMPLE_CHARS]
        try:
            value, end = self._scan(scan)
        except Misfit:
            self._pass_over()
            raise
        self.sample = self._text[self._at : end]
        self._go_to(end)
        if _UNDECODED in self.sample:
            raise UnicodeError
        return as_record(value)

    def _scan(self, scan: Callable[[str, int], tuple[Any, int]]) -> tuple[Any, int]:
        while True:
            try:
                value, end = scan(self._text, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.pos >= len(self._text) - _LONGEST_TOKEN
                if not (is_cut or error.msg.startswith("Unterminated")) or not self._read_more():
                    raise Misfit("not JSON") from None
            else:
                # A number at the end of what was read may go on.
                if end < len(self._text) or not self._read_more():
                    return value, end

    def _pass_over(self) -> None:
        try:
            self._go_to(self._scan(scan_any)[1])
            return
        except Misfit:
            pass
        column = min(self._at - (self._text.rfind("\n", 0, self._at) + 1), _MAX_INDENT)
        object_begins = re.compile(rf"\n[ \t]{{0,{column}}}(?=\{{)")
        while not (found := object_begins.search(self._text, self._at + 1)):
            self._go_to(max(self._at, len(self._text) - _MAX_INDENT - 2))
            if not self._read_more():
                break
        self._go_to(found.end() if found else len(self._text))

    def _go_to(self, at: int) -> None:
        self.line += self._text.count("\n", self._at, at)
        self._at = at

    def _read_more(self) -> bool:
        """Adds to the text, and drops what was read; False at the end or where memory is full."""
        unread = len(self._text) - self._at
        if not self._is_open or unread > MAX_VALUE_CHARS:
            return False
        # The line up to here stays: its length is how deep a value is indented.
        keep = self._text.rfind("\n", 0, self._at) + 1
        if self._at - keep > _MAX_INDENT:
            keep = self._at
        # As much again as there is, so that a long value is not parsed at every chunk.
        data = self._stream.read(max(_CHUNK_BYTES, unread))
        self._is_open = bool(data)
        self._text = self._text[keep:] + self._decode(data, final=not data)
        self._at -= keep
        return True
