"""Reading tables of text: what is damaged costs its own row."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
from reading import lines_left_out, read_file, texts, write

from raymodel.data.prepare import Execute, Recipe, prepare_dataset
from raymodel.data.read import peek
from raymodel.data.readers import delimited
from raymodel.data.sources import resolve_source
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError
from raymodel.storage.uri import Location

UNCLOSED = "row with an unclosed or a stray quote"
COLUMNS = "row with another number of columns than the header"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_rows_are_read_with_any_line_end_and_mark(tmp_path: Path, end: str, mark: str) -> None:
    data = mark + f'text,label{end}"one,{end}""two""",a{end}{end}short{end}three,d'
    records, account = read_file(tmp_path, "x.csv", data, format="csv")
    assert [list(record.fields.values()) for record in records] == [
        [f'one,{end}"two"', "a"],
        ["three", "d"],
    ]
    assert lines_left_out(account) == {COLUMNS: [5]}


def test_an_unclosed_quote_costs_its_own_row(tmp_path: Path) -> None:
    rows = "".join(f"row {i},{i}\n" for i in range(200))
    records, account = read_file(tmp_path, "x.csv", f'text,label\nz,0\n"a,1\n{rows}', format="csv")
    assert texts(records) == ["z", *(f"row {i}" for i in range(200))]
    assert lines_left_out(account) == {UNCLOSED: [3]}


def test_an_unclosed_quote_does_not_reach_the_next_quoted_row(tmp_path: Path) -> None:
    data = 'text,label\n"a,1\nb,2\n"c, c",3\nd,4\n"e,5\n'
    records, account = read_file(tmp_path, "x.csv", data, format="csv")
    assert texts(records) == ["b", "c, c", "d"]
    assert lines_left_out(account) == {UNCLOSED: [2, 6]}


def test_the_lines_of_a_damaged_document_are_no_rows(tmp_path: Path) -> None:
    data = 'id,text\n1,"first\nhe said "hi" there\nthird, line"\n2,"whole\nrow"\n'
    records, account = read_file(tmp_path, "x.csv", data, format="csv")
    assert texts(records) == ["whole\nrow"]
    assert lines_left_out(account) == {UNCLOSED: [2]}


def test_a_row_without_an_end_does_not_fill_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "MAX_ROW_CHARS", 1000)
    rows = "".join(f"row {i},{i}\n" for i in range(2000))
    records, account = read_file(tmp_path, "x.csv", f'text,label\n"a,1\n{rows}', format="csv")
    assert (len(records), account.left_out) == (2000, {UNCLOSED: 1})


def test_bad_bytes_cost_their_own_row(tmp_path: Path) -> None:
    data = b"text,label\na,1\nb\0b,2\nc\xff,3\nd,4\n"
    records, account = read_file(tmp_path, "x.csv", data, format="csv")
    assert texts(records) == ["a", "d"]
    assert lines_left_out(account) == {"row with a NUL byte": [3], "row not utf-8": [4]}


def test_a_binary_file_is_one_record(tmp_path: Path) -> None:
    _, account = read_file(tmp_path, "x.csv", b"\1\0\2\3" * 100 + b"\n\0", format="csv")
    assert account.left_out == {"table without a header: binary file": 1}
    _, account = read_file(tmp_path, "x.csv", '"text,label\na,1\n', format="csv")
    assert account.left_out == {f"table without a header: {UNCLOSED}": 1}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    data = f'label{delimiter}text\n1{delimiter}"a{delimiter},; b"\n'
    records, account = read_file(tmp_path, "x.csv", data, format="csv")
    assert records[0].fields == {"label": "1", "text": f"a{delimiter},; b"}
    expected = {"file": 1} if delimiter != "," else {}
    assert {what: count for (what, _), count in account.found.items()} == expected


def test_a_delimiter_that_the_job_or_the_name_of_the_file_says_is_not_found(tmp_path: Path) -> None:
    given = {"x.csv": (";", ";"), "x.tsv": ("\t", None), "y.TSV": ("\t", None)}
    for name, (delimiter, said) in given.items():
        data = f"label{delimiter}text\n1{delimiter}a\n"
        records, account = read_file(tmp_path, name, data, format="csv", delimiter=said)
        assert (records[0].fields["text"], account.found) == ("a", {})
    _, account = read_file(tmp_path, "one.tsv", "text\na\n", format="csv")
    assert not account.found, "one column is parted by nothing"
    _, account = read_file(tmp_path, "z.tsv", "label,text\n1,a\n", format="csv")
    assert account.found == {("file", "parted by commas"): 1}


