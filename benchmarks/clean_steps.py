"""What each cleaning step costs in one process: documents and megabytes a second, each step alone
and those of a pipeline for web pages one after the other, and how much of the text it leaves out.

Two corpora, of long documents and of short ones: the files of Python's standard library, and the
docstrings in them. The steps take turns for `--rounds`, and the median of the rounds is told, in
seconds of this process, so that a busy machine disturbs all alike and little.

`python benchmarks/clean_steps.py [--source PATH] [--format text|jsonl|…] [--rounds N]`
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from raymodel.data.account import Account
from raymodel.data.cleaning.cleaner import Cleaner
from raymodel.data.read import read_slice, slice_files
from raymodel.data.sources import resolve_source
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.tasks.template import RecordError

STEPS: dict[str, list[Any]] = {
    "unicode": ["unicode"],
    "language": [{"name": "language", "languages": ["en"]}],
    "gopher": ["gopher"],
    "repetition": ["repetition"],
    "c4": ["c4"],
    "fineweb": ["fineweb"],
    "words": [{"name": "words", "words": [f"word{i} of it" for i in range(10_000)]}],
    "pii": ["pii"],
}
PIPELINE = [step for steps in STEPS.values() for step in steps]
MOST_BYTES = 4_000_000
PARTITION_BYTES = 64 * 2**20


def texts_of(source: SourceSpec, field: str) -> Iterator[str]:
    files, account, left = resolve_source(source), Account(), MOST_BYTES
    for partition in slice_files(files, source, PARTITION_BYTES):
        for piece in partition:
            for record in read_slice(files.root, piece, source, account):
                text = record.fields[field]
                yield text
                left -= len(text.encode())
                if left <= 0:
                    return


def cost(steps: list[Any], texts: Sequence[str]) -> tuple[float, int]:
    """Seconds, and documents that are left out."""
    cleaner, left_out = Cleaner(CleanSpec.model_validate({"steps": steps})), 0
    before = time.process_time()
    for text in texts:
        try:
            cleaner.clean([text])
        except RecordError:
            left_out += 1
    return time.process_time() - before, left_out


def tell(title: str, texts: Sequence[str], rounds: int) -> None:
    num_bytes = sum(len(text.encode()) for text in texts)
    mean = num_bytes / len(texts)
    print(f"{title}: {len(texts):,} documents of {mean:,.0f} bytes, {num_bytes / 1e6:.1f} MB")
    jobs = STEPS | {"all of them": PIPELINE}
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, steps in jobs.items():
            found[name].append(cost(steps, texts))
    for name, costs in found.items():
        seconds, left_out = median(s for s, _ in costs), costs[0][1] / len(texts)
        rates = f"{len(texts) / seconds:>10,.0f} docs/s {num_bytes / 1e6 / seconds:>8.1f} MB/s"
        print(f"  {name:<12}{rates}   leaves out {left_out:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", help="documents of one's own, in place of both corpora")
    parser.add_argument("--format", default="text", help="of the source")
    parser.add_argument("--field", default="text", help="that holds the text")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.source:
        source = SourceSpec(path=given.source, format=given.format)
        tell(given.source, list(texts_of(source, given.field)), given.rounds)
        return
    files = SourceSpec(path="python:stdlib")
    tell("files of the standard library", list(texts_of(files, "text")), given.rounds)
    functions = SourceSpec(path="python:stdlib", format="python_functions")
    tell("docstrings in them", list(texts_of(functions, "docstring")), given.rounds)


if __name__ == "__main__":
    main()
