"""The documents of a folder, as pieces that are found by what they are about.

A piece is as many whole paragraphs as fit, with the heading that they stand under. Its vector is
that of an embedder; those whose vectors are closest to a question's (cosine) are found. Documents
that change on the disk are read again, the others keep their vectors.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raymodel.errors import SourceError
from raymodel.observe.measures import holds

log = logging.getLogger(__name__)

ENDINGS = (".md", ".txt", ".rst")
MAX_FILE_BYTES = 8 * 2**20
MAX_PIECES = 100_000
"""150 MB of vectors with 384 numbers; past it, an index that does not look at all of them pays."""
_SHOWN = 10  # of those that are left out
_BATCH = 32  # pieces that are embedded at once; between two, questions are answered
_HEADING = re.compile(r"#{1,6}\s+(.+)")

Embed = Callable[[Sequence[str]], "np.ndarray[Any, Any]"]
"""Texts to (N, D) vectors of length 1."""
Count = Callable[[str], int]
"""Tokens of a text."""


class Piece(NamedTuple):
    """A part of a document."""

    source: str
    """The document's path below the folder."""
    text: str


class Found(NamedTuple):
    """A piece, and how close it is to what was asked."""

    source: str
    text: str
    score: float
    """Cosine of the vectors, at most 1."""


class _Stamp(NamedTuple):
    """What tells that a file has changed."""

    mtime_ns: int
    num_bytes: int
    inode: int


class _File(NamedTuple):
    stamp: _Stamp
    pieces: list[Piece]
    vectors: np.ndarray[Any, Any]


