"""What `prepare` costs on a whole corpus, from the command to the artifact: when each phase ended,
the rate at which rows are made beside that of the tokenizers library alone, CPU and the peak of
memory.

The texts are JSON lines with a `text`, or a folder of plain files. With `--copies N` the corpus is
written N times, each document behind a line that makes it another one. With `--sizes 10 1000` it is
that of so many MB, once after the other: does memory grow? It is the sum of the proportional set
sizes of the command and all that it started, in which Ray's object store is counted once, asked
four times a second; the most that each kind of process took is told too.

The first item is there when its summary is. By default the command starts a Ray of its own. With
`--warm` it is given one that runs and has prepared something, as `raymodel submit` finds it; CPU
and memory are then those of the command alone.

`python benchmarks/prepare_corpus.py PATH… [--copies N] [--most-mb MB | --sizes MB MB…] [--warm]`
"""

import argparse
import itertools
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path

import yaml
from tokenizers import Tokenizer
from watched import Watched

from raymodel.testing.nodes import Nodes

FILE_BYTES = 32 * 2**20
_KINDS_SHOWN = 6
_WARMING_BYTES = 1e6


def texts_of(path: Path) -> Iterator[str]:
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            yield file.read_text(errors="replace")
    else:
        for line in path.open(encoding="utf-8"):
            yield json.loads(line)["text"]


def write_corpus(paths: Sequence[Path], folder: Path, copies: int, most_bytes: float) -> int:
    """Writes JSON lines in files of some size. Returns the bytes of the texts."""
    folder.mkdir()
    files, total, left = itertools.count(), 0, 0
    with ExitStack() as stack:
        for text in _salted(paths, copies):
            if left <= 0:
                stack.close()
                place = folder / f"{next(files):05d}.jsonl"
                out, left = stack.enter_context(place.open("wb")), FILE_BYTES
            line = json.dumps({"text": text}, ensure_ascii=False).encode(errors="replace")
            left -= out.write(line + b"\n")
            total += len(text.encode(errors="replace"))
            if total >= most_bytes:
                break
    return total


def _salted(paths: Sequence[Path], copies: int) -> Iterator[str]:
    for copy in range(copies):
        for path in paths:
            for text in texts_of(path):
                yield f"{copy}\n{text}" if copies > 1 else text


def job_of(corpus: Path, storage: Path) -> dict[str, object]:
    return {
        "name": "corpus",
        "storage": str(storage),
        "prepare": {
            "sources": [{"path": str(corpus), "format": "jsonl"}],
            "tokenizer": {"vocab_size": 16_000},
            "sequence_length": 1024,
        },
    }


class Run(Watched):
    """One `prepare` by the command, which ends when its rows are there.

    Attributes:
        ended_s: when each phase ended, in seconds since the command was started.
        dataset: its manifest.
    """

    def __init__(self, job: Path, storage: Path, nodes: Nodes | None) -> None:
        self.ended_s: dict[str, float] = {}
        self._storage, self._began = storage, time.time()
        command = [sys.executable, "-m", "raymodel", "run", str(job)]
        if nodes is None:
            super().__init__(command, self._note, self._look_for_item)
        else:
            command += ["--address", nodes.address]
            super().__init__(command, self._note, self._look_for_item, nodes.environment)
        self.ended_s["all"] = self.seconds
        [self.dataset] = (storage / "corpus" / "prepare").glob("*/manifest.json")

    def _note(self, line: str, seconds: float) -> None:
        if phase := _PHASES.get(line.split(" ")[0]):
            self.ended_s.setdefault(phase, seconds)

    def _look_for_item(self) -> None:
        if "first item" in self.ended_s:
            return
        with suppress(FileNotFoundError):  # what is deleted meanwhile
            found = self._storage.glob("corpus/prepare/*/work/read/*.json")
            if times := [file.stat().st_mtime for file in found]:
                self.ended_s["first item"] = min(times) - self._began


# By the first word of the line that ends the phase.
_PHASES = {"reading": "start", "trained": "tokenizer trained", "read": "rows written"}


