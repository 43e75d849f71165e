"""Archives are read in place, as the folder that they hold, and do no harm."""

import io
import json
import os
import random
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import read_source, texts

from raymodel.data.account import Account
from raymodel.data.listed import within
from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.readers.png import encode_png
from raymodel.data.record import RawRecord
from raymodel.data.roles import read_roles
from raymodel.data.sources import resolve_source
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError
from raymodel.storage import archive_stream
from raymodel.storage.archive_stream import Forward
from raymodel.storage.uri import Location

PACKED = ("tar.gz", "tgz", "tar.bz2", "tar.xz", "tar.zst")
KINDS = ("zip", "tar", *PACKED)


def lines(count=4):
    return "".join(
        json.dumps({"text": f"row {i}", "label": str(i % 2)}) + "\n" for i in range(count)
    )


def parquet(values):
    buffer = io.BytesIO()
    table = pa.table({"text": values})
    pq.write_table(table, buffer, row_group_size=50, use_dictionary=False, compression="none")
    return buffer.getvalue()


def png(value):
    return encode_png(np.full((2, 2), value, np.uint8))


FILES = {
    "text": {"a/one.txt": "eins", "a/two.txt": "zwei", "three.txt": "drei"},
    "folder": {"a/one.txt": "eins", "b/two.txt": "zwei"},
    "jsonl": {"a.jsonl": lines(), "b/c.jsonl": lines(7)},
    "csv": {"a.csv": "text,label\none,1\ntwo,2\n", "b/c.csv": "text,label\nthree,3\n"},
    "parquet": {"a.parquet": parquet([f"row {i}" for i in range(300)])},
    "class_folders": {"cats/1.png": png(1), "cats/2.png": png(2), "dogs/1.png": png(3)},
    "python_functions": {"m.py": 'def f(x):\n    """Says x."""\n    return x\n'},
    "conll": {"a.conll": "The O\ncat B-animal\n\n"},
}


def pack(path: Path, files: dict[str, str | bytes]) -> Path:
    """An archive of the kind that its name says."""
    contents = {n: c.encode() if isinstance(c, str) else c for n, c in files.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        return path
    kind = path.name.rpartition(".")[2]
    mode = {"tar": "", "tgz": "gz", "zst": ""}.get(kind, kind)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{mode}") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    data = buffer.getvalue()
    path.write_bytes(pa.Codec("zstd").compress(data, asbytes=True) if kind == "zst" else data)
    return path


def spec(path, **fields) -> SourceSpec:
    return SourceSpec(path=str(path), **fields)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", FILES)
def test_an_archive_gives_the_records_of_the_folder_that_it_holds(tmp_path, format, kind):
    for name, content in FILES[format].items():
        place = tmp_path / "folder" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    archive = pack(tmp_path / f"data.{kind}", dict(sorted(FILES[format].items())))
    of_folder, account = read_source(spec(tmp_path / "folder", format=format))
    records, of_archive = read_source(spec(archive, format=format), partition_bytes=10)
    assert records == of_folder
    assert of_folder
    assert of_archive.left_out == account.left_out


def test_a_part_of_an_archive_and_several_of_them_are_named_as_folders_are(tmp_path):
    files = {"train/a.txt": "a", "train/b.md": "b", "test/c.txt": "c", "train/.d.txt": "d"}
    for kind in ("zip", "tar.gz"):
        place = pack(tmp_path / f"x.{kind}", files)
        for path, found in {
            f"{place}": {"a", "b", "c"},
            f"{place}!": {"a", "b", "c"},
            f"{place}!/train": {"a", "b"},
            f"{place}!/train/*.txt": {"a"},
            f"{place}!/**/*.txt": {"a", "c"},
            f"{place}!/test/c.txt": {"c"},
        }.items():
            assert set(texts(read_source(spec(path))[0])) == found, path


def test_a_glob_of_archives_reads_each_and_says_which(tmp_path):
    for index in range(3):
        pack(tmp_path / "parts" / f"{index}.tar", {"cats/1.png": png(index), "x.txt": "no"})
    os.symlink(tmp_path / "parts" / "0.tar", tmp_path / "parts" / "9.tar")
    records, _ = read_source(spec(tmp_path / "parts" / "*.tar", format="class_folders"))
    assert [r.fields["path"] for r in records] == [f"{i}.tar!/cats/1.png" for i in range(3)]
    assert {r.fields["label"] for r in records} == {"cats"}
    only = read_source(spec(tmp_path / "parts" / "[01].tar!/*.txt"))[0]
    assert len(only) == 2, "of those that the inner glob names"


def test_an_archive_that_lies_in_a_folder_is_not_entered(tmp_path):
    pack(tmp_path / "raw" / "train.zip", {"a.jsonl": lines()})
    with pytest.raises(SourceError, match=r"an archive is read where the path names it, as .*zip"):
        resolve_source(spec(tmp_path / "raw", format="jsonl"))
    (tmp_path / "raw" / "a.jsonl").write_text(lines())
    assert len(read_source(spec(tmp_path / "raw", format="jsonl"))[0]) == 4, "and not twice"


def test_accounts_name_the_archive_and_the_file_in_it(tmp_path):
    place = pack(tmp_path / "data.zip", {"a/x.jsonl": lines(1) + "{\n"})
    root = resolve_source(spec(place, format="jsonl")).root
    account = Account(within=within(root))
    account.begin("a/x.jsonl", 2)
    account.leave_out("line not JSON")
    assert str(account.rejects[0].place) == "data.zip!/a/x.jsonl, line 2"
    part = resolve_source(spec(f"{place}!/a", format="jsonl")).root
    assert within(part) == "data.zip!/a/"
    assert within(Location.parse(str(tmp_path))) == ""


def test_files_that_records_name_are_read_below_the_archive(tmp_path):
    from raymodel.tasks import get_task

    place = pack(tmp_path / "data.zip", {"t.csv": "image,label\n", "images/1.png": png(7)})
    source = spec(place, format="csv")
    record = RawRecord({"image": "images/1.png", "label": "x"}, b"")
    fields = get_task("image_classification").fields
    values = read_roles(record, source, resolve_source(source).root, fields)
    assert values["image"] == png(7)


def test_links_are_said_and_never_followed(tmp_path):
    place = tmp_path / "x.tar"
    with tarfile.open(place, "w") as archive:
        for name, kind in {
            "up": tarfile.SYMTYPE,
            "hard": tarfile.LNKTYPE,
            "d": tarfile.FIFOTYPE,
        }.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/hostname"
            archive.addfile(member)
        for name in ("../out.txt", "./in.txt", "/root.txt"):
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(name[-6:-4].encode()))
    found = resolve_source(spec(place))
    assert [file.name for file in found.files] == ["in.txt", "root.txt"]
    said = " | ".join(found.notes)
    assert "links in an archive: 'hard', 'up'" in said
    assert "names that lead out of their archive: '../out.txt'" in said
    assert "neither files nor folders: 'd'" in said


