"""What the documents of a source are like, gathered in the steps that have them in memory anyway.

`Profile.add_found` sees what is kept of what is read, `Profile.add_rows` what became rows: without
duplicates, and with its tokens.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymodel.data.card.shown import shown_document
from raymodel.data.card.sketch import NAME_CHARS, Histogram, Names
from raymodel.data.document import Document
from raymodel.data.texts import texts_of
from raymodel.modality.scripts import find_script
from raymodel.tasks.fields import Fields

KEPT_SHOWN = 6
"""Documents of a source that a card shows: a fair sample, those whose keys are lowest."""
_HOST = re.compile(
    r"[a-zA-Z][a-zA-Z0-9+.-]{0,20}://(?:[^/?#@]{0,200}@)?(\[[^\]]{0,50}\]|[^/?#:]{0,300})"
)
"""Of an address: every record has one, so it is not taken apart by `urllib`, ten times as slow."""
_NAMED_FIELDS = ("source", "language", "lang")
"""Fields that many corpora have, whose values a person wants to see counted."""
_HEARD = 64  # clips of a partition and split: a few in a hundred of what making rows takes
_MAX_FOUND = 100_000  # names in memory before they become a sketch
NO_SCRIPT = "none"
"""In the place of a script, where there is nothing but digits and signs."""
FIELD = "field "
"""Before the name of such a field, among the names."""


@dataclass(frozen=True, kw_only=True)
class RowsSeen:
    """What a card wants to know of rows, beside their documents."""

    documents: Sequence[Document]
    """Those that are in the rows."""
    tokens: Any = None
    """Of each, (n,) int64; None where nothing is made of tokens."""
    is_whole: Any = None
    """Which lost nothing when their tokens were made, (n,) bool; None: all."""
    unknown: int | None = None
    """Tokens that stand for what the tokenizer does not know; None where it knows everything."""


class Profile:
    """Sketches of one source."""

    def __init__(self) -> None:
        self.sizes: dict[str, Histogram] = {}
        """`characters`, `tokens` of documents; of images `width` and `height` in pixels, and
        `aspect`, that over this in percent; of clips `milliseconds`, and of some of them `lufs`,
        their loudness without its sign."""
        self.names: dict[str, Names] = {}
        """`folder`, `file`, `host`, fields of records; `size` of images, `rate` of clips."""
        self.sums: Counter[str] = Counter()
        """Of documents that lost nothing: `characters`, `words`, `bytes` and `tokens`; of all rows
        `unknown`, and `known_by` the tokens among which they were counted."""
        self.written: dict[str, dict[str, Counter[str]]] = {}
        """The same four, and `documents`, by what documents are written in: `language`, of those
        whose language a cleaning step told, and `script` of all others; `NO_SCRIPT` too."""
        self.kept: list[dict[str, Any]] = []
        """The documents to show, with their keys in hex, lowest first."""
        self._found: dict[str, dict[str, int]] = {}

    def add_found(self, file: str, fields: Mapping[str, Any]) -> None:
        """Counts where a document comes from: its file, and what some fields of its record say."""
        self._count("file", file)
        address = fields.get("url") or fields.get("uri")
        if isinstance(address, str) and (found := _HOST.match(address)) and found[1]:
            self._count("host", found[1].lower())
        for name in _NAMED_FIELDS:
            if (value := fields.get(name)) and isinstance(value, str):
                self._count(FIELD + name, value[:NAME_CHARS])

    def _count(self, name: str, value: str) -> None:
        if (counts := self._found.get(name)) is None:
            counts = self._found[name] = {}
        counts[value] = counts.get(value, 0) + 1
        if len(counts) > _MAX_FOUND:
            self._book_found()

    def _book_found(self) -> None:
        """Makes sketches of what was counted exactly."""
        if files := self._found.get("file"):
            folders = self._found["folder"] = dict[str, int]()
            for file, count in files.items():
                folder = file.rpartition("/")[0]
                folders[folder] = folders.get(folder, 0) + count
        for name, counts in self._found.items():
            self.names.setdefault(name, Names()).add(counts)
        self._found.clear()

    def add_rows(self, seen: RowsSeen, fields: Fields, split: str) -> None:
        """Counts how long and how large documents are."""
        documents = seen.documents
        kinds = {field.kind: role for role, field in fields.items()}
        if any(kind in kinds for kind in ("text", "texts", "words", "messages")):
            self._add_texts(seen, fields)
        if seen.tokens is not None:
            self._size("tokens", seen.tokens)
        if seen.unknown is not None and seen.tokens is not None:
            self.sums.update({"unknown": seen.unknown, "known_by": int(seen.tokens.sum())})
        if role := kinds.get("image"):
            from raymodel.modality.image_decode import image_size

            sizes = [image_size(_bytes(document.values[role])) for document in documents]
            self._size("width", [width for width, _ in sizes])
            self._size("height", [height for _, height in sizes])
            self._size("aspect", [100 * width // height for width, height in sizes])
            self._name("size", (f"{width} × {height}" for width, height in sizes))
        if role := kinds.get("audio"):
            from raymodel.modality.audio_decode import clip_size

            clips = [clip_size(_bytes(document.values[role])) for document in documents]
            self._size("milliseconds", [1000 * samples // rate for samples, rate in clips])
            self._name("rate", (f"{rate:,} Hz" for _, rate in clips))
            heard = [_bytes(document.values[role]) for document in _lowest(documents, _HEARD)]
            self._size("lufs", [_loudness(data) for data in heard])
        lowest = _lowest(documents, KEPT_SHOWN)
        self._keep([shown_document(document, fields, split) for document in lowest])

    def _add_texts(self, seen: RowsSeen, fields: Fields) -> None:
        found = [_measure(document, fields) for document in seen.documents]
        lengths = np.array(found, dtype=np.int64).reshape(-1, 3)
        self._size("characters", lengths[:, 0])
        if seen.tokens is None:
            return
        whole = np.ones(len(lengths), dtype=bool) if seen.is_whole is None else seen.is_whole
        counts = np.column_stack([lengths, seen.tokens])
        self.sums.update(_named(counts[whole]))
        written = dict[tuple[str, str], list[int]]()
        for index in np.flatnonzero(whole).tolist():
            written.setdefault(_written_in(seen.documents[index], fields), []).append(index)
        for (kind, name), own in written.items():
            sums = self.written.setdefault(kind, {}).setdefault(name, Counter())
            sums.update({**_named(counts[own]), "documents": len(own)})

    def _size(self, name: str, numbers: Any) -> None:
        self.sizes.setdefault(name, Histogram()).add(numbers)

    def _name(self, name: str, names: Iterable[str]) -> None:
        self.names.setdefault(name, Names()).add(Counter(names))

    def _keep(self, shown: list[dict[str, Any]]) -> None:
        self.kept = sorted([*self.kept, *shown], key=lambda each: each["key"])[:KEPT_SHOWN]

    def merge(self, data: Mapping[str, Any]) -> None:
        """Adds what another one gathered, given as JSON."""
        for name, histogram in data["sizes"].items():
            self.sizes.setdefault(name, Histogram()).merge(histogram)
        for name, names in data["names"].items():
            self.names.setdefault(name, Names()).merge(names)
        self.sums.update(data["sums"])
        for kind, names in data.get("written", {}).items():
            for name, sums in names.items():
                self.written.setdefault(kind, {}).setdefault(name, Counter()).update(sums)
        self._keep(data["kept"])

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        self._book_found()
        return {
            "sizes": {name: each.summary() for name, each in sorted(self.sizes.items())},
            "names": {name: each.summary() for name, each in sorted(self.names.items())},
            "sums": dict(sorted(self.sums.items())),
            "written": self.written,
            "kept": self.kept,
        }


def _texts(document: Document, fields: Fields) -> Iterator[str]:
    """All that is written in a document, but for its label."""
    yield from texts_of(document.values, fields)
    for role, field in fields.items():
        words: Any = document.values[role]
        if field.kind == "words":
            yield from words


def _measure(document: Document, fields: Fields) -> tuple[int, int, int]:
    """Its characters, words (what white space parts) and bytes in UTF-8."""
    characters = words = num_bytes = 0
    for text in _texts(document, fields):
        characters += len(text)
        words += len(text.split())
        num_bytes += len(text) if text.isascii() else len(text.encode())
    return characters, words, num_bytes


def _named(counts: Any) -> dict[str, int]:
    """Their sums. counts: (documents, 4)"""
    names = ("characters", "words", "bytes", "tokens")
    return dict(zip(names, counts.sum(axis=0).tolist(), strict=True))


def _written_in(document: Document, fields: Fields) -> tuple[str, str]:
    """By what its tokens are counted, `language` or `script`, and which one it is."""
    if document.language is not None:
        return "language", document.language
    return "script", find_script([*_texts(document, fields)]) or NO_SCRIPT


def _lowest(documents: Sequence[Document], number: int) -> list[Document]:
    """A fair sample: those with the lowest keys."""
    return heapq.nsmallest(number, documents, key=lambda document: document.key)


def _loudness(data: bytes) -> int:
    """In LUFS below zero, from 0 to `-GATE_LUFS`, which stands for silence."""
    from raymodel.data.cleaning.loudness import GATE_LUFS
    from raymodel.data.cleaning.media import Sound

    return round(-min(max(Sound(data).lufs, GATE_LUFS), 0.0))


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes), "the role was read as a file"
    return value
