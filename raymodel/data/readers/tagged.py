"""Sentences whose words have tags: a token a line (CoNLL), or `word/TAG` a word.

A sentence with one damaged line is left out as a whole: without a word it would be another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from raymodel.data.account import Account
from raymodel.data.readers.lines import NumberedLine, encoding_of, open_lines
from raymodel.data.record import FileSlice, RawRecord, whole_record
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location

MAX_SENTENCE_LINES, MAX_SENTENCE_CHARS = 100_000, 2**26
"""Of one sentence; where more do not end it, the file has no blank lines."""
# Only these part words and end lines: a token may be a space of another kind, as in Chinese texts.
_SPACE = " \t\r\n"
_DOCUMENT = "-DOCSTART-"
_LINES_LOOKED_AT = 1000  # of the head of a file, which is enough to see what most are like


class _Columns(NamedTuple):
    """How the lines of a file are made."""

    is_tabbed: bool
    number: int


class _Sentence(NamedTuple):
    """The lines between two blank ones."""

    lines: list[NumberedLine]
    """Its first ones, where they are too many."""
    is_too_long: bool
    is_ended: bool
    """Not so at the end of the file, which may be a place where it is damaged."""
    document: int
    """How many documents were begun before it."""


class _Fault(NamedTuple):
    """Why a sentence is left out, and the line that is to blame."""

    reason: str
    text: str
    line: int


def read_conll(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The sentences of the file."""
    with open_lines(root, piece, spec, account, "sentence") as (content, lines):
        columns = _columns_of(content.head, spec.encoding)
        if columns.is_tabbed:  # so that a token may hold a blank
            account.found["file", f"{columns.number} columns parted by tabs"] += 1
        for sentence in _sentences(lines):
            if content.damage and not sentence.is_ended:
                break
            found = _parse(sentence, columns)
            if isinstance(found, _Fault):
                account.begin(piece.name, found.line)
                account.leave_out(found.reason, found.text)
            else:
                account.begin(piece.name, sentence.lines[0][1])
                yield whole_record(found)


def _columns_of(head: bytes, encoding: str) -> _Columns:
    """What most lines at the beginning of the file are like, so that no damaged one decides."""
    text = head.decode(encoding_of(encoding, head).codec, "replace")
    lines = [line for line in text.splitlines() if line.strip(_SPACE)][:_LINES_LOOKED_AT]
    is_tabbed = sum("\t" in line for line in lines) * 2 > len(lines)
    counts = Counter(len(_split(line, is_tabbed)) for line in lines)
    commonest = max(counts, key=lambda count: counts[count], default=0)
    return _Columns(is_tabbed, max(2, commonest))  # a token and its tag at least


def _split(line: str, is_tabbed: bool) -> list[str]:
    if is_tabbed:
        return line.strip("\r\n").split("\t")
    return [part for part in line.replace("\t", " ").strip(_SPACE).split(" ") if part]


def _sentences(lines: Iterator[NumberedLine]) -> Iterator[_Sentence]:
    taken: list[NumberedLine] = []
    document, num_chars, is_too_long = 0, 0, False
    for line in lines:
        text, _, fault = line
        begins = text.startswith(_DOCUMENT)
        if fault or (text.strip(_SPACE) and not begins):
            num_chars += len(text)
            is_full = len(taken) == MAX_SENTENCE_LINES or num_chars > MAX_SENTENCE_CHARS
            is_too_long = is_too_long or (bool(taken) and is_full)
            if not is_too_long:
                taken.append(line)
            continue
        if taken:
            yield _Sentence(taken, is_too_long, True, document)
        document += begins
        taken, num_chars, is_too_long = [], 0, False
    if taken:
        yield _Sentence(taken, is_too_long, False, document)


def _parse(sentence: _Sentence, columns: _Columns) -> dict[str, Any] | _Fault:
    """Its columns as fields; or why it is left out."""
    rows = []
    for text, line, fault in sentence.lines:
        row = _split(text, columns.is_tabbed)
        if not fault and len(row) != columns.number:
            fault = f"sentence with a line of other than {columns.number} columns"
        if not fault and not all(cell.strip(_SPACE) for cell in row):
            fault = "sentence with a line that has an empty column"
        if fault:
            return _Fault(fault, text, line)
        rows.append(row)
    if sentence.is_too_long:
        text, line, _ = sentence.lines[0]
        return _Fault("sentence of more tokens than one may have", text, line)
    tokens, *others, tags = (list(column) for column in zip(*rows, strict=True))
    more = {f"column_{number}": column for number, column in enumerate(others, start=2)}
    return {"tokens": tokens, "tags": tags, **more, "document": sentence.document}


def read_word_tags(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The lines of the file."""
    with open_lines(root, piece, spec, account, "sentence") as (_, lines):
        for text, line, fault in lines:
            words = _split(text, is_tabbed=False)
            if not words and not fault:
                continue
            account.begin(piece.name, line)
            pairs = [_word_and_tag(word) for word in words]
            if fault or not all(word and tag for word, tag in pairs):
                account.leave_out(fault or "sentence with a word without a tag", text)
            else:
                tokens, tags = (list(column) for column in zip(*pairs, strict=True))
                yield whole_record({"tokens": tokens, "tags": tags})


def _word_and_tag(text: str) -> tuple[str, str]:
    """`"word/TAG"` → both. The brackets of `[a/n b/n]nt`, a name of several words, are taken off.

    A slash can be a word: the last one parts it from its tag.
    """
    word, _, tag = text.rpartition("/")
    return word[1:] if word[:1] == "[" and len(word) > 1 else word, tag.partition("]")[0]