def test_encrypted_and_damaged_members_are_counted_and_cost_no_other(tmp_path):
    files = {f"{name}.jsonl": lines(100) for name in "abcd"}
    place = pack(tmp_path / "x.zip", files)
    data, members = bytearray(place.read_bytes()), zipfile.ZipFile(place).infolist()
    encrypted, damaged = members[1], members[2]
    data[encrypted.header_offset + 6] |= 1
    directory = data.index(b"PK\x01\x02")
    for _ in range(1):
        directory = data.index(b"PK\x01\x02", directory + 1)
    data[directory + 8] |= 1
    data[damaged.header_offset + 30 + len("c.jsonl") + 60] ^= 0xFF
    place.write_bytes(data)
    records, account = read_source(spec(place, format="jsonl"))
    assert len(records) >= 200
    assert account.left_out["encrypted member of an archive"] == 1
    assert account.left_out.total() == 2 or account.left_out["damaged member of an archive"] == 1
    documents, of_text = read_source(spec(place, format="text"))
    assert len(documents) == 2
    assert of_text.left_out == {
        "encrypted member of an archive": 1,
        "damaged member of an archive": 1,
    }


@pytest.mark.parametrize("kind", [*("zip",), *PACKED])
def test_an_archive_that_expands_without_end_is_one_error(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archive_stream, "FREE_BYTES", 10_000)
    place = pack(tmp_path / f"bomb.{kind}", {"zeros.txt": bytes(3_000_000)})
    assert place.stat().st_size * archive_stream.MAX_EXPANSION < 3_000_000
    with pytest.raises(SourceError, match=r"expands to [0-9,]+ or more; an archive may expand to"):
        resolve_source(spec(place))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_an_archive_that_is_none_or_cut_short_is_refused(tmp_path, kind, share):
    noise = {f"{i}.bin": random.Random(i).randbytes(20_000) for i in range(5)}
    place = pack(tmp_path / f"x.{kind}", noise)
    data = place.read_bytes()
    place.write_bytes(data[: int(len(data) * share)] or b"this is no archive at all")
    with pytest.raises(SourceError, match=r"is no archive that can be read .* Fetch it again"):
        resolve_source(spec(place))


def test_a_packed_tar_is_unpacked_once_to_list_and_once_to_read(tmp_path, monkeypatch):
    begun, begin = [], Forward._begin

    def count(forward):
        begun.append(1)
        return begin(forward)

    monkeypatch.setattr(Forward, "_begin", count)
    long = "".join(random.Random(0).choices("abcdefgh ", k=4_000))
    large = {
        "txt": long * 50,
        "jsonl": "".join(json.dumps({"text": long}) + "\n" for _ in range(50)),
        "csv": "text\n" + f"{long}\n" * 50,
        "parquet": parquet([long[i:] for i in range(100)]),
    }
    for suffix, content in large.items():
        assert len(content) > 2**17, "more than a look at it takes"
        files = {f"{i * 7 % 10}.{suffix}": content for i in range(10)}  # in no order
        place = pack(tmp_path / f"{suffix}.tar.gz", files)
        source = spec(place, format={"txt": "text"}.get(suffix, suffix))
        assert [file.name for file in resolve_source(source).files] == list(files)
        assert read_source(source, partition_bytes=50)[0]
        assert len(begun) == 2, suffix
        begun.clear()


def test_an_archive_that_was_replaced_is_another_source(tmp_path):
    place = pack(tmp_path / "x.zip", {"a.txt": "one"})
    before = resolve_source(spec(place))
    assert texts(read_source(spec(place))[0]) == ["one"]
    pack(place, {"a.txt": "two"})
    os.utime(place, (1, 1))
    assert resolve_source(spec(place)).identity != before.identity
    assert texts(read_source(spec(place))[0]) == ["two"]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_dataset_of_an_archive_has_its_documents_and_its_rejects(
    tmp_path, recipe: Recipe, place: Location, execute, kind
):
    files = {f"a/{i:02d}.txt": f"the text of number {i} " * 20 for i in range(30)}
    archive = pack(tmp_path / f"data.{kind}", {**files, "b/bad.txt": b"\xff\xfe\xfd"})
    recipe = replace(recipe, sources=(spec(archive),))
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    assert sum(each["documents"] for each in content["splits"].values()) == 30
    (reject,) = map(json.loads, (place / "data/rejects.jsonl").read_text().splitlines())
    assert reject["file"] == f"data.{kind}!/b/bad.txt"
