"""Reading rows by id, and shards that are not as they were written."""

import pickle
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from copies import copy_of

from raymodel.data.feed import DirectFeed, StepRows, read_steps
from raymodel.data.order import DataDigest, local_sum
from raymodel.data.shard import Dataset
from raymodel.data.shard_format import load_record, shard_location, write_shard
from raymodel.data.step import read_groups, read_rows, write_table
from raymodel.errors import ShardError, StorageUnavailableError
from raymodel.storage import retry
from raymodel.storage.uri import Location, sha256


@pytest.fixture
def shard(dataset: Dataset) -> Path:
    """The first shard of the first source."""
    return shard_location(dataset.parts[0].folder, 0).local_path


def test_rows_come_in_the_order_asked_for(dataset: Dataset) -> None:
    whole = dataset.read(np.arange(dataset.num_rows))
    ids = np.random.default_rng(0).integers(0, dataset.num_rows, 200)
    assert dataset.read(ids).equals(whole.take(ids).combine_chunks())


def test_the_rows_are_those_of_the_files(dataset: Dataset) -> None:
    tables = [
        pq.read_table(shard_location(part.folder, index).local_path)
        for part in dataset.parts
        for index in range(part.content.shards)
    ]
    tokens = [row for table in tables for row in table["tokens"].to_pylist()]
    assert dataset.read(np.arange(dataset.num_rows))["tokens"].to_pylist() == tokens


def test_a_dataset_pickles_small(dataset: Dataset) -> None:
    dataset.read([0])
    data = pickle.dumps(dataset)
    assert len(data) < 2000
    assert pickle.loads(data).read([3, 1]).equals(dataset.read([3, 1]))


def test_no_rows_are_an_empty_table_of_the_schema(dataset: Dataset) -> None:
    assert dataset.read([]).schema == dataset.schema
    assert dataset.schema.names == ["tokens", "document_starts", "length"]


def test_a_row_id_out_of_range_is_refused(dataset: Dataset) -> None:
    with pytest.raises(IndexError, match="row ids must lie in"):
        dataset.read([dataset.num_rows])


def test_the_index_knows_each_shard(dataset: Dataset, shard: Path) -> None:
    record = load_record(dataset.parts[0].folder, 0)
    assert record.bytes == shard.stat().st_size
    assert record.sha256 == sha256(Location.parse(str(shard)))
    assert record.rows == dataset.parts[0].rows


def test_a_shard_has_the_same_bytes_in_whatever_tables_its_rows_come(
    dataset: Dataset, shard: Path, tmp_path: Path
) -> None:
    rows = pq.read_table(shard).replace_schema_metadata()
    block = pq.read_metadata(shard).row_group(0).num_rows
    record = load_record(dataset.parts[0].folder, 0)

    def written(tables: list[pa.Table]) -> None:
        place = Location.parse(str(tmp_path / "shard.parquet"))
        assert write_shard(place, tables, block, lambda some: sum(some["length"].to_pylist())) == (
            record
        )
        assert (tmp_path / "shard.parquet").read_bytes() == shard.read_bytes()

    written([rows])
    cuts = [0, 1, 1, block, block + 3, 2 * block, rows.num_rows]
    written([rows.slice(a, b - a) for a, b in pairwise(cuts)])
    written([rows.slice(place, 1) for place in range(rows.num_rows)])


def test_rows_of_a_file_are_read_a_group_at_a_time(tmp_path: Path) -> None:
    rows, place = pa.table({"number": range(9000)}), Location.parse(str(tmp_path / "rows.parquet"))
    write_table(place, rows)
    assert [table.num_rows for table in read_groups(place, 4000, 8200)] == [96, 4096, 8]
    for start, stop in ((0, 9000), (4095, 4097), (4096, 8192), (8999, 9000)):
        assert read_rows(place, start, stop).equals(rows.slice(start, stop - start))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.999])
def test_a_flipped_bit_is_found_and_named(dataset: Dataset, shard: Path, share: float) -> None:
    data = bytearray(shard.read_bytes())
    data[int(len(data) * share)] ^= 0x10
    shard.write_bytes(data)
    with pytest.raises(ShardError, match=r"0000000\.parquet has other bytes.*Restore") as caught:
        dataset.read(np.arange(dataset.num_rows))
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


