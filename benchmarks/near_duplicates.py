"""Near-duplicates: which of those that are planted are found, how fast, and what 10^9 would take.

Copies of real texts with 5 to 20 % of their words changed (replaced, dropped or others put in, each
as often) are planted behind them. Recall is the share of the copies that are dropped. A document
is dropped rightly when it is a copy, or is as near to an earlier one as the threshold says: real
texts have near-duplicates of their own, which an exact comparison of all pairs finds.

`python benchmarks/near_duplicates.py [FOLDER]` takes the documented functions of the standard
library, or the text files of a folder. `--keys 10000000` compares as many synthetic documents of
one band, in as many buckets as `prepare` would take, and tells time, peak memory and spilled bytes.
"""

import argparse
import ast
import random
import re
import resource
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from raymodel.data.dedup.likeness import TextLikeness
from raymodel.data.dedup.minhash import SKETCH_WORDS, band_keys, signatures, sketches
from raymodel.data.dedup.near import find_near, record_type
from raymodel.data.dedup.plan import BandPlan, plan_bands, plan_near_buckets
from raymodel.data.dedup.spill import read_spills, write_spill
from raymodel.data.dedup.words import batches, runs_of, words_of
from raymodel.storage.uri import Location
from raymodel.tasks.fields import PLAIN_TEXT

RECORD = record_type(SKETCH_WORDS, is_labelled=False)
MIN_WORDS = 30
EDITS = (0.05, 0.20)
SETTINGS = ((0.8, 5), (0.5, 3), (0.4, 2), (0.35, 2))
NEAR_SHARE = 0.2
PARTITIONS = 16


