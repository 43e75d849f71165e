"""Files of texts with bytes changed at random: each record is accounted for, whatever comes."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import check_damage

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


XML = "<wiki>\n" + "".join(
    f"<page id='{i}'><title>T{i} &lt;é</title><r><text x='1'>{'word ' * i}</text></r></page>\n"
    for i in range(9)
) + "</wiki>"  # fmt: skip
WARC = [
    b"WARC/1.0\r\nWARC-Type: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n"
    % (kind, media, len(block), block)
    for i in range(5)
    for kind, media, block in (
        (b"conversion", b"text/plain", b"text %d " % i * (i + 1)),
        (
            b"response",
            b"application/http",
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\nhello\r\n2\r\n %d\r\n0\r\n\r\n" % i,
        ),
        (b"request", b"application/http", b"GET / HTTP/1.1\r\n\r\n"),
    )
]


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


def packed(codec: str, data: bytes) -> bytes:
    return pa.Codec(codec).compress(data, asbytes=True)


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
    ("zstd lines", "x.jsonl.zst", lambda: packed("zstd", LINES.encode()), {"format": "jsonl"}),
    ("lz4 lines", "x.jsonl.lz4", lambda: packed("lz4", LINES.encode()), {"format": "jsonl"}),
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
    ("zip lines", "x.zip", lambda: zip_of("a/x.jsonl", LINES), {"format": "jsonl"}),
    ("zip table", "x.zip", lambda: zip_of("x.csv", TABLE), {"format": "csv"}),
    ("zip texts", "x.zip", lambda: zip_of("x.txt", LINES), {"format": "text"}),
    ("zip parquet", "x.zip", lambda: zip_of("x.parquet", parquet_of()), {"format": "parquet"}),
    ("tar lines", "x.tar", lambda: tar_of("x.jsonl", LINES, ""), {"format": "jsonl"}),
    ("gzip tar lines", "x.tar.gz", lambda: tar_of("x.jsonl", LINES, "gz"), {"format": "jsonl"}),
    ("xz tar table", "x.tar.xz", lambda: tar_of("x.csv", TABLE, "xz"), {"format": "csv"}),
    ("warc", "x.warc", lambda: b"".join(WARC), {"format": "warc"}),
    (
        "warc of members",
        "x.warc.gz",
        lambda: b"".join(gzip.compress(each, mtime=0) for each in WARC),
        {"format": "warc"},
    ),
    (
        "packed warc",
        "x.warc.gz",
        lambda: gzip.compress(b"".join(WARC), mtime=0),
        {"format": "warc"},
    ),
    ("xml", "x.xml", lambda: XML.encode(), {"format": "xml", "element": "page"}),
    (
        "declared xml",
        "x.xml",
        lambda: f'<?xml version="1.0" encoding="latin-1"?>{XML}'.encode("latin-1"),
        {"format": "xml", "element": "page"},
    ),
    ("wide xml", "x.xml", lambda: XML.encode("utf-16"), {"format": "xml", "element": "page"}),
    ("arrow stream", "x.arrow", lambda: arrow_of(pa.ipc.new_stream), {"format": "arrow"}),
    ("arrow file", "x.arrow", lambda: arrow_of(pa.ipc.new_file), {"format": "arrow"}),
]


def zip_of(name: str, content: str | bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in "ab":
            archive.writestr(zipfile.ZipInfo(f"{folder}/{name}"), content)
    return buffer.getvalue()


def tar_of(name: str, content: str, packer: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{packer}") as archive:
        for folder in "ab":
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))
    return buffer.getvalue()


def arrow_of(writer: Any) -> bytes:
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(RECORDS)
    with writer(buffer, table.schema) as file:
        file.write_table(table, max_chunksize=7)
    return buffer.getvalue()


def check_case(folder: Path, case: Case, count: int) -> None:
    name, file, make, options = case
    check_damage(name, folder / file, make(), options, count)


def ids(case: Case) -> str:
    return case[0].replace(" ", "-")


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_damaged_file_gives_accounted_records_however_it_is_cut(
    tmp_path: Path, case: Case
) -> None:
    check_case(tmp_path, case, count=20)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_thousands_of_damaged_files_give_accounted_records(tmp_path: Path, case: Case) -> None:
    check_case(tmp_path, case, count=400)
