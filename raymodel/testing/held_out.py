"""A dataset of held-out rows alone, as a test of what measures models needs one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raymodel.data.shard_format import PartContent, write_index, write_shard
from raymodel.storage.artifact import Artifact, open_artifact
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.uri import Location

if TYPE_CHECKING:
    import pyarrow as pa


def save_held_out(
    folder: Location,
    table: pa.Table,
    fingerprint: str,
    stage: str = "prepare",
    splits: Sequence[str] = ("holdout",),
) -> Artifact:
    """Writes rows into an artifact of one shard a split; its processor is saved by the caller."""
    content = {
        "splits": {split: {"parts": [vars(_part(folder, table, split))]} for split in splits},
        "processor": {"folder": "data/processor"},
    }
    commit_manifest(
        folder, job_name="t", stage=stage, fingerprint=fingerprint, parents={}, content=content
    )
    return open_artifact(folder)


def _part(folder: Location, table: pa.Table, split: str) -> PartContent:
    part_folder = folder / f"data/{split}/0"
    record = write_shard(part_folder / "0000000.parquet", [table], table.num_rows, lambda rows: 1)
    write_index(part_folder, [record])
    return PartContent(
        source="x",
        folder=f"data/{split}/0",
        weight=1.0,
        rows=table.num_rows,
        tokens=1,
        documents=1,
        num_bytes=1,
        shards=1,
        shard_bytes=record.bytes,
        row_bytes=8.0,
        rows_per_shard=table.num_rows,
        rows_per_block=table.num_rows,
    )
