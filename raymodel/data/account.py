"""What becomes of every record that is read: the account that has to add up.

A reader opens an entry for each record that it meets, before it looks inside. From there on the
record ends in exactly one of: a row, a duplicate of another, or left out for a named reason.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raymodel.observe.text import many

SAMPLES_PER_REASON = 5
"""Of each reason in each partition: enough to see what is wrong with the data."""
SAMPLE_CHARS = 200
"""Of a record that was left out."""
THUMBNAIL_EDGE = 96
"""Pixels; some 10 KB of PNG."""
RECORDS = "records"
"""What every cleaning step counts of its changes."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a record lies in its source."""

    file: str
    """Relative to the source's root."""
    line: int | None = None
    """The first is 1; the row of a table; None where the file is one record, or is not known."""
    byte: int | None = None
    """Where the record begins in a file that is read from the middle, whose lines nobody counted;
    the first is 0."""

    def __str__(self) -> str:
        if self.line is None and self.byte is None:
            return self.file
        where = f"byte {self.byte}" if self.line is None else f"line {self.line}"
        return f"{self.file}, {where}"


PLACE_COLUMNS = ("file", "line", "byte")
"""The fields of a `Place`, as tables and JSON have them."""


@dataclass(frozen=True, kw_only=True)
class Reject:
    """One record that was left out."""

    reason: str
    place: Place
    sample: str
    """Its beginning, as far as it can be shown."""
    image: str | None = None
    """A small picture of it, as an address that holds all of it, where it is an image."""


@dataclass
class Account:
    """The records of one partition: `read` is what is kept plus what is left out."""

    read: int = 0
    """Records that were met: lines, rows, files or functions, readable or not."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason → records."""
    rejects: list[Reject] = field(default_factory=list)
    """The first few of each reason."""
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(What, in which way) no job file says of the data, and a look at it did → how many, such as
    ("file", "parted by semicolons")."""
    changed: dict[str, Counter[str]] = field(default_factory=dict)
    """Cleaning step → `RECORDS`, those that it changed and that were kept, and what else it tells
    of its changes → how many, such as e-mail addresses."""
    within: str = ""
    """What the names of its files begin with, where the source is an archive: `data.zip!/`."""
    _file: str = ""
    _line: int | None = None
    _byte: int | None = None

    def begin(
        self, file: str, line: int | None = None, byte: int | None = None, *, records: int = 1
    ) -> None:
        """Meets the next record, or as many as lie in a part that cannot be read."""
        self.read += records
        self._file, self._line, self._byte = file, line, byte

    @property
    def place(self) -> Place:
        """Of the record that is looked at. Few are asked for, so it is made when it is."""
        return Place(file=encodable(self.within + self._file), line=self._line, byte=self._byte)

    def leave_out(
        self, reason: str, sample: object = "", *, records: int = 1, image: bytes | None = None
    ) -> None:
        """What was begun is not kept.

        Args:
            reason: the same words for all records of a kind: they are counted by it.
            sample: bytes, text or fields of the record, to be shown.
            records: as many as were begun.
            image: a file, which is shown where it can be decoded.
        """
        self.left_out[reason] += records
        if self.left_out[reason] < SAMPLES_PER_REASON + records:
            shown = None if image is None else find_thumbnail(image)
            self.rejects.append(
                Reject(reason=reason, place=self.place, sample=_sample_text(sample), image=shown)
            )

    def change(self, changed: Mapping[str, Mapping[str, int]]) -> None:
        """What was begun is kept and was changed by these steps: step → what → how often."""
        for step, counts in changed.items():
            self.changed.setdefault(step, Counter()).update({RECORDS: 1, **counts})

    @property
    def kept(self) -> int:
        """Records that were not left out."""
        return self.read - self.left_out.total()

    def summary(self, source: str) -> dict[str, Any]:
        """As JSON, for a `Ledger`."""
        rejects = [
            {
                "reason": reject.reason,
                "source": source,
                "file": reject.place.file,
                "line": reject.place.line,
                "byte": reject.place.byte,
                "sample": reject.sample,
                **({"image": reject.image} if reject.image else {}),
            }
            for reject in self.rejects
        ]
        return {
            "read": self.read,
            "left_out": dict(self.left_out),
            "rejects": rejects,
            "found": [[what, way, count] for (what, way), count in self.found.items()],
            "changed": {step: dict(counts) for step, counts in self.changed.items()},
        }


def found_lines(source: str, found: Counter[tuple[str, str]]) -> list[str]:
    """What was found of a source without being told, a line each way."""
    return [
        f"source {source!r}: {many(count, what)}, {way}"
        for (what, way), count in sorted(found.items())
    ]


def encodable(text: str) -> str:
    """A text that UTF-8 can hold: lone surrogates, as in undecodable file names, are escaped."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def find_thumbnail(data: bytes) -> str | None:
    """A small PNG of an image file as an address that holds all of it; None of what is none."""
    from raymodel.modality.image_decode import ImageError, thumbnail

    try:
        small = thumbnail(data, THUMBNAIL_EDGE)
    except ImageError:
        return None
    return f"data:image/png;base64,{base64.b64encode(small).decode()}"


def _sample_text(sample: object) -> str:
    if isinstance(sample, Mapping):  # a file may be large, and its bytes tell nobody anything
        sample = {
            name: f"<{len(value):,} bytes>" if isinstance(value, bytes) else value
            for name, value in sample.items()
        }
    if isinstance(sample, bytes):
        sample = sample[: 4 * SAMPLE_CHARS].decode("utf-8", "replace")
    text = sample if isinstance(sample, str) else repr(sample)
    return encodable(text if len(text) <= SAMPLE_CHARS else text[: SAMPLE_CHARS - 1] + "…")