def alone(tokenizer: Path, corpus: Path, most_bytes: int = 40_000_000) -> float:
    """Bytes a second of the library's own batches, on all cores."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    encoder, done, spent_s = Tokenizer.from_file(str(tokenizer)), 0, 0.0
    lines = (line for file in sorted(corpus.iterdir()) for line in file.open(encoding="utf-8"))
    texts = (json.loads(line)["text"] for line in lines)
    while done < most_bytes and (batch := [*itertools.islice(texts, 1000)]):
        before = time.monotonic()
        encoder.encode_batch_fast(batch)
        spent_s += time.monotonic() - before
        done += sum(len(text.encode()) for text in batch)
    return done / spent_s


def prepare(
    paths: Sequence[Path], copies: int, most_bytes: float, folder: Path, nodes: Nodes | None
) -> tuple[int, Run]:
    """Prepares a corpus of some size; the bytes of its texts, and what it took."""
    folder.mkdir()
    size = write_corpus(paths, folder / "corpus", copies, most_bytes)
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(job_of(folder / "corpus", folder / "runs")))
    return size, Run(job, folder / "runs", nodes)


def measure(
    paths: Sequence[Path], copies: int, most_bytes: float, folder: Path, nodes: Nodes | None
) -> Run:
    """Prepares a corpus of some size and tells what it took."""
    size, run = prepare(paths, copies, most_bytes, folder, nodes)
    print(
        f"{size / 1e6:.1f} MB of text, {run.cpu_s:.1f} s of CPU, peak of memory "
        f"{run.peak_bytes / 2**20:,.0f} MiB"
    )
    for phase, seconds in sorted(run.ended_s.items(), key=lambda item: item[1]):
        print(f"  {phase:<18} after {seconds:6.1f} s")
    for name, most in sorted(run.peaks.items(), key=lambda item: -item[1])[:_KINDS_SHOWN]:
        print(f"  {name:<24} {most / 2**20:6,.0f} MiB at the most")
    spent = run.ended_s["rows written"] - run.ended_s["tokenizer trained"]
    [tokenizer] = run.dataset.parent.rglob("tokenizer.json")
    rate = alone(tokenizer, folder / "corpus")
    print(
        f"  rows: {size / spent / 1e6:.2f} MB/s (tokenise, pack, write); tokenizers alone: "
        f"{rate / 1e6:.2f} MB/s; ratio {size / spent / rate:.2f}"
    )
    return run


def copies_for(paths: Sequence[Path], most_bytes: float) -> int:
    """How often the texts are to be written to be so many; two at the least, so that all sizes have
    documents of one form."""
    size = sum(len(text.encode(errors="replace")) for path in paths for text in texts_of(path))
    return max(2, math.ceil(most_bytes / size))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("path", type=Path, nargs="+")
    parser.add_argument("--copies", type=int, default=1)
    of_size = parser.add_mutually_exclusive_group()
    of_size.add_argument(
        "--most-mb", type=float, default=float("inf"), help="of text, all copies together"
    )
    of_size.add_argument("--sizes", type=float, nargs="+", metavar="MB", help="of text, each")
    parser.add_argument("--warm", action="store_true", help="on a Ray that runs already")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as temporary,
        Nodes() if asked.warm else nullcontext() as nodes,
    ):
        if nodes is not None:
            nodes.add(os.cpu_count() or 1)
            prepare(asked.path, 1, _WARMING_BYTES, Path(temporary) / "before", nodes)
        if not asked.sizes:
            most = asked.most_mb * 1e6
            measure(asked.path, asked.copies, most, Path(temporary) / "one", nodes)
            return
        peaks = dict[float, int]()
        for megabytes in asked.sizes:
            folder = Path(temporary) / f"{megabytes:g}"
            copies = copies_for(asked.path, megabytes * 1e6)
            run = measure(asked.path, copies, megabytes * 1e6, folder, nodes)
            peaks[megabytes] = run.peak_bytes
            shutil.rmtree(folder)
        first, *others = peaks.items()
        for megabytes, peak in others:
            print(f"memory of {megabytes:g} MB ÷ {first[0]:g} MB: {peak / first[1]:.2f}")


if __name__ == "__main__":
    main()
