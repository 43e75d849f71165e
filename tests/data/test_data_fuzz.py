"""Files of every format with bytes changed at random: each record is accounted for, whatever comes.

A file gives accounted records or one SourceError, never another error; and cut at any size it gives
the same records and the same account as in one piece.
"""

import bz2
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import read_source

from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError

RECORDS = [
    {"text": f'row {i}, "quoted", é\u2028 \\ {{x}}', "n": i, "more": {"list": [i, None, 1.5]}}
    for i in range(12)
]
LINES = "".join(
    json.dumps(record, ensure_ascii=i % 2 == 0) + "\n" for i, record in enumerate(RECORDS)
)
TABLE = 'text,label\n"one, ""two""\nthree",a\n' + "".join(
    f"text {i},label {i}\n" for i in range(12)
)
MODULE = '# coding: utf-8\ndef f(x):\n    """Says é."""\n    return [x, {"a": (1, 2)}]\n\n' * 4


def parquet_of(**options: Any) -> bytes:
    table = pa.table(
        {
            "text": [record["text"] for record in RECORDS] * 4,
            "n": [record["n"] for record in RECORDS] * 4,
            "more": [record["more"] for record in RECORDS] * 4,
            "raw": [b"\xff\0"] * 48,
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=7, **options)
    return buffer.getvalue()


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


Case = tuple[str, str, Callable[[], bytes], dict[str, Any]]
CASES: list[Case] = [
    ("lines", "x.jsonl", lambda: LINES.encode(), {"format": "jsonl"}),
    ("marked lines", "x.jsonl", lambda: b"\xef\xbb\xbf" + LINES.encode(), {"format": "jsonl"}),
    (
        "wide lines",
        "x.jsonl",
        lambda: LINES.encode("utf-16"),
        {"format": "jsonl", "encoding": "utf-16"},
    ),
    ("array", "x.json", lambda: json.dumps(RECORDS).encode(), {"format": "jsonl"}),
    ("pretty array", "x.json", lambda: json.dumps(RECORDS, indent=2).encode(), {"format": "jsonl"}),
    (
        "pretty objects",
        "x.json",
        lambda: "\n".join(json.dumps(r, indent=1) for r in RECORDS).encode(),
        {"format": "jsonl"},
    ),
    (
        "gzip lines",
        "x.jsonl.gz",
        lambda: gzip.compress(LINES.encode(), mtime=0),
        {"format": "jsonl"},
    ),
    ("bzip2 lines", "x.jsonl.bz2", lambda: bz2.compress(LINES.encode()), {"format": "jsonl"}),
    ("xz lines", "x.jsonl.xz", lambda: lzma.compress(LINES.encode()), {"format": "jsonl"}),
    ("zstd lines", "x.jsonl.zst", lambda: zstd(LINES.encode()), {"format": "jsonl"}),
    ("table", "x.csv", lambda: TABLE.encode(), {"format": "csv"}),
    (
        "wide table",
        "x.csv",
        lambda: TABLE.encode("utf-16-be"),
        {"format": "csv", "encoding": "utf-16-be"},
    ),
    ("gzip table", "x.csv.gz", lambda: gzip.compress(TABLE.encode(), mtime=0), {"format": "csv"}),
    ("text", "x.txt", lambda: LINES.encode(), {"format": "text"}),
    ("gzip text", "x.txt.gz", lambda: gzip.compress(LINES.encode(), mtime=0), {"format": "text"}),
    ("module", "x.py", lambda: MODULE.encode(), {"format": "python_functions"}),
    ("parquet", "x.parquet", lambda: parquet_of(), {"format": "parquet"}),
    (
        "checked parquet",
        "x.parquet",
        lambda: parquet_of(write_page_checksum=True, compression="zstd"),
        {"format": "parquet"},
    ),
]
# What is special in one of the formats, and so likely to be met by damage.
SPECIAL = [
    b'"',
    b"\n",
    b"\r",
    b"\0",
    b",",
    b";",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\\",
    b"\xff",
    b"\xef\xbb\xbf",
]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four changes: bytes set, inserted, removed, repeated, or the end cut off."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4])):
        at = chance.randrange(len(changed) + 1)
        span = chance.choice([1, 1, 2, 8, 64])
        new = chance.choice([chance.choice(SPECIAL), chance.randbytes(span)])
        kind = chance.randrange(6)
        if kind == 0:
            changed[at : at + len(new)] = new
        elif kind == 1:
            changed[at:at] = new
        elif kind == 2:
            del changed[at : at + span]
        elif kind == 3:
            changed[at:at] = changed[at : at + span] * chance.choice([1, 2, 30])
        elif kind == 4:
            changed[at:at] = chance.choice(SPECIAL) * chance.choice([1, 2, 300])
        else:
            del changed[max(at, 1) :]
    return bytes(changed) or b"x"


def outcome(path: Path, options: dict[str, Any], partition_bytes: int) -> Any:
    """What reading gives, in a form that can be compared; or the error that it ends with."""
    try:
        records, account = read_source(SourceSpec(path=str(path), **options), partition_bytes)
    except SourceError as error:
        return str(error)
    return [repr(record) for record in records], account.read, account.left_out


def check_files(folder: Path, case: Case, count: int) -> None:
    name, file, make, options = case
    chance, data, path = random.Random(name), make(), folder / file
    whole = outcome_of(path, data, options)
    assert whole[0], f"{name}: the file that is not damaged gives no record"
    assert not whole[2], f"{name}: {whole[2]}"
    for index in range(count):
        damaged = mutated(data, chance)
        one_piece = outcome_of(path, damaged, options)
        size = chance.choice([1, 2, 3, 7, 50, 333])
        size = max(size, len(damaged) // 60 + 1)
        assert outcome(path, options, size) == one_piece, f"{name} {index}, cut at {size}"


def outcome_of(path: Path, data: bytes, options: dict[str, Any]) -> Any:
    path.write_bytes(data)
    return outcome(path, options, 2**30)


def ids(case: Case) -> str:
    return case[0].replace(" ", "-")


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_damaged_file_gives_accounted_records_however_it_is_cut(
    tmp_path: Path, case: Case
) -> None:
    check_files(tmp_path, case, count=20)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_thousands_of_damaged_files_give_accounted_records(tmp_path: Path, case: Case) -> None:
    check_files(tmp_path, case, count=400)
