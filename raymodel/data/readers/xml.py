"""XML files whose elements of one name are records, in bounded memory.

Entities that a file defines itself are refused, as defusedxml does: a few lines of them can mean
gigabytes (https://docs.python.org/3/library/xml.html#xml-security), and others name files.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from html.entities import html5
from typing import Any, NamedTuple
from xml.parsers import expat

from raymodel.data.account import Account
from raymodel.data.readers.content import Content, open_content
from raymodel.data.readers.json_values import MARK
from raymodel.data.readers.lines import MAX_LINE_BYTES
from raymodel.data.record import FileSlice, RawRecord, whole_record
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location

_CHUNK_BYTES = 2**16
_MAX_DEPTH = 100
"""Of elements in a record; deeper ones are no data."""
_TEXT = "#text"
_NOT_XML = "XML that is not well-formed"
_ENTITIES = "XML that defines entities"
_UNKNOWN_NAME = "XML element with a reference to what nothing defines"
_UNKNOWN_ENCODING = "XML in an unknown encoding"
_NOT_CLOSED = "XML element that is not closed before the next"
_TOO_DEEP = "XML element nested too deep"
_TOO_LONG = "XML element longer than a record may be"
_DECLARED = re.compile(rb"""<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})""")
_MARKS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_MISMATCH = expat.errors.codes[expat.errors.XML_ERROR_TAG_MISMATCH]
_AROUND = b"<r>"
"""Stands for what is around the records where parsing begins anew."""


class _DefinedEntityError(Exception):
    """A file may not define what its references mean."""


class _Element:
    """One that is open."""

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name, self.attributes = name, attributes
        self.text: list[str] = []
        self._parts: dict[str, list[Any]] = {}
        self._of_parts: dict[str, dict[str, list[str | None]]] = {}
        """Part → attribute → its value of each, as far as one has it."""

    def close_into(self, around: _Element) -> None:
        """A text, or a mapping where it has parts; its attributes beside the former."""
        values = around._parts.setdefault(self.name, [])
        if not self._parts:
            told = around._of_parts.setdefault(self.name, {}) if self.attributes else {}
            for name, value in self.attributes.items():
                own = told.setdefault(name, [])
                own += [None] * (len(values) - len(own)) + [value]
        values.append(self._mapping() if self._parts else "".join(self.text))

    def fields(self) -> dict[str, Any]:
        """Of a record. One without parts has its text as `text`."""
        if self._parts:
            return self._mapping()
        return {"text": "".join(self.text), **self._own_attributes()}

    def _mapping(self) -> dict[str, Any]:
        """Its parts; of those of one name a list, and so of their attributes, in the same order."""
        mapping: dict[str, Any] = {}
        for part, values in self._parts.items():
            mapping[part] = values[0] if len(values) == 1 else values
            for name, told in self._of_parts.get(part, {}).items():
                whole = told + [None] * (len(values) - len(told))
                mapping[f"{part}@{name}"] = whole[0] if len(values) == 1 else whole
        text = "".join(self.text)
        return {**mapping, **self._own_attributes(), **({_TEXT: text} if text.strip() else {})}

    def _own_attributes(self) -> dict[str, str]:
        return {f"@{name}": value for name, value in self.attributes.items()}


class _Found(NamedTuple):
    """A record, or why one is left out."""

    line: int
    fields: dict[str, Any]
    fault: str | None = None


class _Parser:
    """Expat, with the records that it has come past."""

    def __init__(self, element: str, max_bytes: int, line: int, *, is_first: bool) -> None:
        """Begins at a line of the file, else than at its start within what is around records."""
        self.found: list[_Found] = []
        self.inside = 0
        """Elements that are open, from that of a record on."""
        self._element, self._max_bytes, self._line = element, max_bytes, line
        self._open: list[_Element] = []
        self._num_bytes, self._begins_at = 0, 0
        self._fault: str | None = None
        self._parsed = self._before = 0
        self._is_first, self._is_unclosed = is_first, False
        self._expat = expat.ParserCreate("utf-8")
        self._expat.buffer_text = True
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._add_text
        self._expat.SkippedEntityHandler = self._add_named
        for handler in ("EntityDecl", "UnparsedEntityDecl", "ExternalEntityRef"):
            setattr(self._expat, f"{handler}Handler", _refuse)

    def parse(self, chunk: bytes) -> Exception | None:
        """Goes on with a chunk, nothing at the end; the error that it ended in."""
        self._before, self._parsed = self._parsed, self._parsed + len(chunk)
        try:
            self._expat.Parse(chunk, not chunk)
        except (expat.ExpatError, _DefinedEntityError) as error:
            return error
        return None

    @property
    def error_at(self) -> int:
        """The place in the last chunk from which on another record may begin."""
        is_first = self._before <= len(_AROUND)
        return max(int(is_first), self._expat.ErrorByteIndex - self._before)

    @property
    def is_closing(self) -> bool:
        """Whether what it ended at only closes what is around the records, of which it does not
        know, or what was told before not to be closed."""
        is_known = self._is_unclosed or not self._is_first
        return is_known and not self.inside and self._expat.ErrorCode == _MISMATCH

    @property
    def line(self) -> int:
        return self._line + int(self._expat.CurrentLineNumber) - 1

    @property
    def begins_at(self) -> int:
        """The line of the record that is open, else of where the parser stands."""
        return self._begins_at if self.inside else self.line

    def take(self) -> list[_Found]:
        """The records since the last time."""
        found, self.found = self.found, []
        return found

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == self._element:
            self._begin()
        elif not self.inside:
            return
        self.inside += 1
        self._count(sum(map(len, [name, *attributes, *attributes.values()])))
        if self.inside > _MAX_DEPTH:
            self._leave_out(_TOO_DEEP)
        if self._fault is None:
            self._open.append(_Element(name, attributes))

    def _begin(self) -> None:
        """A record begins, where one is open too: its end is missing, as dumps do not nest them."""
        if self.inside:
            self.found.append(_Found(self._begins_at, {}, self._fault or _NOT_CLOSED))
            self._is_unclosed = True
            self._open.clear()
        self.inside, self._begins_at, self._num_bytes, self._fault = 0, self.line, 0, None

    def _end(self, name: str) -> None:
        if not self.inside:
            return
        self.inside -= 1
        if self._fault is None:
            closed = self._open.pop()
            if self._open:
                closed.close_into(self._open[-1])
            else:
                self.found.append(_Found(self._begins_at, closed.fields()))
        elif not self.inside:
            self.found.append(_Found(self._begins_at, {}, self._fault))

    def _add_text(self, text: str) -> None:
        if self.inside and self._fault is None:
            self._open[-1].text.append(text)
            self._count(len(text))

    def _add_named(self, name: str, is_parameter: bool) -> None:
        """A reference to what a description beside the file defines, which is not read: those of
        HTML are known by their names."""
        text = html5.get(f"{name};")
        if text is None and not is_parameter and self.inside:
            self._leave_out(_UNKNOWN_NAME)
        elif text is not None:
            self._add_text(text)

    def _count(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        if self._num_bytes > self._max_bytes:
            self._leave_out(_TOO_LONG)

    def _leave_out(self, fault: str) -> None:
        self._fault = self._fault or fault
        self._open.clear()


def _refuse(*_: object) -> None:
    raise _DefinedEntityError


def read_xml(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The elements of the file. One that is damaged costs only itself."""
    assert spec.element is not None, "the spec was checked"
    num_found = 0
    with open_content(root, piece) as content:
        for found in _elements(content, spec, spec.element):
            num_found += 1
            account.begin(piece.name, found.line)
            if found.fault is not None:
                account.leave_out(found.fault)
            else:
                yield whole_record(found.fields)
    if not num_found:
        account.begin(piece.name)
        account.leave_out(f"XML file without an element {spec.element!r}")


