"""How fast a step is found in a corpus of 10^6 shards, and how well the order mixes.

    python benchmarks/data_order.py

Needs no data: the corpus is a manifest. The quality of mixing is measured against numpy's full
permutation of the same rows, for the order as shipped (windows of 256 blocks).
"""

from __future__ import annotations

import resource
import time

import numpy as np

from raymodel.data.order import Order, Part
from raymodel.data.plan import WINDOW_BLOCKS, plan_shards
from raymodel.data.shard import dataset_of
from raymodel.data.shard_format import PartContent
from raymodel.storage.uri import Location

SHARDS = 10**6
SEQUENCE_LENGTH = 4096  # 8 KiB a row in two bytes a token
STEP = 10**6
GLOBAL_BATCH = 1024


def main() -> None:
    seek()
    print()
    for global_batch in (32, 256, 2048):
        mixing(global_batch)


def seek() -> None:
    """Opens a dataset of 10^6 shards and asks for the rows of step 10^6."""
    content = _manifest()
    before = _peak_mib()
    started = time.perf_counter()
    dataset = dataset_of(Location.parse("s3://bucket/corpus"), content, "train")
    order = dataset.order(seed=7, global_batch=GLOBAL_BATCH)
    order.rows(STEP)
    first_s = time.perf_counter() - started
    started = time.perf_counter()
    for step in range(STEP, STEP + 100):
        order.rows(step)
    step_ms = (time.perf_counter() - started) * 10
    print(
        f"{SHARDS:,} shards, {dataset.num_rows:,} rows: open and seek to step {STEP:,} in "
        f"{first_s * 1000:.1f} ms, then {step_ms:.2f} ms for the {GLOBAL_BATCH:,} rows of a step; "
        f"peak memory + {_peak_mib() - before:.1f} MiB"
    )


def _manifest() -> dict[str, object]:
    plan = plan_shards(10**12, SEQUENCE_LENGTH * 2.0)
    rows = plan.rows_per_shard * SHARDS
    counts = {"rows": rows, "tokens": rows * SEQUENCE_LENGTH, "documents": rows, "num_bytes": rows}
    part = PartContent(
        source="synthetic",
        folder="data/train/part-000",
        weight=1.0,
        **counts,
        shards=SHARDS,
        shard_bytes=0,
        row_bytes=SEQUENCE_LENGTH * 2.0,
        rows_per_shard=plan.rows_per_shard,
        rows_per_block=plan.rows_per_block,
    )
    return {
        "splits": {"train": {"parts": [vars(part)]}},
        "sequence_length": SEQUENCE_LENGTH,
        "processor": {"folder": "data/processor"},
        "labels": [],
    }


def mixing(global_batch: int) -> None:
    """One epoch of 2^20 rows in 32-row blocks (32,768 blocks, 128 windows) against a shuffle.

    Columns: mean distance that a row moves, over the number of rows (a full shuffle: 1/3);
    correlation of neighbouring rows' places in the corpus (0); distinct blocks in a global batch;
    spread of the batches' mean place, over that of a full shuffle's batches (1).
    """
    rows = 2**20
    order = Order([Part(rows, 32)], seed=7, global_batch=global_batch)
    ours = np.concatenate([order.rows(step) for step in range(rows // global_batch)])
    shuffled = np.random.default_rng(7).permutation(rows)
    reference = shuffled.reshape(-1, global_batch).mean(axis=1).std()
    for name, stream in (("order", ours), ("full shuffle", shuffled)):
        batches = stream.reshape(-1, global_batch)
        blocks = np.mean([len(np.unique(batch // 32)) for batch in batches[:200]])
        print(
            f"global batch {global_batch:>5}  {name:<12}  "
            f"displacement {np.abs(stream - np.arange(rows)).mean() / rows:.4f}  "
            f"neighbour correlation {np.corrcoef(stream[:-1], stream[1:])[0, 1]:+.4f}  "
            f"blocks in a batch {blocks:7.1f}  "
            f"spread of batch means {batches.mean(axis=1).std() / reference:.2f}"
        )
    assert len(np.unique(ours)) == rows, "an epoch visits each row once"
    assert order.window_blocks == WINDOW_BLOCKS


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
