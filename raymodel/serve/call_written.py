"""One call as it is being written, in whatever form: whose it is, and its arguments as JSON."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from raymodel.modality.call_form import CallForm, NamedCall, ObjectCall, Tags, find_end
from raymodel.serve.call_arguments import ArgumentScan, JsonScan, PythonScan, TagScan
from raymodel.serve.call_scan import ObjectScan
from raymodel.serve.call_values import is_unicode

Schemas = Mapping[str, Mapping[str, Any]]
"""Those of the arguments of functions, by the functions' names."""

# Models mix up the two names of arguments, and some say what kind of thing they call.
_OTHER_KEYS = frozenset({"name", "arguments", "parameters", "type", "id"})
_NAME = re.compile(r"\s*([A-Za-z0-9_-]*)")


class CallScan(ABC):
    """Takes the text of one call in pieces."""

    def __init__(self) -> None:
        self.text = ""
        """Of the call so far."""
        self.is_done = False
        """It is whole."""
        self.is_wrong = False
        """It is no call, and will be none."""
        self.name: str | None = None
        """Of the function, once it is clear that it is called."""
        self.arguments = ""
        """What is clear of them, as JSON; it only grows."""

    def push(self, text: str, *, is_over: bool = False) -> str:
        """Takes more text; returns what lies behind the call.

        Args:
            is_over: no more will come.
        """
        rest = self._read(text, is_over=is_over)
        self.text = (self.text + text).removesuffix(rest)
        return rest

    @abstractmethod
    def _read(self, text: str, *, is_over: bool) -> str: ...


def begin_call(form: CallForm, schemas: Schemas) -> CallScan:
    """At the beginning of a call of one of these functions."""
    if isinstance(form.call, ObjectCall):
        return _ObjectCallScan(form.call, schemas)
    return _NamedCallScan(form.call, schemas, (form.between or "", form.closing))


class _ObjectCallScan(CallScan):
    """Of an object, whose arguments come as the model writes them."""

    def __init__(self, form: ObjectCall, schemas: Schemas) -> None:
        super().__init__()
        self._form, self._schemas = form, schemas
        self._known = {*form.keys, *form.others, *_OTHER_KEYS}
        self._scan = ObjectScan()

    def _read(self, text: str, *, is_over: bool) -> str:
        scan = self._scan
        rest = scan.push(text if scan.text else text.lstrip())
        if self.name is None:
            self._find_name()
        self.is_wrong |= scan.is_wrong and self.name is None
        self.is_done = scan.is_done or (scan.is_wrong and self.name is not None)
        if self.name is not None:
            self._find_arguments()
        return rest

    def _find_name(self) -> None:
        scan, key = self._scan, self._form.name_key
        before = scan.keys[: scan.keys.index(key)] if key in scan.keys else scan.keys
        self.is_wrong = not self._known.issuperset(before)
        if self.is_wrong or key not in scan.keys:
            return
        text, is_whole = scan.value(key)
        if is_whole:
            name = _read(text)
            self.is_wrong = not (isinstance(name, str) and name in self._schemas)
            self.name = None if self.is_wrong else str(name)

    def _find_arguments(self) -> None:
        wanted = (self._form.arguments_key, "arguments", "parameters")
        key = next((each for each in wanted if each in self._scan.keys), None)
        if key is None:
            self.arguments = "{}" if self._scan.is_done else ""
            return
        text, is_whole = self._scan.value(key)
        if text.startswith('"'):  # JSON within a text
            inner = _read(text) if is_whole else ""
            text = inner if isinstance(inner, str) and is_unicode(inner) else text
        elif text == "null" and is_whole:
            text = "{}"
        elif text[:1] not in "{[" and not is_whole:
            text = ""
        self.arguments = text


class _NamedCallScan(CallScan):
    """Of a name with arguments behind it."""

    def __init__(self, form: NamedCall, schemas: Schemas, ends: tuple[str, str]) -> None:
        super().__init__()
        self._form, self._schemas, self._ends = form, schemas, ends
        self._rest = ""  # before the arguments, that is not understood yet
        self._called: str | None = None  # what may turn out to be the name
        self._scan: ArgumentScan | None = None

    def _read(self, text: str, *, is_over: bool) -> str:
        if self._scan is None:
            self._rest += text
            if self._called is None:
                self._find_name(is_over=is_over)
            if self._called is not None:
                self._find_arguments(self._called, is_over=is_over)
            if self._scan is None:
                return self._rest if self.is_wrong else ""
            text = self._rest
        rest = self._scan.push(text, is_over=is_over)
        self.is_done, self.is_wrong = self._scan.is_done, self._scan.is_wrong
        if self._scan.is_begun:
            self.name, self.arguments = self._called, self._scan.json
        return rest

    def _find_name(self, *, is_over: bool) -> None:
        found = _NAME.match(self._rest)
        assert found is not None, "it may be empty"
        word = found[1]
        if found.end() == len(self._rest) and not is_over:
            self.is_wrong = not any(name.startswith(word) for name in self._schemas)
        elif word in self._schemas:
            self._called, self._rest = word, self._rest[found.end() :]
        else:
            self.is_wrong = True

    def _find_arguments(self, name: str, *, is_over: bool) -> None:
        end = find_end(self._rest, self._form.after_name)
        if end is None or end < 0:
            self.is_wrong = end is not None or is_over
            return
        self._rest = self._rest[end:]
        match self._form.arguments:
            case "json":
                self._scan = JsonScan()
            case Tags() as tags:
                self._scan = TagScan(tags, self._ends, self._schemas[name])
            case _:
                self._scan = PythonScan(self._schemas[name])


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
