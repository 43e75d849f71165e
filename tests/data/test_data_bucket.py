"""Data that is prepared from a bucket into a bucket whose server fails now and then is, byte by
byte, what a disk has."""

import gzip
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from local_ray import Silent, local_ray
from small_corpus import WORDS

from raymodel.cluster.spec import ClusterSpec
from raymodel.data.run import run_prepare
from raymodel.data.spec import PrepareSpec, SourceSpec, TokenizerSpec
from raymodel.storage.execution import Execution
from raymodel.storage.uri import Location
from raymodel.testing.s3 import Fault, Faults

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NUM_RECORDS = 1600


class Story(Silent):
    def progress_line(self, line: str, *, is_last: bool = False) -> None:
        """Nobody looks."""

    def end_progress(self) -> None:
        """Nobody looks."""


@pytest.fixture(scope="module")
def cluster_of_bucket(server: tuple[Location, Faults]) -> Iterator[None]:
    """A Ray that is started after the bucket, so that its workers know the way there."""
    with local_ray(2):
        yield


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A corpus in each of the ways in which files are read."""
    folder, chance = tmp_path / "sources", random.Random(0)
    folder.mkdir()
    texts = [f"{i} {' '.join(chance.choices(WORDS, k=100))}" for i in range(NUM_RECORDS)]
    quarter = NUM_RECORDS // 4
    parts = [texts[start : start + quarter] for start in range(0, NUM_RECORDS, quarter)]
    lines = ["".join(json.dumps({"text": text}) + "\n" for text in part) for part in parts]
    (folder / "a.jsonl").write_text(lines[0])
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines[1].encode(), mtime=0))
    pq.write_table(pa.table({"text": parts[2]}), folder / "c.parquet", row_group_size=50)
    with zipfile.ZipFile(folder / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for index, text in enumerate(parts[3]):
            archive.writestr(f"{index:04d}.txt", text)
    return folder


def spec_of(folder: str) -> PrepareSpec:
    return PrepareSpec(
        sources=(
            SourceSpec(path=f"{folder}/a.jsonl", format="jsonl"),
            SourceSpec(path=f"{folder}/b.jsonl.gz", format="jsonl"),
            SourceSpec(path=f"{folder}/c.parquet", format="parquet"),
            SourceSpec(path=f"{folder}/d.zip", format="text"),
        ),
        tokenizer=TokenizerSpec(vocab_size=300),
        sequence_length=64,
        holdout=0.1,
    )


def execution_at(location: Location) -> Execution:
    return Execution(
        job_name="test",
        stage="prepare",
        fingerprint="f" * 16,
        location=location,
        seed=7,
        cluster=ClusterSpec(),
    )


def files_of(location: Location, sources: str) -> dict[str, bytes]:
    """All that was made, without where the sources lie, which the manifest and the card tell."""
    found = {entry.name: (location / entry.name).read_bytes() for entry in location.walk()}
    return {name: data.replace(sources.encode(), b"SOURCES") for name, data in found.items()}


def in_a_row() -> list[Fault]:
    """Each kind of request fails more often in a row than the client of S3 itself tries again: it
    makes three tries, and of reads of a few bytes one."""
    reads = [f"GET .*/sources/{name}" for name in "abcd"]
    reads += [r"GET .*/work/documents", r"GET .*/work/rows-train"]
    others = [
        r"GET .*list-type.*work",
        r"(PUT|POST) .*/work/documents",
        r"(PUT|POST) .*/work/read/",
    ]
    others += [r"(PUT|POST) .*/processor", r"(PUT|POST) .*/train/.*0000000\.parquet"]
    others += [r"(PUT|POST) .*index\.parquet", r"(PUT|POST) .*card\.json"]
    others += [r"(PUT|POST) .*dataset\.json", r"POST .*\?delete"]
    return [
        *(Fault(does="refuse", status=500, where=each, times=3, after=1) for each in reads),
        *(Fault(does="reset", where=each, times=4) for each in others),
    ]


def now_and_then() -> list[Fault]:
    """One in ten of all requests. A small file is written by three."""
    return [
        Fault(does="refuse", status=500, every=37),
        Fault(does="refuse", status=503, every=41),
        Fault(does="reset", every=43),
        Fault(does="cut", where="GET", every=29),
    ]


def test_a_bucket_that_fails_gives_what_a_disk_gives(
    cluster_of_bucket: None,
    server: tuple[Location, Faults],
    sources: Path,
    tmp_path: Path,
) -> None:
    bucket, faults = server
    here = Location.parse(str(tmp_path / "out"))
    content = run_prepare(spec_of(str(sources)), execution_at(here), Story())
    assert (content["read"], content["left_out"]) == (NUM_RECORDS, {})
    for file in sources.iterdir():
        (bucket / "sources" / file.name).upload(file)
    expected = files_of(here, str(sources))
    for name, given in {"in a row": in_a_row(), "now and then": now_and_then()}.items():
        for fault in given:
            faults.add(fault)
        run_prepare(spec_of(f"{bucket}/sources"), execution_at(bucket / name), Story())
        faults.clear()
        assert [fault for fault in given if not fault.hits] == []
        found = files_of(bucket / name, f"{bucket}/sources")
        assert found.keys() == expected.keys()
        assert [file for file in found if found[file] != expected[file]] == []