def test_a_packed_table_is_parted_as_its_name_says(tmp_path: Path) -> None:
    data = gzip.compress(b"a,b\ttext\n1\t2\n")
    records, account = read_file(tmp_path, "x.tsv.gz", data, format="csv")
    assert (records[0].fields, account.found) == ({"a,b": "1", "text": "2"}, {})


@pytest.mark.parametrize(
    ("fields", "data", "way"),
    [
        ({"format": "csv"}, "label;text\n1;a\n", "parted by semicolons"),
        ({"format": "pixels", "label_column": "first"}, "1\t2\t3\t4\t5\n", "parted by tabs"),
        ({"format": "conll"}, "a\tDT\nb c\tNN\n", "2 columns parted by tabs"),
    ],
)
def test_how_files_are_found_to_be_parted_is_told_by_a_look_at_the_first(
    tmp_path: Path, fields: dict[str, str], data: str, way: str
) -> None:
    _, account = read_file(tmp_path, "x.csv", data, **fields)
    assert list(account.found) == [("file", way)]
    spec = SourceSpec(path=str(tmp_path / "x.csv"), **fields)
    assert peek(resolve_source(spec), spec) == [f"source {spec.path!r}: x.csv, {way}"]


def test_a_delimiter_that_was_found_is_said_once_for_all_files(
    recipe: Recipe, place: Location, execute: Execute, tmp_path: Path
) -> None:
    for name, delimiter in {"a": ";", "b": ";", "c": ","}.items():
        rows = "".join(f"{n}{delimiter}{name} {n}\n" for n in range(30))
        write(tmp_path / "in", **{f"{name}_dot_csv": f"label{delimiter}text\n{rows}"})
    said = list[str]()
    source = SourceSpec(path=str(tmp_path / "in"), format="csv")
    made = replace(recipe, sources=(source,))
    content = prepare_dataset(made, place, execute, said.append)
    assert [line for line in said if "parted by" in line] == [
        f"source {str(tmp_path / 'in')!r}: 2 files, parted by semicolons"
    ]
    assert content["read"] == 90


def test_a_delimiter_that_is_not_clear_is_asked_for(tmp_path: Path) -> None:
    data = "a,b;text\n1,2;3\n"
    with pytest.raises(SourceError, match=r"'a,b;text'.*comma and by semicolon.*Set `delimiter`"):
        read_file(tmp_path, "x.csv", data, format="csv")
    records, _ = read_file(tmp_path, "x.csv", data, format="csv", delimiter=";")
    assert records[0].fields == {"a,b": "1,2", "text": "3"}
    records, _ = read_file(tmp_path, "x.tsv", "a,b\ttext\n1\t2\n", format="csv")
    assert records[0].fields == {"a,b": "1", "text": "2"}


def test_another_delimiter_of_the_job_is_used(tmp_path: Path) -> None:
    records, _ = read_file(tmp_path, "x.csv", "a:text\n1:2,2\n", format="csv", delimiter=":")
    assert records[0].fields == {"a": "1", "text": "2,2"}


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"x\.csv.*names 'text' more than once.*Rename"):
        read_file(tmp_path, "x.csv", "text,label,text\na,b,c\n", format="csv")


def test_columns_without_a_name_belong_to_no_record(tmp_path: Path) -> None:
    records, _ = read_file(tmp_path, "x.csv", ",text,,\n0,a,,\n", format="csv")
    assert records[0].fields == {"text": "a"}


def test_a_table_of_one_column_is_read(tmp_path: Path) -> None:
    long = "x" * 200_000
    records, account = read_file(tmp_path, "x.csv", f"text\na\n\n{long}\nb,c\n", format="csv")
    assert texts(records) == ["a", long]
    assert lines_left_out(account) == {COLUMNS: [5]}


def test_a_header_alone_has_no_records(tmp_path: Path) -> None:
    for data in ("text,label", "\n\n", "\ufeff"):
        records, account = read_file(tmp_path, "x.csv", data, format="csv")
        assert (records, account.read) == ([], 0)
