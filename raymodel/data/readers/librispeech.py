"""LibriSpeech, and other corpora in its folders: a file a clip, and beside the clips of a chapter
what is said in them, `84-121123.trans.txt`, a line for each: `84-121123-0000 GO DO YOU HEAR`.

Source: https://www.openslr.org/12
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

from raymodel.data.account import Account
from raymodel.data.readers.beside import name_beside, read_beside
from raymodel.data.readers.media import AUDIO_SUFFIXES
from raymodel.data.readers.text import read_bytes
from raymodel.data.record import FileSlice, RawRecord, digest_of
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location

TRANSCRIPTS = ".trans.txt"


def read_librispeech(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The clip that a file is, with its transcript; of a file of transcripts those lines, left
    out, whose clip is not there."""
    if piece.name.endswith(TRANSCRIPTS):
        _account_for_lines(root, piece, spec, account)
        return
    account.begin(piece.name)
    name = piece.name.rpartition("/")[2].rpartition(".")[0]
    chapter = name.rpartition("-")[0]
    file = name_beside(piece.name, chapter + TRANSCRIPTS)
    text = _transcripts(root, file, spec.encoding).get(name) if chapter else None
    if text is None:
        account.leave_out("clip without a transcript beside it", piece.name)
        return
    data = read_bytes(root, piece, account)
    if data is not None:
        speaker, _, rest = chapter.partition("-")
        told = {"id": name, "speaker": speaker, "chapter": rest, "path": piece.name}
        yield RawRecord({"audio": data, "text": text, **told}, digest_of(data))


def _account_for_lines(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> None:
    """Each line is met with its clip, and here where it has none."""
    transcripts = _transcripts(root, piece.name, spec.encoding)
    for line, (name, text) in enumerate(transcripts.items(), start=1):
        places = (root / name_beside(piece.name, name + suffix) for suffix in AUDIO_SUFFIXES)
        if not any(place.exists() for place in places):
            account.begin(piece.name, line)
            account.leave_out("transcript without its clip", f"{name} {text}")


@functools.lru_cache(maxsize=8)  # the clips of a chapter are read one after another
def _transcripts(root: Location, file: str, encoding: str) -> Mapping[str, str]:
    data = read_beside(root, file)
    lines = [] if data is None else data.decode(encoding, "replace").splitlines()
    found = (line.strip().partition(" ") for line in lines if line.strip())
    return {name: text.strip() for name, _, text in found}
