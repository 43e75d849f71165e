"""What `prepare` costs on a whole corpus, from the command to the artifact: when each phase ended,
the rate at which rows are made beside that of the tokenizers library alone, and the peak of memory.

The texts are JSON lines with a `text`, or a folder of plain files. With `--copies N` the corpus is
written N times, each document behind a line that makes it another one, to see whether memory grows.
Memory is the sum of the proportional set sizes of the command and all that it started (the object
store is counted once), asked each half second.

`python benchmarks/prepare_corpus.py PATH… [--copies N] [--most-mb MB]`
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import yaml
from tokenizers import Tokenizer

FILE_BYTES = 32 * 2**20


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


def memory_of(pid: int) -> int:
    """Bytes of a process and all below it."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for each in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += each.memory_full_info().pss
    return total


class Run:
    """One `prepare` by the command, which ends when its rows are there.

    Attributes:
        ended_s: when each phase ended, in seconds since the command was started.
        peak_bytes: of the memory.
    """

    def __init__(self, job: Path, storage: Path) -> None:
        self.ended_s: dict[str, float] = {}
        self.peak_bytes = 0
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "raymodel", "run", str(job)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(process.pid, over))
        watch.start()
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            phase = _PHASES.get(line.split(" ")[0])
            if phase:
                self.ended_s.setdefault(phase, time.monotonic() - began)
        code = process.wait()
        self.ended_s["all"] = time.monotonic() - began
        over.set()
        watch.join()
        if code != 0:
            raise SystemExit("".join(lines))
        [self.dataset] = (storage / "corpus" / "prepare").glob("*/manifest.json")

    def _watch(self, pid: int, over: threading.Event) -> None:
        while not over.wait(0.5):
            self.peak_bytes = max(self.peak_bytes, memory_of(pid))


# By the first word of the line that ends the phase.
_PHASES = {"reading": "start", "trained": "tokenizer trained", "read": "rows written"}


def alone(tokenizer: Path, corpus: Path, most_bytes: int = 40_000_000) -> float:
    """Bytes a second of the library's own batches, on all cores."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    encoder, done, spent_s = Tokenizer.from_file(str(tokenizer)), 0, 0.0
    batch: list[str] = []
    for file in sorted(corpus.iterdir()):
        for line in file.open(encoding="utf-8"):
            batch.append(json.loads(line)["text"])
            if len(batch) == 1000:
                before = time.monotonic()
                encoder.encode_batch_fast(batch)
                spent_s += time.monotonic() - before
                done += sum(len(text.encode()) for text in batch)
                batch = []
        if done > most_bytes:
            break
    return done / spent_s


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("path", type=Path, nargs="+")
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument(
        "--most-mb", type=float, default=float("inf"), help="of text, all copies together"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        size = write_corpus(asked.path, folder / "corpus", asked.copies, asked.most_mb * 1e6)
        job = folder / "job.yaml"
        job.write_text(yaml.safe_dump(job_of(folder / "corpus", folder / "runs")))
        run = Run(job, folder / "runs")
        print(f"{size / 1e6:.1f} MB of text, peak of memory {run.peak_bytes / 2**20:,.0f} MiB")
        for phase, seconds in run.ended_s.items():
            print(f"  {phase:<18} after {seconds:6.1f} s")
        spent = run.ended_s["rows written"] - run.ended_s["tokenizer trained"]
        [tokenizer] = run.dataset.parent.rglob("tokenizer.json")
        rate = alone(tokenizer, folder / "corpus")
        print(
            f"  rows: {size / spent / 1e6:.2f} MB/s (tokenise, pack, write); tokenizers alone: "
            f"{rate / 1e6:.2f} MB/s; ratio {size / spent / rate:.2f}"
        )


if __name__ == "__main__":
    main()