class Library:
    """The documents below a folder.

    Args:
        folder: looked through whenever `refresh` is called.
        embed: of the embedder.
        count: of its tokenizer.
        piece_tokens: of a piece, at most; a paragraph that is longer is cut between words.
    """

    def __init__(self, folder: Path, embed: Embed, count: Count, piece_tokens: int) -> None:
        self._folder, self._embed, self._count = folder, embed, count
        self._piece_tokens = piece_tokens
        self._files: dict[str, _File] = {}
        self._left_out: dict[str, _Stamp] = {}
        self._index: tuple[list[Piece], np.ndarray[Any, Any]] = ([], np.zeros((0, 0)))

    def state(self) -> dict[str, Any]:
        """What `/health` tells of it."""
        pieces, _ = self._index
        shown = {name: _why(stamp) for name, stamp in sorted(self._left_out.items())[:_SHOWN]}
        return {"files": len(self._files), "pieces": len(pieces), "left_out": shown}

    def refresh(self) -> bool:
        """Reads what is new or has changed, and forgets what is gone; whether anything was.

        Questions meanwhile are answered with what was there before.

        Raises:
            SourceError: there is no such folder, or there is too much in it.
        """
        if not self._folder.is_dir():
            raise SourceError(
                f"{self._folder} is no folder of documents; set serve.documents.path to one with "
                f"files that end in {', '.join(ENDINGS)}"
            )
        found = dict(_stamps(self._folder))
        new = {name for name, stamp in found.items() if self._is_new(name, stamp)}
        gone = (self._files.keys() | self._left_out.keys()) - found.keys()
        if not (new or gone):
            return False
        files = {name: file for name, file in self._files.items() if name in found}
        self._left_out = {n: stamp for n, stamp in self._left_out.items() if n in found}
        total = sum(len(file.pieces) for name, file in files.items() if name not in new)
        for name in sorted(new):
            files.pop(name, None)
            self._left_out.pop(name, None)
            pieces = self._read(name, found[name])
            total += len(pieces)
            if total > MAX_PIECES:
                raise SourceError(
                    f"{self._folder} makes more than {MAX_PIECES:,} pieces, and all vectors are "
                    "looked through for each question; take documents away, or raise "
                    "serve.documents.piece_tokens"
                )
            if pieces:
                files[name] = _File(found[name], pieces, self._vectors(pieces))
        self._files = files
        pieces = [piece for file in files.values() for piece in file.pieces]
        vectors = [file.vectors for file in files.values()]
        self._index = pieces, np.concatenate(vectors) if vectors else np.zeros((0, 0))
        return True

    def find(self, questions: Sequence[str], top: int, min_score: float) -> list[Found]:
        """The pieces that are closest to any of these texts, the closest first."""
        pieces, vectors = self._index
        if not pieces:
            return []
        scores = (vectors @ self._embed(questions).T).max(axis=1)
        order = np.argsort(-scores, kind="stable")[:top]
        found = [Found(pieces[i].source, pieces[i].text, float(scores[i])) for i in order]
        return [each for each in found if holds(each.score, ">=", min_score)]

    def _is_new(self, name: str, stamp: _Stamp) -> bool:
        known = self._files.get(name)
        return (self._left_out.get(name) if known is None else known.stamp) != stamp

    def _read(self, name: str, stamp: _Stamp) -> list[Piece]:
        pieces: list[Piece] = []
        try:
            if stamp.num_bytes <= MAX_FILE_BYTES:
                text = (self._folder / name).read_bytes().decode()
                pieces = [Piece(name, each) for each in self._split(text)]
        except (OSError, UnicodeDecodeError) as error:
            log.warning("%s is left out: %s", self._folder / name, error)
        if not pieces:
            self._left_out[name] = stamp
        return pieces

    def _vectors(self, pieces: Sequence[Piece]) -> np.ndarray[Any, Any]:
        texts = [piece.text for piece in pieces]
        batches = [texts[i : i + _BATCH] for i in range(0, len(texts), _BATCH)]
        return np.concatenate([self._embed(batch) for batch in batches]).astype(np.float32)

    # ---- pieces --------------------------------------------------------------------------------

    def _split(self, text: str) -> Iterator[str]:
        heading, held, num_tokens = "", list[str](), 0
        for paragraph in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
            part = paragraph.strip()
            if not part:
                continue
            found = _HEADING.match(part)
            if found and held:
                yield "\n\n".join(held)
                held, num_tokens = [], 0
            heading = found[1].strip() if found else heading
            for each in self._cut(part):
                size = self._count(each)
                if held and num_tokens + size > self._piece_tokens:
                    yield "\n\n".join(held)
                    held, num_tokens = [], 0
                if not held and heading and not _HEADING.match(each):
                    held, num_tokens = [heading], self._count(heading)
                held.append(each)
                num_tokens += size
        if held:
            yield "\n\n".join(held)

    def _cut(self, paragraph: str) -> Iterator[str]:
        """A paragraph that is too long, between words."""
        words = paragraph.split(" ")
        while words:
            fits, low, high = len(words), 1, len(words)
            if self._count(paragraph) > self._piece_tokens:
                while low < high:  # the most words that fit, at least one
                    middle = (low + high + 1) // 2
                    is_short = self._count(" ".join(words[:middle])) <= self._piece_tokens
                    low, high = (middle, high) if is_short else (low, middle - 1)
                fits = low
            yield " ".join(words[:fits])
            words = words[fits:]
            paragraph = " ".join(words)


def _why(stamp: _Stamp) -> str:
    if stamp.num_bytes > MAX_FILE_BYTES:
        return f"{stamp.num_bytes:,} bytes, more than {MAX_FILE_BYTES:,}"
    return "empty, not UTF-8, or not to be read by this user"


def _stamps(folder: Path) -> Iterator[tuple[str, _Stamp]]:
    """The documents below a folder; hidden files and folders are none."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or not name.endswith(ENDINGS):
                continue
            path = Path(place) / name
            try:
                stat = path.stat()
            except OSError:  # gone meanwhile, or a link to nowhere
                continue
            name_below = str(path.relative_to(folder))
            yield name_below, _Stamp(stat.st_mtime_ns, stat.st_size, stat.st_ino)