def docstrings() -> Iterator[str]:
    """Of the modules, classes and functions of the standard library."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for file in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if {"site-packages", "test", "tests", "idle_test"} & {*file.parts}:
            continue
        try:
            tree = ast.parse(file.read_text())
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield text


def texts_of(folder: str | None) -> list[str]:
    files = sorted(Path(folder).rglob("*")) if folder else ()
    texts = (
        (f.read_text(errors="replace") for f in files if f.is_file()) if folder else docstrings()
    )
    return [*dict.fromkeys(text for text in texts if len(text.split()) >= MIN_WORDS)]


def edited(text: str, vocabulary: list[str], draw: random.Random) -> str:
    """A copy with a share of its words changed; what is between words stays."""
    share, parts = draw.uniform(*EDITS), re.split(r"(\s+)", text)
    for i in range(0, len(parts), 2):
        if draw.random() < share:
            other = draw.choice(vocabulary)
            parts[i] = draw.choice([other, "", f"{parts[i]} {other}"])
    return "".join(parts)


def exact(texts: list[str], ngram: int) -> csr_matrix:
    """The similarity of all pairs that have anything in common."""
    runs = runs_of(words_of(texts), ngram, short=True)
    _, columns = np.unique(runs.hashes, return_inverse=True)
    has = csr_matrix((np.ones(len(columns)), columns, runs.bounds))
    has.sum_duplicates()
    has.data[:] = 1
    common = (has @ has.T).tocoo()
    sizes = np.asarray(has.sum(axis=1)).ravel()
    common.data /= sizes[common.row] + sizes[common.col] - common.data
    return common.tocsr()


def dropped(texts: list[str], threshold: float, ngram: int) -> tuple[set[int], float]:
    """Which documents are dropped, and the seconds of this process that took."""
    plan, started = plan_bands(threshold), time.process_time()
    documents = [[text] for text in texts]
    minima = np.concatenate([signatures(documents[part], ngram) for part in batches(documents)])
    keys, records = band_keys(minima, plan), np.zeros(len(texts), RECORD)
    records["index"], records["sketch"] = np.arange(len(texts)), sketches(minima, 1)
    likeness, found = near_at(threshold, ngram), set[int]()
    for band in range(plan.bands):
        records["key"] = keys[:, band]
        found.update(find_near(records, likeness.are_near).duplicates["index"].tolist())
    return found, time.process_time() - started


def near_at(threshold: float, ngram: int) -> TextLikeness:
    return TextLikeness(fields=PLAIN_TEXT, threshold=threshold, ngram=ngram)


def planted(texts: list[str]) -> None:
    """Recall, precision and speed at several settings."""
    draw, vocabulary = random.Random(0), sorted({word for text in texts for word in text.split()})
    whole = [*texts, *(edited(text, vocabulary, draw) for text in texts)]
    size = sum(len(text.encode()) for text in whole)
    print(f"{len(texts):,} texts and a copy of each, {size / 1e6:.1f} MB")
    words_of(["the table of characters is made once"])
    for threshold, ngram in SETTINGS:
        likeness = exact(whole, ngram)
        found, seconds = dropped(whole, threshold, ngram)
        copies = np.arange(len(texts), len(whole))
        own = np.asarray(likeness[copies - len(texts), copies]).ravel()
        has = np.array([copy in found for copy in copies])
        pairs = likeness.tocoo()
        near = set(pairs.col[(pairs.row < pairs.col) & (pairs.data >= threshold)].tolist())
        wrong = {each for each in found if each < len(texts)} - near
        at = own >= threshold
        print(
            f"threshold {threshold:.2f}, ngram {ngram}: recall {has.mean():.3f} of the copies, "
            f"{has[at].mean():.3f} of the {at.mean():.0%} that are as near; precision "
            f"{1 - len(wrong) / len(found):.3f} ({len(found):,} dropped, "
            f"{sum(each < len(texts) for each in found):,} of them no copies); "
            f"{len(whole) / seconds:,.0f} documents/s, {size / seconds / 1e6:.1f} MB/s"
        )


def synthetic(num_keys: int, plan: BandPlan) -> None:
    """One band of so many documents, of which some are near to another, spilled and compared."""
    buckets = plan_near_buckets(num_keys)
    with tempfile.TemporaryDirectory() as folder:
        place, spill_s, bytes_spilled = Location.parse(folder), 0.0, 0
        is_there = np.zeros(num_keys, dtype=bool)
        for partition in range(PARTITIONS):
            ids, records = synthetic_records(partition, num_keys // PARTITIONS)
            is_there[ids] = True
            started = time.perf_counter()
            bucket_of = (records["key"] % np.uint64(buckets)).astype(np.int64)
            write_spill(place / f"{partition}.bin", records, bucket_of, buckets)
            spill_s += time.perf_counter() - started
            bytes_spilled += (place / f"{partition}.bin").size()
        after_spill, started, duplicates = peak_bytes(), time.perf_counter(), 0
        for bucket in range(buckets):
            places = [place / f"{partition}.bin" for partition in range(PARTITIONS)]
            records = read_spills(places, bucket, buckets, RECORD)
            duplicates += len(find_near(records, near_at(0.8, 5).are_near).duplicates)
        compare_s = time.perf_counter() - started
    print(
        f"one band of {num_keys:,} keys in {buckets} buckets: spilled {bytes_spilled / 1e9:.2f} GB "
        f"in {spill_s:.1f} s, read and compared in {compare_s:.1f} s "
        f"({num_keys / compare_s / 1e6:.2f} M keys/s), {duplicates:,} near-duplicates of "
        f"{num_keys // PARTITIONS * PARTITIONS - int(is_there.sum()):,} planted, peak memory "
        f"{peak_bytes() / 2**20:,.0f} MiB ({after_spill / 2**20:,.0f} before comparing)"
    )
    hours = (spill_s + compare_s) / num_keys * 1e9 * plan.bands / 3600
    print(
        f"10^9 documents, {plan.bands} bands: {hours:.1f} hours of one core, "
        f"{bytes_spilled / num_keys * 1e9 * plan.bands / 1e12:.2f} TB spilled"
    )


def synthetic_records(partition: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A fifth of the keys is that of another document, in any partition, with a sketch like it.

    Returns: what each key is made of, (n,), and the records.
    """
    draw, records = np.random.default_rng(partition), np.zeros(count, RECORD)
    ids = np.arange(count, dtype=np.uint64) + np.uint64(partition * count)
    is_copy = draw.random(count) < NEAR_SHARE
    ids[is_copy] = draw.integers(PARTITIONS * count, size=int(is_copy.sum()), dtype=np.uint64)
    with np.errstate(over="ignore"):
        records["key"] = ids * np.uint64(0x9E3779B97F4A7C15)
        for word in range(SKETCH_WORDS):
            records["sketch"][:, word] = records["key"] * np.uint64(2 * word + 3)
    records["partition"], records["index"] = partition, np.arange(count)
    return ids, records


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", help="of text files; by default the standard library")
    parser.add_argument("--keys", type=int, help="compare as many synthetic documents instead")
    asked = parser.parse_args()
    if asked.keys:
        synthetic(asked.keys, plan_bands(0.8))
    else:
        planted(texts_of(asked.folder))


if __name__ == "__main__":
    main()