def _elements(content: Content, spec: SourceSpec, element: str) -> Iterator[_Found]:
    """The records of a file, and what stands where one should."""
    try:
        read = _as_utf8(content, spec.encoding)
    except LookupError:
        yield _Found(1, {}, _UNKNOWN_ENCODING)
        return
    max_bytes = spec.max_record_bytes or MAX_LINE_BYTES
    parser, is_first = _Parser(element, max_bytes, 1, is_first=True), True
    scan = _Scan(read, element)
    while True:
        chunk = scan.next_chunk()
        error = parser.parse(chunk)
        yield from parser.take()
        if error is None and chunk:
            continue
        if not chunk and content.damage:
            yield _Found(parser.begins_at, {}, content.damage)
            return
        if isinstance(error, _DefinedEntityError):
            yield _Found(parser.line, {}, _ENTITIES)
            return
        is_end = parser.is_closing or not (chunk or parser.inside or is_first)
        if error is not None and not is_end:
            yield _Found(parser.begins_at, {}, _NOT_XML)
        if error is None or not scan.go_to_next(parser.error_at):
            return
        parser, is_first = _Parser(element, max_bytes, scan.line, is_first=False), False
        parser.parse(_AROUND)


class _Scan:
    """The bytes of a file, in chunks, of which a part can be passed over."""

    def __init__(self, read: Callable[[], bytes], element: str) -> None:
        self.line = 1
        """In which the chunk begins."""
        self._read, self._chunk = read, b""
        self._again = False
        self._begin = re.compile(rb"<" + re.escape(element.encode()) + rb"(?=[\s/>])")
        self._tail = len(element.encode()) + 1  # bytes of a begin that the chunk may end in

    def next_chunk(self) -> bytes:
        """What to parse next; nothing at the end."""
        if self._again:
            self._again = False
            return self._chunk
        return self._advance(len(self._chunk))

    def _advance(self, passed: int) -> bytes:
        """Forgets so many bytes of the chunk and reads more."""
        self.line += self._chunk.count(b"\n", 0, passed)
        more = self._read()
        self._chunk = self._chunk[passed:] + more
        return self._chunk if more else b""

    def go_to_next(self, at: int) -> bool:
        """Goes to where the next record begins, from a place in the chunk on; False where none
        does."""
        while not (found := self._begin.search(self._chunk, at)):
            at = 0
            if not self._advance(max(0, len(self._chunk) - self._tail)):
                return False
        self.line += self._chunk.count(b"\n", 0, found.start())
        self._chunk, self._again = self._chunk[found.start() :], True
        return True


def _as_utf8(content: Content, encoding: str) -> Callable[[], bytes]:
    """Reads a chunk after the other, in UTF-8: as the job says where it says something else than
    the default, else as the file does. What does not decode is nothing that XML may hold.

    Raises:
        LookupError: there is no such encoding.
    """
    declared = _DECLARED.search(content.head)
    mark = next((name for mark, name in _MARKS if content.head.startswith(mark)), None)
    said = codecs.lookup(encoding).name
    if said == "utf-8":
        said = codecs.lookup(mark or (declared[1].decode() if declared else "utf-8")).name
    if said in ("utf-8", "ascii"):
        return lambda: content.stream.read(_CHUNK_BYTES)
    decode = codecs.getincrementaldecoder(said)(MARK).decode

    def read() -> bytes:
        while data := content.stream.read(_CHUNK_BYTES):
            if text := decode(data):
                return text.encode("utf-8", "surrogatepass")
        return decode(b"", final=True).encode("utf-8", "surrogatepass")

    return read
