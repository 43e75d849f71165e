"""Shards in a bucket whose server misbehaves: the right rows or an error, never others or fewer."""

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from copies import folder_of
from reading import read_source

from raymodel.data import shard
from raymodel.data.feed import DirectFeed
from raymodel.data.shard import Dataset, dataset_of
from raymodel.data.shard_format import _index_group
from raymodel.data.spec import SourceSpec
from raymodel.errors import ShardError, StorageUnavailableError
from raymodel.storage import retry
from raymodel.storage.uri import Location
from raymodel.testing.s3 import Fault, Faults

SHARD = r"GET .*part-000/0000000\.parquet"


@pytest.fixture
def faults(server: tuple[Location, Faults], monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(retry, "TRIES", 3)
    # Another test's rows must not come from what this process keeps.
    monkeypatch.setattr(shard, "_blocks", shard._Cache(2**27, lambda table: table.nbytes))
    monkeypatch.setattr(shard, "_files", shard._Cache(320, lambda file: 1))
    _index_group.cache_clear()
    yield server[1]
    server[1].clear()


@pytest.fixture
def remote(
    dataset: Dataset, server: tuple[Location, Faults], request: pytest.FixtureRequest
) -> Dataset:
    """The dataset in a bucket."""
    source, target = folder_of(dataset), server[0] / f"data-{request.node.name.strip(']')}"
    for entry in source.walk():
        (target / entry.name).write_bytes((source / entry.name).read_bytes())
    return dataset_of(target, (source / "data/dataset.json").read_json(), "train")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(does="refuse", status=500, where="parquet", times=4),
        Fault(does="refuse", status=503, where=SHARD, times=8, after=2),
        Fault(does="reset", where=SHARD, times=4, after=1),
        Fault(does="wait", wait_s=0.5, where=SHARD, times=3),
    ],
    ids=["all-500", "shard-503", "shard-reset", "shard-slow"],
)
@pytest.mark.parametrize("on_bad_shard", ["stop", "skip"])
def test_a_fault_that_passes_changes_no_row(
    dataset: Dataset, remote: Dataset, faults: Faults, fault: Fault, on_bad_shard: str
) -> None:
    fault = faults.add(replace(fault))  # its counts begin anew
    order = dataset.order(7, 10)
    expected = DirectFeed(dataset, order, 0, 12, 0, 1)
    for here, there in zip(
        expected, DirectFeed(remote, order, 0, 12, 0, 1, on_bad_shard), strict=True
    ):
        assert there.row_ids.tolist() == here.row_ids.tolist()
        assert there.table.equals(here.table)
        assert there.skipped == 0
    assert fault.hits == fault.times, "it did go wrong"


@pytest.mark.parametrize("on_bad_shard", [pytest.param("stop", marks=pytest.mark.slow), "skip"])
def test_a_shard_that_stays_out_of_reach_is_named_and_never_skipped(
    remote: Dataset, faults: Faults, on_bad_shard: str
) -> None:
    faults.add(Fault(does="refuse", where=SHARD, after=1))
    feed = DirectFeed(remote, remote.order(7, 10), 0, 12, 0, 1, on_bad_shard)
    with pytest.raises(StorageUnavailableError, match=r"part-000/0000000\.parquet failed 3 times"):
        list(feed)


def test_a_corrupt_shard_in_a_bucket_is_told_from_a_fault(
    remote: Dataset, faults: Faults, tmp_path: Path
) -> None:
    place = remote.parts[0].folder / "0000000.parquet"
    data = bytearray(place.read_bytes())
    data[len(data) // 3] ^= 1
    place.write_bytes(data)
    faults.add(Fault(does="refuse", where=SHARD, times=4, after=3))
    with pytest.raises(ShardError, match=r"0000000\.parquet has other bytes"):
        remote.read(np.arange(remote.num_rows))


def table() -> pa.Table:
    return pa.table({"text": [f"a text, number {i}" for i in range(2000)]})


def written(format: str) -> bytes:
    """The table as a file that is read in several pieces."""
    sink = io.BytesIO()
    if format == "parquet":
        pq.write_table(table(), sink, row_group_size=500)
    elif format == "arrow":
        with pa.ipc.new_file(sink, table().schema) as writer:
            writer.write_table(table(), max_chunksize=500)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in table().to_pylist()).encode()
        sink.write(gzip.compress(lines) if format == "jsonl.gz" else lines)
    return sink.getvalue()


@pytest.mark.parametrize(
    "format",
    ["parquet", "arrow", *(pytest.param(f, marks=pytest.mark.slow) for f in ("jsonl", "jsonl.gz"))],
)
def test_a_source_that_is_out_of_reach_is_not_taken_for_a_damaged_one(
    server: tuple[Location, Faults], faults: Faults, format: str
) -> None:
    place = server[0] / f"sources-{format}/x.{format}"
    place.write_bytes(written(format))
    spec = SourceSpec(path=place.uri, format=format.removesuffix(".gz"))
    passing = faults.add(Fault(does="refuse", status=500, where="GET .*/sources", every=2))
    records, account = read_source(spec)
    assert [record.fields["text"] for record in records] == table()["text"].to_pylist()
    assert (account.left_out, passing.hits > 0) == ({}, True)
    faults.clear()
    lasting = faults.add(Fault(does="refuse", status=500, where="GET .*/sources", after=1))
    with pytest.raises(StorageUnavailableError, match=rf"reading .*x\.{format} failed 3 times"):
        read_source(spec)
    assert lasting.hits