def test_no_flipped_bit_ever_gives_other_rows(dataset: Dataset, shard: Path) -> None:
    rows, good = np.arange(dataset.num_rows), shard.read_bytes()
    expected, found = dataset.read(rows), 0
    rng = np.random.default_rng(0)
    for turn, place in enumerate(rng.integers(0, len(good), 60)):
        data = bytearray(good)
        data[place] ^= 1 << int(rng.integers(8))
        copy = copy_of(dataset, f"copy-{turn}")
        shard_location(copy.parts[0].folder, 0).local_path.write_bytes(data)
        try:
            assert copy.read(rows).equals(expected)
        except ShardError:
            found += 1
    assert found > 50


def test_a_shard_cut_short_is_found_and_named(dataset: Dataset, shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(ShardError, match=r"0000000\.parquet has \d+ bytes instead of \d+"):
        dataset.read([0])


def test_a_missing_shard_is_named(dataset: Dataset, shard: Path) -> None:
    shard.unlink()
    with pytest.raises(ShardError, match=r"0000000\.parquet is missing"):
        dataset.read([0])


def test_a_missing_index_is_named(dataset: Dataset, shard: Path) -> None:
    (shard.parent / "index.parquet").unlink()
    with pytest.raises(ShardError, match=r"index\.parquet is missing"):
        dataset.read([0])


def test_a_corrupt_index_is_named(dataset: Dataset, shard: Path) -> None:
    index = shard.parent / "index.parquet"
    index.write_bytes(index.read_bytes()[:-20])
    with pytest.raises(ShardError, match=r"index\.parquet cannot be read"):
        dataset.read([0])


def test_a_storage_that_fails_is_not_taken_for_a_corrupt_shard(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("connection reset")

    load_record(dataset.parts[0].folder, 0)  # keeps the index
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", fail)
    with pytest.raises(StorageUnavailableError, match=r"0000000\.parquet.*connection reset"):
        dataset.read([0])


# ---- feeding -------------------------------------------------------------------------------------


def digest_of(dataset: Dataset, world_size: int, start: int, end: int, state: str = "") -> str:
    order = dataset.order(7, 10)
    feeds = [DirectFeed(dataset, order, start, end, rank, world_size) for rank in range(world_size)]
    digest = DataDigest(state) if state else DataDigest()
    for parts in zip(*feeds, strict=True):
        total = sum(local_sum(part.positions, part.row_ids) for part in parts)
        digest.update(parts[0].step, total)
    return digest.hex


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_a_resized_and_resumed_run_has_the_digest_of_an_unbroken_one(
    dataset: Dataset, world_size: int
) -> None:
    half = digest_of(dataset, 2, 0, 37)
    assert digest_of(dataset, world_size, 37, 90, half) == digest_of(dataset, 1, 0, 90)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_workers_together_read_the_global_batch(dataset: Dataset, world_size: int) -> None:
    order = dataset.order(7, 10)
    for step in (0, 5, 123):
        parts = [
            next(read_steps(dataset, order, [step], rank, world_size)) for rank in range(world_size)
        ]
        assert np.concatenate([part.row_ids for part in parts]).tolist() == (
            order.rows(step).tolist()
        )
        assert np.concatenate([part.positions for part in parts]).tolist() == list(range(10))
        rows = [row for part in parts for row in part.table.to_pylist()]
        assert rows == dataset.read(order.rows(step)).to_pylist()


PARTNER = "partner_"


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_row_has_the_same_partner_whoever_reads_it(dataset: Dataset, world_size: int) -> None:
    order = dataset.order(7, 10, with_partners=True)
    steps = (0, 5, 123)
    for step, *parts in zip(
        steps,
        *(read_steps(dataset, order, steps, rank, world_size) for rank in range(world_size)),
        strict=True,
    ):
        rows = [row for part in parts for row in part.table.to_pylist()]
        expected = dataset.read(order.rows(step)).to_pylist()
        partners = dataset.read(order.partners(step)).to_pylist()
        assert rows == [
            own | {PARTNER + name: value for name, value in partner.items()}
            for own, partner in zip(expected, partners, strict=True)
        ]
        ids = np.concatenate([part.row_ids for part in parts])
        assert ids.tolist() == order.rows(step).tolist(), "partners are none of the step's rows"


def test_partners_are_other_rows_of_the_step_and_change_from_step_to_step(dataset: Dataset) -> None:
    order, moved = dataset.order(7, 10, with_partners=True), set()
    for step in range(40):
        rows, partners = order.rows(step).tolist(), order.partners(step).tolist()
        assert sorted(partners) == sorted(rows)
        moved.add(rows.index(partners[0]))
    assert moved == set(range(1, 10))
    alone = dataset.order(7, 1, with_partners=True)
    assert alone.partners(3).tolist() == alone.rows(3).tolist()


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_row_whose_partner_cannot_be_read_is_its_own(
    dataset: Dataset, shard: Path, world_size: int
) -> None:
    whole = dataset.read(np.arange(dataset.num_rows)).to_pylist()
    moved = copy_of(dataset)
    copy = shard_location(moved.parts[0].folder, 0).local_path
    bad = set(corrupt_second_block(moved, copy))
    order, alone = moved.order(7, 10, with_partners=True), 0
    feeds = [
        DirectFeed(moved, order, 0, 50, rank, world_size, "skip") for rank in range(world_size)
    ]
    for parts in zip(*feeds, strict=True):
        step = parts[0].step
        pairs = [
            (row, row if partner in bad else partner)
            for row, partner in zip(order.rows(step), order.partners(step), strict=True)
            if row not in bad
        ]
        alone += sum(row == partner for row, partner in pairs)
        rows = [row for part in parts for row in part.table.to_pylist()]
        assert [row["tokens"] for row in rows] == [whole[row]["tokens"] for row, _ in pairs]
        assert [row[PARTNER + "tokens"] for row in rows] == [
            whole[partner]["tokens"] for _, partner in pairs
        ]
    assert alone > 0


def corrupt_second_block(dataset: Dataset, shard: Path) -> range:
    """Flips a bit in the second block; returns its row ids."""
    offset = pq.ParquetFile(shard).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(shard.read_bytes())
    data[offset + 40] ^= 1
    shard.write_bytes(data)
    per_block = dataset.parts[0].content.rows_per_block
    return range(per_block, 2 * per_block)


def test_a_feed_stops_at_a_bad_shard(dataset: Dataset, shard: Path) -> None:
    corrupt_second_block(dataset, shard)
    with pytest.raises(ShardError, match=r"0000000\.parquet"):
        list(DirectFeed(dataset, dataset.order(7, 10), 0, 200, 0, 1))


def test_a_skipped_block_is_counted_and_changes_the_digest(dataset: Dataset, shard: Path) -> None:
    whole = digest_of(dataset, 1, 0, 50)
    moved = copy_of(dataset)
    copy = shard_location(moved.parts[0].folder, 0).local_path
    bad = set(corrupt_second_block(moved, copy))
    order, digest, skipped = moved.order(7, 10), DataDigest(), 0
    steps: list[StepRows] = list(DirectFeed(moved, order, 0, 50, 0, 1, on_bad_shard="skip"))
    for rows in steps:
        wanted = order.rows(rows.step)
        assert rows.row_ids.tolist() == [row for row in wanted.tolist() if row not in bad]
        assert rows.table.equals(dataset.read(rows.row_ids))
        assert rows.skipped == len(wanted) - len(rows.row_ids)
        digest.update(rows.step, local_sum(rows.positions, rows.row_ids))
        skipped += rows.skipped
    assert skipped > 0
    assert digest.hex != whole


def test_a_moved_dataset_gives_the_same_digest(dataset: Dataset) -> None:
    moved = copy_of(dataset)
    assert digest_of(moved, 1, 0, 30) == digest_of(dataset, 1, 0, 30)


def test_leaving_a_feed_early_ends_its_thread(dataset: Dataset) -> None:
    feed = iter(DirectFeed(dataset, dataset.order(7, 10), 0, 1000, 0, 1))
    assert next(feed).step == 0
    feed.close()
    assert not any(thread.name == "data-feed" for thread in threading.enumerate())
