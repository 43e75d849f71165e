"""Arrow's files and streams, and what Hugging Face's `datasets` says of its columns."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import lines_left_out, read_file, read_source, texts

from raymodel.data.sources import resolve_source
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError

STREAM, FILE = pa.ipc.new_stream, pa.ipc.new_file


def written(table: pa.Table, writer: Any = STREAM, rows: int = 10) -> bytes:
    buffer = io.BytesIO()
    with writer(buffer, table.schema) as file:
        file.write_table(table, max_chunksize=rows)
    return buffer.getvalue()


def numbered(count: int = 40) -> pa.Table:
    return pa.table({"text": [f"text {i}" for i in range(count)]})


def of_datasets(table: pa.Table, **features: Any) -> pa.Table:
    """With its types beside the schema, as `datasets` writes them."""
    info = {"info": {"features": features}}
    return table.replace_schema_metadata({"huggingface": json.dumps(info)})


CLASSES = {"_type": "ClassLabel", "names": ["ham", "spam"]}


@pytest.mark.parametrize("writer", [STREAM, FILE])
def test_each_row_is_a_record(tmp_path: Path, writer: Any) -> None:
    records, account = read_file(
        tmp_path, "x.arrow", written(numbered(), writer), 100, format="arrow"
    )
    assert texts(records) == [f"text {i}" for i in range(40)]
    assert account.read == 40


def test_the_rest_of_a_file_that_is_cut_or_damaged_is_accounted(tmp_path: Path) -> None:
    stream, file = written(numbered()), written(numbered(), FILE)
    reason = "rest of an Arrow file that is damaged or cut short"
    records, account = read_file(tmp_path, "x.arrow", stream[:-100], format="arrow")
    assert texts(records) == [f"text {i}" for i in range(30)]
    assert lines_left_out(account) == {reason: [31]}
    # Between two batches, and before the mark of the end: it looks as if there had been no more.
    _, account = read_file(tmp_path, "x.arrow", stream[:-8], format="arrow")
    assert lines_left_out(account) == {reason: [41]}
    for data, reason in [
        (file[:-20], "damaged Arrow file"),
        (stream[:30], "damaged Arrow file"),
        (b"a,b\n1,2\n", "not an Arrow file"),
    ]:
        _, account = read_file(tmp_path, "x.arrow", data, format="arrow")
        assert (account.read, account.left_out) == (1, {reason: 1})


def test_a_text_that_is_no_utf8_costs_its_own_row(tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0")
    text = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xffb")])
    records, account = read_file(
        tmp_path, "x.arrow", written(pa.table({"text": text})), format="arrow"
    )
    assert texts(records) == ["a", "b"]
    assert lines_left_out(account) == {"row that cannot be read": [2]}


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_columns_that_datasets_wrote_as_classes_hold_their_names(
    tmp_path: Path, format: str
) -> None:
    table = pa.table({"text": ["a", "b", "c", "d"], "label": [1, 0, -1, 7]})
    table = of_datasets(table, label=CLASSES, text={"_type": "Value", "dtype": "string"})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    data = buffer.getvalue() if format == "parquet" else written(table)
    records, account = read_file(tmp_path, f"x.{format}", data, format=format)
    assert [record.fields["label"] for record in records] == ["spam", "ham", None]
    assert lines_left_out(account) == {"class without a name": [4]}


@pytest.mark.parametrize("said", [b"no JSON", b"[]", b'{"info": {"features": {"label": 3}}}'])
def test_numbers_stay_where_nothing_is_said_of_classes(tmp_path: Path, said: bytes) -> None:
    table = pa.table({"label": [1]}).replace_schema_metadata({b"huggingface": said})
    (record,), _ = read_file(tmp_path, "x.arrow", written(table), format="arrow")
    assert record.fields == {"label": 1}


def test_a_folder_of_save_to_disk_is_read_without_what_lies_beside_the_data(tmp_path: Path) -> None:
    for name, content in {
        "train/data-00000-of-00002.arrow": written(numbered(3)),
        "train/data-00001-of-00002.arrow": written(numbered(2)),
        "train/cache-1f2e.arrow": written(numbered(5)),
        "train/state.json": b"{}",
        "train/dataset_info.json": b"{}",
        "dataset_dict.json": b'{"splits": ["train"]}',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    spec = SourceSpec(path=str(tmp_path / "train"), format="arrow")
    assert [file.name for file in resolve_source(spec).files] == [
        "data-00000-of-00002.arrow",
        "data-00001-of-00002.arrow",
    ]
    (note,) = resolve_source(spec).notes
    assert "cache-1f2e.arrow" in note
    assert len(read_source(spec)[0]) == 5
    named = SourceSpec(path=str(tmp_path / "train/cache-1f2e.arrow"), format="arrow")
    assert len(read_source(named)[0]) == 5, "the path names it"


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["text", "text"])
    with pytest.raises(SourceError, match=r"x\.arrow.*more than one column 'text'"):
        read_file(tmp_path, "x.arrow", written(table), format="arrow")
