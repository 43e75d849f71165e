"""What a source finds on a disk: links, files that are none, and files that change."""

import os
from pathlib import Path
from typing import Any

import pytest
from reading import read_source, write

from raymodel.data import listing
from raymodel.data.account import Account
from raymodel.data.read import read_slice, slice_files
from raymodel.data.sources import SourceFiles, resolve_source
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError
from raymodel.storage.uri import Location


def found(path: Path | str, **spec: Any) -> SourceFiles:
    return resolve_source(SourceSpec(path=str(path), **spec))


def names(files: SourceFiles) -> list[str]:
    return [file.name for file in files.files]


def test_a_link_to_a_folder_above_it_is_named_and_not_followed(tmp_path: Path) -> None:
    write(tmp_path, a__1_dot_txt="1", a__b__2_dot_txt="2")
    (tmp_path / "a/b/up").symlink_to(tmp_path)
    (tmp_path / "a/here").symlink_to(".")
    (tmp_path / "a/self").symlink_to("self")
    files = found(tmp_path)
    assert names(files) == ["a/1.txt", "a/b/2.txt"]
    loops, selves = files.notes
    assert "without links to a folder that they lie in: 'a/b/up', 'a/here'" in loops
    assert "without links to themselves: 'a/self'" in selves


def test_links_out_of_the_folder_are_followed(tmp_path: Path) -> None:
    write(tmp_path, out__1_dot_txt="1", out__2_dot_txt="2")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/folder").symlink_to(tmp_path / "out")
    (tmp_path / "in/other.txt").symlink_to(tmp_path / "out/1.txt")
    files = found(tmp_path / "in")
    assert names(files) == ["folder/1.txt", "folder/2.txt"]
    (note,) = files.notes
    assert "links to files that are read under another name: 'other.txt'" in note
    assert names(found(f"{tmp_path}/in/*.txt")) == ["other.txt"]


def test_a_file_is_read_under_its_own_name_and_a_hidden_one_under_its_link(tmp_path: Path) -> None:
    write(tmp_path, z_dot_txt="1", _dot_blobs__x="2")
    (tmp_path / "a.txt").symlink_to("z.txt")
    (tmp_path / "b.txt").symlink_to(".blobs/x")
    assert names(found(tmp_path)) == ["b.txt", "z.txt"]


def test_folders_that_link_to_each_other_are_read_once(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.txt").write_text(name)
        for other in "abc":
            (tmp_path / name / f"to-{other}").symlink_to(tmp_path / other)
    assert names(found(tmp_path)) == ["a/1.txt", "b/1.txt", "c/1.txt"]


def test_a_web_of_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_MAX_LINKS", 20)
    for name in "abcdef":
        (tmp_path / name).mkdir()
        for other in "abcdef":
            (tmp_path / name / other).symlink_to(tmp_path / other)
    with pytest.raises(SourceError, match="more than 20 links to folders"):
        found(tmp_path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, a_dot_txt="a")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to("nowhere")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))).write_text("x")
    files = found(tmp_path)
    assert names(files) == ["a.txt"]
    notes = " | ".join(files.notes)
    for reason in (
        "neither files nor folders: 'pipe'",
        "links to nothing: 'gone'",
        r"names that are not UTF-8: 'caf\\udce9.txt'",
    ):
        assert reason in notes


def test_packed_files_and_tables_of_tabs_fit_their_format(tmp_path: Path) -> None:
    write(tmp_path, a_dot_jsonl_dot_gz="1", b_dot_csv_dot_zst="2", c_dot_tsv="3", d_dot_gz="4")
    assert names(found(tmp_path, format="jsonl")) == ["a.jsonl.gz"]
    assert names(found(tmp_path, format="csv")) == ["b.csv.zst", "c.tsv"]


def read_later(files: SourceFiles, spec: SourceSpec) -> list[Any]:
    pieces = [piece for partition in slice_files(files, spec, 10) for piece in partition]
    return [record for piece in pieces for record in read_slice(files.root, piece, spec, Account())]


@pytest.mark.parametrize(
    ("format", "name", "text"),
    [
        ("text", "x.txt", "hello"),
        ("jsonl", "x.jsonl", '{"text": "a"}\n'),
        ("csv", "x.csv", "text,label\na,b\n"),
        ("parquet", "x.parquet", "PAR1"),
        ("arrow", "x.arrow", "ARROW1"),
        ("python_functions", "x.py", "x = 1\n"),
    ],
)
def test_files_that_change_or_go_after_they_were_listed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, name: str, text: str
) -> None:
    file = tmp_path / name
    file.write_text(text)
    spec = SourceSpec.model_validate({"path": str(tmp_path), "format": format})
    files = resolve_source(spec)
    file.write_text(text * 2)
    with pytest.raises(SourceError, match=rf"{name} had {len(text)} bytes .* {2 * len(text)} now"):
        read_later(files, spec)
    file.unlink()
    with pytest.raises(SourceError, match=f"{name} was listed and is gone"):
        read_later(files, spec)

    def refuse(_: Location) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Location, "open_input", refuse)
    with pytest.raises(SourceError, match=rf"{name} cannot be read \(Permission denied\)"):
        read_later(files, spec)


def test_a_folder_that_may_not_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, a__b_dot_txt="a")
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"/a cannot be listed \(Permission denied\)"):
        found(tmp_path)


# ---- what the job says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "hint"),
    [
        ("utf8mb4", "did you mean 'utf8'"),
        ("UTF-9", "did you mean 'utf-8'"),
        ("latin-11", "did you mean 'latin-1'"),
        ("nonsense", "most files are utf-8"),
        ("hex", "not an encoding of text files"),
        ("rot13", "not an encoding of text files"),
        ("undefined", "not an encoding of text files"),
        ("a\0", "not an encoding of Python"),
    ],
)
def test_an_encoding_that_python_has_not_is_refused(encoding: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        SourceSpec(path="x", encoding=encoding)


def test_every_text_encoding_reads_lines_or_is_refused(tmp_path: Path) -> None:
    from encodings.aliases import aliases

    read = 0
    for encoding in sorted(set(aliases.values())):
        try:
            spec = SourceSpec(path=str(tmp_path / "x.jsonl"), format="jsonl", encoding=encoding)
        except ValueError:
            continue
        (tmp_path / "x.jsonl").write_bytes('\n{"text": "a"}\n{"text": "b"}'.encode(encoding))
        records, account = read_source(spec, 7)
        assert [record.fields["text"] for record in records] == ["a", "b"], encoding
        assert not account.left_out
        read += 1
    assert read > 70


@pytest.mark.parametrize("delimiter", ["", ",,", "\n", '"'])
def test_a_delimiter_is_one_character(delimiter: str) -> None:
    with pytest.raises(ValueError, match="must be one character"):
        SourceSpec(path="x", format="csv", delimiter=delimiter)


def test_only_a_table_of_text_has_a_delimiter() -> None:
    with pytest.raises(ValueError, match="is for formats 'csv' and 'pixels', not 'jsonl'"):
        SourceSpec(path="x", format="jsonl", delimiter=";")
