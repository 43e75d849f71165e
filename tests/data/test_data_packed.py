"""Reading packed files, Parquet files and files that are one document."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import lines_left_out, read_file, texts

from raymodel.data.readers import content
from raymodel.errors import SourceError
from raymodel.storage.archive_stream import Watched

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
    ".lz4": lambda data: pa.Codec("lz4").compress(data, asbytes=True),
}
LINES = b"".join(b'{"text": "%d"}\n' % i for i in range(20_000))


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("is_named", [True, False])
def test_packed_files_are_read_as_what_is_in_them(
    tmp_path: Path, ending: str, is_named: bool
) -> None:
    pack, name = PACK[ending], ending if is_named else ""
    packed = pack(LINES[:5000]) + pack(LINES[5000:])  # in two parts, as parallel packers write
    records, account = read_file(tmp_path, f"x.jsonl{name}", packed, 10_000, format="jsonl")
    assert (len(records), account.left_out) == (20_000, {})
    table = pack(b"text,label\na,b\n")
    records, _ = read_file(tmp_path, f"x.csv{name}", table, format="csv")
    assert texts(records) == ["a"]
    records, _ = read_file(tmp_path, f"x.txt{name}", pack(b"hello"))
    assert texts(records) == ["hello"]


@pytest.mark.parametrize("ending", PACK)
def test_a_packed_file_is_read_up_to_its_damage(tmp_path: Path, ending: str) -> None:
    packed = PACK[ending](LINES[:98]) + PACK[ending](LINES)[:-30]
    kinds = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard", ".lz4": "LZ4"}
    kind = kinds[ending]
    records, account = read_file(tmp_path, f"x.jsonl{ending}", packed, format="jsonl")
    assert texts(records)[:7] == ["0", "1", "2", "3", "4", "5", "6"]
    assert account.left_out == {f"damaged {kind} file": 1}
    assert lines_left_out(account)[f"damaged {kind} file"] == [len(records) + 1]
    records, account = read_file(tmp_path, f"x.txt{ending}", packed)
    assert (records, account.left_out) == ([], {f"damaged {kind} file": 1})


def test_a_file_that_is_only_called_packed_is_one_record(tmp_path: Path) -> None:
    _, account = read_file(tmp_path, "x.jsonl.gz", LINES, format="jsonl")
    assert account.left_out == {"damaged gzip file": 1}


def test_a_document_that_unpacks_without_end_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymodel.data.readers.content.MAX_DOCUMENT_BYTES", 1000)
    _, account = read_file(tmp_path, "x.txt.gz", gzip.compress(b"x" * 10_000))
    assert account.left_out == {"document of more than 1,000 bytes": 1}


@pytest.mark.parametrize(
    ("name", "data", "format"),
    [
        ("x.txt", b"x" * 2000, "text"),
        ("x.jsonl", b'{"text": "%s"}\n{"text": "y"}' % (b"x" * 2000), "jsonl"),
        ("x.csv", b"text,a\n%s,%s\ny,z\n" % (b"x" * 700, b"y" * 700), "csv"),
    ],
)
def test_a_record_of_more_bytes_than_the_job_allows_is_left_out(
    tmp_path: Path, name: str, data: bytes, format: str
) -> None:
    records, account = read_file(tmp_path, name, data, format=format, max_record_bytes=1000)
    assert account.left_out == {"record of more than max_record_bytes": 1}
    assert texts(records) == ([] if format == "text" else ["y"])
    records, account = read_file(tmp_path, name, data, format=format, max_record_bytes=3000)
    assert not account.left_out


def test_an_error_of_the_storage_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError("the disk is gone")

    monkeypatch.setattr(content.gzip.GzipFile, "read1", fail)
    _, account = read_file(tmp_path, "x.txt.gz", gzip.compress(b"hello"))
    assert account.left_out == {"damaged gzip file": 1}
    watched = Watched(io.BytesIO())
    monkeypatch.setattr(watched, "_raw", type("Gone", (), {"read": fail})())
    with pytest.raises(OSError, match="the disk is gone"):
        watched.read(1)
    assert watched.has_failed


# ---- Parquet ------------------------------------------------------------------------------------


def parquet(table: pa.Table, **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("partition_bytes", [500, 10**6])
def test_a_damaged_row_group_costs_its_own_rows(tmp_path: Path, partition_bytes: int) -> None:
    table = pa.table({"text": [f"text {i}" for i in range(100)]})
    data = bytearray(parquet(table, row_group_size=10, write_page_checksum=True))
    chunk = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(3).column(0)
    middle = chunk.dictionary_page_offset + chunk.total_compressed_size // 2
    data[middle] ^= 0xFF
    records, account = read_file(
        tmp_path, "x.parquet", bytes(data), partition_bytes, format="parquet"
    )
    assert texts(records) == [f"text {i}" for i in range(100) if not 30 <= i < 40]
    assert account.left_out == {"rows of a damaged part of a Parquet file": 10}
    assert account.rejects[0].place.line == 31


def test_files_that_are_no_parquet_say_what_they_are(tmp_path: Path) -> None:
    whole = parquet(pa.table({"text": ["a"]}))
    for data, reason in [
        (whole[:-20], "Parquet file cut short"),
        (whole[:-10] + b"\xff\xff\xff\xffxxPAR1", "Parquet file with a damaged footer"),
        (b"PARE" + whole[4:-4] + b"PARE", "encrypted Parquet file"),
        (b"a,b\n1,2\n", "not a Parquet file"),
    ]:
        _, account = read_file(tmp_path, "x.parquet", data, 7, format="parquet")
        assert account.left_out == {reason: 1}


def test_rows_without_columns_are_left_out(tmp_path: Path) -> None:
    data = parquet(pa.table({"a": [1, 2, 3]}).select([]))
    records, account = read_file(tmp_path, "x.parquet", data, format="parquet")
    assert (records, account.read) == ([], account.left_out["row without columns"])


def test_every_type_of_column_is_read(tmp_path: Path) -> None:
    import datetime
    import decimal

    values = {
        "struct": [{"a": 1, "b": [None, "x"]}],
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "decimal": [decimal.Decimal("1.50")],
        "time": pa.array([1], pa.timestamp("us", "UTC")),
        "binary": [b"\xff\0"],
        "null": pa.nulls(1),
        "codes": pa.array(["x"]).dictionary_encode(),
    }
    (record,), _ = read_file(tmp_path, "x.parquet", parquet(pa.table(values)), format="parquet")
    assert record.fields == {
        "struct": {"a": 1, "b": [None, "x"]},
        "map": [("k", 1)],
        "decimal": decimal.Decimal("1.50"),
        "time": datetime.datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=datetime.UTC),
        "binary": b"\xff\0",
        "null": None,
        "codes": "x",
    }
    records, account = read_file(
        tmp_path, "x.parquet", parquet(pa.table(values).slice(0, 0)), format="parquet"
    )
    assert (records, account.read) == ([], 0)


def test_a_value_that_python_cannot_hold_costs_its_own_row(tmp_path: Path) -> None:
    times = pa.array([0, 10**15, 1], pa.timestamp("ms"))  # the second is in the year 33,658
    data = parquet(pa.table({"text": ["a", "b", "c"], "time": times}))
    records, account = read_file(tmp_path, "x.parquet", data, format="parquet")
    assert texts(records) == ["a", "c"]
    assert lines_left_out(account) == {"row that cannot be read": [2]}
    utf8 = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )
    records, account = read_file(
        tmp_path, "x.parquet", parquet(pa.table({"text": utf8})), format="parquet"
    )
    assert (texts(records), account.left_out) == (["a"], {"row that cannot be read": 1})


def test_a_parquet_column_named_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["text", "text"])
    with pytest.raises(SourceError, match=r"x\.parquet.*more than one column 'text'"):
        read_file(tmp_path, "x.parquet", parquet(table), format="parquet")


# ---- documents ----------------------------------------------------------------------------------


def test_a_text_in_another_encoding_says_in_which(tmp_path: Path) -> None:
    _, account = read_file(tmp_path, "x.txt", "hello".encode("utf-16"))
    assert account.left_out == {"not utf-8: its file begins with the mark of utf-16": 1}


FUNCTION = 'def f():\n    """Says ä."""\n    return 1\n'


def test_a_python_file_is_read_as_its_coding_line_says(tmp_path: Path) -> None:
    data = ("# -*- coding: latin-1 -*-\n" + FUNCTION).encode("latin-1")
    (record,), account = read_file(tmp_path, "x.py", data, format="python_functions")
    assert record.fields["docstring"] == "Says ä."
    assert account.place.line == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"# coding: hex\nx = 1\n", "Python file in an unknown encoding"),
        (b"# coding: undefined\nx = 1\n", "not undefined"),
        (b"print 'two'\n", "not Python"),
        (b"x = 1\0\n", "binary file"),
        (b"x = 1\n", "Python file without a documented function"),
        (b"x = " + b"(" * 50_000, "not Python"),
        (b"x = " + b"-" * 5000 + b"1", "Python nested too deep"),
        (b"x = " + b"1 + " * 20_000 + b"1", "Python nested too deep"),
    ],
)
def test_python_files_that_give_nothing_say_why(tmp_path: Path, data: bytes, reason: str) -> None:
    records, account = read_file(tmp_path, "x.py", data, format="python_functions")
    assert (records, account.left_out) == ([], {reason: 1})
