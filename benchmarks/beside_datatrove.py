"""A whole pipeline beside datatrove's, over the same text on the same two cores: read, Gopher's
rules of repetition and quality, C4's, near-duplicates by MinHash of as many bands and rows, tokens
of the same tokenizer.

datatrove has an environment of its own (`pip install datatrove spacy orjson tokenizers nltk`;
its words and sentences in English are spaCy's, which needs no model for that), whose Python
`--datatrove-python` names. What each keeps is told, since it is not the same: to spaCy punctuation
is words, and on technical text datatrove kept a tenth of what is kept here, and had as little to
compare and to encode. The ratios mean something where both keep about as much. Ours begins with a
Ray of its own, which is most of it where there is little text, and splits off no holdout; what both
have to start with, files of JSON lines and a tokenizer, is made before.

`python benchmarks/beside_datatrove.py PATH… --datatrove-python PYTHON [--most-mb MB]`
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from prepare_corpus import texts_of
from watched import Watched

from raymodel.data.dedup.plan import plan_bands
from raymodel.modality.text import train_tokenizer

CORES = 2
THRESHOLD, NGRAM = 0.8, 5
STEPS = ["repetition", "gopher", {"name": "c4", "min_line_words": 3, "min_sentences": 5}]
"""With the bounds of datatrove, which are not the paper's."""
SAMPLE_CHARS = 10_000_000


def write_corpus(paths: Sequence[Path], folder: Path, most_bytes: float) -> list[str]:
    """As many files as workers, since datatrove cuts none; documents in turn. Returns the texts."""
    folder.mkdir()
    texts, size = list[str](), 0
    files = [(folder / f"{number}.jsonl").open("wb") for number in range(CORES)]
    for text in (unwrapped(text) for path in paths for text in texts_of(path)):
        line = json.dumps({"text": text, "id": str(len(texts))}, ensure_ascii=False)
        size += files[len(texts) % CORES].write(line.encode() + b"\n")
        texts.append(text)
        if size >= most_bytes:
            break
    for file in files:
        file.close()
    return texts


def unwrapped(text: str) -> str:
    """Each paragraph in one line, as on pages of the web: C4 takes lines for paragraphs."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def sample_of(texts: Sequence[str]) -> list[str]:
    """Documents from all of the corpus."""
    step = 1 + sum(map(len, texts)) // SAMPLE_CHARS
    return [*texts[::step]]


def job_of(corpus: Path, tokenizer: Path, storage: Path) -> dict[str, Any]:
    return {
        "name": "beside",
        "storage": str(storage),
        "prepare": {
            "sources": [{"path": str(corpus), "format": "jsonl"}],
            "tokenizer": {"load": str(tokenizer)},
            "sequence_length": 1024,
            "holdout": 0,
            "clean": {
                "steps": STEPS,
                "dedup": {"name": "near", "threshold": THRESHOLD, "ngram": NGRAM},
            },
        },
    }


def run_ours(folder: Path, corpus: Path, tokenizer: Path) -> tuple[Watched, dict[str, int]]:
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(job_of(corpus, tokenizer, folder / "runs")))
    run = Watched([sys.executable, "-m", "raymodel", "run", str(job)])
    [manifest] = (folder / "runs" / "beside" / "prepare").glob("*/manifest.json")
    content = json.loads(manifest.read_text())["content"]
    by_step = sum(n for why, n in content["left_out"].items() if why != "near-duplicate")
    documents = sum(split["documents"] for split in content["splits"].values())
    filtered = content["read"] - by_step
    return run, {"filtered": filtered, "documents": documents, "tokens": content["tokens"]}


def run_theirs(
    python: Path, folder: Path, corpus: Path, tokenizer: Path
) -> tuple[Watched, dict[str, int]]:
    plan, out = plan_bands(THRESHOLD), folder / "datatrove"
    options = {"bands": plan.bands, "rows": plan.rows, "ngram": NGRAM, "workers": CORES}
    script = Path(__file__).with_name("datatrove_job.py")
    places = [str(each) for each in (script, corpus, out, tokenizer / "tokenizer.json")]
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    run = Watched([str(python), *places, *flags])
    return run, json.loads((out / "found.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("path", type=Path, nargs="+", help="JSON lines with a `text`, or a folder")
    parser.add_argument("--datatrove-python", type=Path, required=True)
    parser.add_argument("--most-mb", type=float, default=20, help="of text")
    asked = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process a core, on both sides
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        corpus, tokenizer = folder / "corpus", folder / "tokenizer"
        texts = write_corpus(asked.path, corpus, asked.most_mb * 1e6)
        train_tokenizer(sample_of(texts), 16_000).save_pretrained(tokenizer)
        size = sum(len(text.encode()) for text in texts)
        print(f"{len(texts):,} documents, {size / 1e6:.1f} MB of text")
        sides = {
            "raymodel": run_ours(folder, corpus, tokenizer),
            "datatrove": run_theirs(asked.datatrove_python, folder, corpus, tokenizer),
        }
        for name, (run, found) in sides.items():
            print(
                f"  {name:<10} {run.seconds:6.1f} s, {run.cpu_s:6.1f} s of CPU, peak "
                f"{run.peak_bytes / 2**20:,.0f} MiB; {found['filtered']:,} documents after the "
                f"filters, {found['documents']:,} without near-duplicates, "
                f"{found['tokens']:,} tokens"
            )
        (ours, _), (theirs, _) = sides.values()
        print(
            f"  datatrove ÷ raymodel: {theirs.seconds / ours.seconds:.2f} of the seconds, "
            f"{theirs.cpu_s / ours.cpu_s:.2f} of the CPU"
        )


if __name__ == "__main__":
    main()
