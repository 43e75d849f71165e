"""A call's arguments as they are being written, read into a JSON object."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from raymodel.modality.call_form import HOLE, Tags, find_end
from raymodel.serve.call_scan import ObjectScan
from raymodel.serve.call_values import fit_value, read_python, read_value, schema_of, write_json

_KEY = re.compile(r"[\w.-]+")  # those of Python's own words too, such as `from`
# Behind a backslash, of what Python knows; others it leaves as they are, and warns.
_ESCAPED = frozenset("\n\\'\"abfnrtvxuUN01234567")


class ArgumentScan(ABC):
    """Takes the text of a call's arguments in pieces."""

    def __init__(self) -> None:
        self.json = ""
        """What is clear of them; it only grows."""
        self.is_begun = False
        """It is clear that these are arguments."""
        self.is_done = False
        """They are whole."""
        self.is_wrong = False
        """They are none."""

    @abstractmethod
    def push(self, text: str, *, is_over: bool) -> str:
        """Takes more text; returns what lies behind the arguments, once they are done or wrong.

        Args:
            is_over: no more will come.
        """


class JsonScan(ArgumentScan):
    """Of an object, which is told as the model writes it."""

    def __init__(self) -> None:
        super().__init__()
        self._scan = ObjectScan()

    def push(self, text: str, *, is_over: bool) -> str:
        scan = self._scan
        rest = scan.push(text if scan.text else text.lstrip())
        self.is_begun = scan.text.startswith("{")
        self.is_wrong = scan.is_wrong and not self.is_begun
        self.is_done = scan.is_done or (scan.is_wrong and self.is_begun)
        self.json = scan.text
        return rest


class TagScan(ArgumentScan):
    """Of values between tags, each told when it is whole.

    Args:
        tags: those around a name and a value.
        ends: what may follow the last one.
        schema: of the arguments.
    """

    def __init__(self, tags: Tags, ends: tuple[str, ...], schema: Mapping[str, Any]) -> None:
        super().__init__()
        self._tags, self._schema = tags, schema
        self._ends = tuple(_first_tag(end) for end in ends if end.strip())
        self._mark = tags.after_value.strip().partition(HOLE)[0]
        before, after = _loose(tags.before_value), _loose(tags.after_value)
        before += r"\n?" if tags.before_value.endswith("\n") else ""
        after = (r"\n?" if tags.after_value.startswith("\n") else "") + after
        self._argument = re.compile(f"(.*?){before}(.*?){after}", re.DOTALL)
        self._rest = ""  # that is not understood yet

    def push(self, text: str, *, is_over: bool) -> str:
        self._rest += text
        while not (self.is_done or self.is_wrong):
            begin = find_end(self._rest, self._tags.before_key)
            if begin is None and not is_over:
                return ""
            if begin is None or begin < 0:
                self._end(is_over=is_over)
                break
            is_whole = self._mark in self._rest[begin:]
            found = self._argument.match(self._rest, begin) if is_whole else None
            if found is None:
                return ""
            self._take(found[1].strip(), found[2])
            self._rest = self._rest[found.end() :]
        return self._rest if self.is_done or self.is_wrong else ""

    def _take(self, key: str, value: str) -> None:
        value = value.removeprefix("<![CDATA[").removesuffix("]]>") if _is_cdata(value) else value
        given = write_json(read_value(value, schema_of(key, self._schema)))
        self.json += f"{', ' if self.json else '{'}{write_json(key)}: {given}"
        self.is_begun = True

    def _end(self, *, is_over: bool) -> None:
        """What follows is no argument: the end of the call, or something else."""
        found = [find_end(self._rest, end) for end in self._ends]
        is_end = any(end is not None and end >= 0 for end in found)
        is_unclear = any(end is None for end in found)
        if not is_end and is_unclear and (not is_over or self.is_begun):
            return  # it may become clear, or the answer was cut off
        if is_end or self.is_begun:
            self.json += "}" if self.json else "{}"
            self.is_begun = self.is_done = True
        else:
            self.is_wrong = True


class PythonScan(ArgumentScan):
    """Of `key=value, …)`, told when the bracket closes.

    Args:
        schema: of the arguments.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        super().__init__()
        self._schema = schema
        self._given: dict[str, str] = {}  # values as Python takes them
        self._key: str | None = None  # of the value that is being written
        self._source = ""
        self._depth, self._quote, self._is_escaped = 1, "", False

    def push(self, text: str, *, is_over: bool) -> str:
        for place, character in enumerate(text):
            self._take(character)
            if self._depth == 0 and not self.is_wrong:
                self._read()
            if self._depth == 0 or self.is_wrong:
                return text[place + 1 :]
        return ""

    def _take(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
            self._source += character if character in _ESCAPED else "\\" + character
        elif self._quote:
            self._is_escaped = character == "\\"
            self._quote = "" if character == self._quote else self._quote
            self._source += "\\n" if character == "\n" else character  # models write it as it is
        elif self._depth == 1 and character in "=,)":
            self._part(character)
        else:
            self._source += character
            self._quote = character if character in "'\"" else ""
            self._depth += (character in "([{") - (character in ")]}")
            self.is_wrong = self._depth == 0  # a bracket of another kind

    def _part(self, character: str) -> None:
        """The end of a name, of a value, or of all."""
        written, self._source = self._source.strip(), ""
        if character == "=":
            self.is_wrong = self._key is not None or _KEY.fullmatch(written) is None
            self._key = written
            return
        if self._key is not None:
            self._given[self._key] = written
        elif written or character == ",":
            self.is_wrong = True
        self._key = None
        self._depth -= character == ")"

    def _read(self) -> None:
        try:
            given = {key: read_python(text) for key, text in self._given.items()}
        except ValueError:
            self.is_wrong = True
            return
        schema = self._schema
        self.json = write_json({k: fit_value(v, schema_of(k, schema)) for k, v in given.items()})
        self.is_begun = self.is_done = True


def _is_cdata(text: str) -> bool:
    return text.startswith("<![CDATA[") and text.endswith("]]>")


def _first_tag(text: str) -> str:
    """Up to the second one."""
    start = text.find("<") + 1
    end = text.find("<", start)
    return text if end < 0 else text[:end]


def _loose(text: str) -> str:
    """A regular expression of a text, whose spaces may be others, without those around it."""
    words = (re.escape(word).replace(HOLE, r"\w*") for word in text.split())
    return r"\s*".join(words)
