"""The shard format: Parquet files of equal numbers of rows, so that any row's place is computed.

A part of a split is one folder of files `0000000.parquet`, `0000001.parquet`, … Each holds
`rows_per_shard` rows in row groups ("blocks") of `rows_per_block` rows; only the last file and its
last block are shorter. Row r of a part is therefore in file r // rows_per_shard, and nothing about
single files need be known to find it. `index.parquet` beside them holds what is needed only to
check a file: its rows, tokens, bytes and SHA-256.

Pages carry checksums. Token ids are stored as byte streams (all low bytes, then all high bytes)
under zstd: under half the size of the plain numbers, and still read at over 100 M tokens/s.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymodel.errors import ArtifactError, ShardError, StorageUnavailableError
from raymodel.storage.uri import Location, sha256

_WRITTEN_AS = {
    "compression": "zstd",
    "compression_level": 1,
    "version": "2.6",  # of Parquet
    "data_page_version": "1.0",
    "data_page_size": 2**20,
    "write_batch_size": 1024,
}
_INDEX_GROUP = 1024  # rows of the index that are read to learn about one shard


@dataclass(frozen=True, kw_only=True)
class PartContent:
    """One part of one split, as the manifest's `content` has it."""

    source: str
    """The `path` of its source."""
    folder: str
    """Where its shards are, relative to the artifact."""
    weight: float
    rows: int
    tokens: int
    """Real tokens, end-of-text included, padding not."""
    documents: int
    """Documents (packed rows) or examples."""
    num_bytes: int
    """UTF-8 bytes of the documents' text: the denominator of bits per byte."""
    shards: int
    shard_bytes: int
    """Bytes of all its files on disk."""
    row_bytes: float
    """Mean bytes of a row in memory."""
    rows_per_shard: int
    rows_per_block: int

    @classmethod
    def load(cls, data: dict[str, Any], where: object) -> PartContent:
        """From a manifest. Raises ArtifactError when a key is missing."""
        known = data if isinstance(data, dict) else {}
        missing = [field.name for field in fields(cls) if field.name not in known]
        if missing:
            raise ArtifactError(
                f"{where}: a part of the dataset lacks {', '.join(missing)}; the manifest was "
                "edited, or written by another version. Prepare the data again"
            )
        return cls(**{field.name: data[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class ShardRecord:
    """One line of the index."""

    rows: int
    tokens: int
    bytes: int
    sha256: str
    footer_bytes: int
    """Length of the end of the file that says where its blocks lie."""
    footer_crc32: int
    """Of that end: Parquet has checksums for pages, but not for this."""


def shard_location(part_folder: Location, shard_index: int) -> Location:
    """The file of one shard."""
    return part_folder / f"{shard_index:07d}.parquet"


def write_shard(
    place: Location,
    tables: Iterable[pa.Table],
    rows_per_block: int,
    count_tokens: Callable[[pa.Table], int],
) -> ShardRecord:
    """Writes one shard, atomically. The same rows always give the same bytes with one pyarrow,
    whatever tables they come in; of these a block is held at a time, beside the file.

    What decides the bytes is written though it is pyarrow's default. Its version stands in the file
    too, so bytes of different ones differ there; rows and the digests taken of them do not.

    Args:
        tables: the rows in their order, one at the least.
        count_tokens: of some of the rows.
    """
    buffer, rows, tokens = io.BytesIO(), 0, 0
    blocks = _blocks(tables, rows_per_block)
    first = next(blocks)
    with pq.ParquetWriter(
        buffer,
        first.schema,
        **_WRITTEN_AS,
        use_dictionary=False,
        write_statistics=False,  # of no use for token ids, and a page of them per row group
        write_page_checksum=True,
        column_encoding=_encodings(first.schema),
    ) as writer:
        for block in itertools.chain([first], blocks):
            writer.write_table(block, row_group_size=rows_per_block)
            rows, tokens = rows + block.num_rows, tokens + count_tokens(block)
    data = buffer.getbuffer()
    place.write_bytes(data)
    footer = data[-(int.from_bytes(data[-8:-4], "little") + 8) :]
    return ShardRecord(
        rows=rows,
        tokens=tokens,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        footer_bytes=len(footer),
        footer_crc32=zlib.crc32(footer),
    )


def _blocks(tables: Iterable[pa.Table], rows_per_block: int) -> Iterator[pa.Table]:
    """The same rows, so many at a time; the last time what is left."""
    parts, rows = list[pa.Table](), 0
    for table in tables:
        while table.num_rows:
            part = table.slice(0, rows_per_block - rows)
            parts.append(part)
            table, rows = table.slice(part.num_rows), rows + part.num_rows
            if rows == rows_per_block:
                yield pa.concat_tables(parts).combine_chunks()
                parts, rows = [], 0
    if parts:
        yield pa.concat_tables(parts).combine_chunks()


def _encodings(schema: pa.Schema) -> dict[str, str]:
    encodings = {}
    for field in schema:
        is_list = pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
        element = field.type.value_type if is_list else field.type
        path = f"{field.name}.list.element" if is_list else field.name
        is_number = pa.types.is_integer(element) or pa.types.is_floating(element)
        encodings[path] = "BYTE_STREAM_SPLIT" if is_list and is_number else "PLAIN"
    return encodings


def write_index(part_folder: Location, records: Iterable[ShardRecord]) -> None:
    """Writes the index of a part, given its shards in order."""
    buffer = io.BytesIO()
    table = pa.Table.from_pylist([asdict(record) for record in records])
    pq.write_table(table, buffer, row_group_size=_INDEX_GROUP, write_page_checksum=True)
    (part_folder / "index.parquet").write_bytes(buffer.getvalue())


def load_record(part_folder: Location, shard_index: int) -> ShardRecord:
    """What the index says about one shard; reads only the part of the index that holds it.

    Raises:
        ShardError: the index is missing, unreadable or too short.
    """
    group, line = divmod(shard_index, _INDEX_GROUP)
    lines = _index_group(part_folder, group)
    if line >= len(lines):
        raise ShardError(
            f"{part_folder / 'index.parquet'} has no line for shard {shard_index}; it must have "
            "one for each shard. The index was cut or replaced: restore it, or prepare again"
        )
    return ShardRecord(**lines[line])


@functools.lru_cache(maxsize=32)
def _index_group(part_folder: Location, group: int) -> list[dict[str, Any]]:
    place = part_folder / "index.parquet"
    if not place.exists():
        raise ShardError(
            f"the index {place} is missing; every part of a dataset has one. "
            "Restore it, or delete the dataset's folder and prepare again"
        )
    try:
        with place.open_input() as stream:
            return _read_group(stream, group)
    except StorageUnavailableError:
        raise
    except (pa.ArrowInvalid, OSError):
        # The file or the storage? What cannot be read from memory either is the file.
        whole = pa.BufferReader(place.read_bytes())
    try:
        return _read_group(whole, group)
    except (pa.ArrowInvalid, OSError) as error:
        raise ShardError(
            f"the index {place} cannot be read ({error}); it must be the Parquet file that was "
            "written. Restore it, or delete the dataset's folder and prepare again"
        ) from error


def _read_group(stream: Any, group: int) -> list[dict[str, Any]]:
    file = pq.ParquetFile(stream, page_checksum_verification=True)
    return file.read_row_group(group).to_pylist() if group < file.num_row_groups else []


def open_shard(part_folder: Location, shard_index: int) -> pq.ParquetFile:
    """Opens a shard after comparing its size and footer with the index.

    Raises:
        ShardError: the file is missing, cut short, or its footer damaged; names it.
    """
    place, record = shard_location(part_folder, shard_index), load_record(part_folder, shard_index)
    if not place.exists():
        raise _shard_error(place, "is missing")
    if place.size() != record.bytes:
        raise _shard_error(place, f"has {place.size()} bytes instead of {record.bytes}")
    stream = place.open_input(memory_map=True)
    stream.seek(record.bytes - record.footer_bytes)
    footer = stream.read()
    if zlib.crc32(footer) != record.footer_crc32:
        raise _shard_error(place, "has other bytes than were written (its footer)")
    return pq.ParquetFile(
        stream,
        metadata=pq.read_metadata(pa.BufferReader(footer)),  # it is here already
        pre_buffer=True,
        page_checksum_verification=True,
    )


def judge_failed_read(part_folder: Location, shard_index: int, error: Exception) -> Exception:
    """Tells a corrupt shard from a storage that failed for a moment, by the shard's SHA-256.

    Returns: a ShardError when the bytes are not those that were written; else `error` itself,
    which is then a fault of the infrastructure and worth another try.
    """
    place = shard_location(part_folder, shard_index)
    if sha256(place) == load_record(part_folder, shard_index).sha256:
        return error
    first_line = str(error).split("\n")[0]
    return _shard_error(place, f"has other bytes than were written ({first_line})")


def _shard_error(place: Location, seen: str) -> ShardError:
    return ShardError(
        f"shard {place} {seen}; every shard must be exactly as it was prepared. Restore the file "
        "from a copy, or delete the dataset's folder and prepare again; "
        "`on_bad_shard: skip` trains without its rows"
    )
