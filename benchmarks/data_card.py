"""What the data card costs: reading and making rows of the standard library, with it and without,
in turns in one process; of whole modules, and of their lines as documents of their own, of which
there are a hundred times as many.

CPU seconds of each pair of neighbouring turns are compared, and the median of their ratios is told
with its quarters; the seconds are those of the quickest turn.

`python benchmarks/data_card.py`
"""

import argparse
import json
import sysconfig
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import quantiles

from raymodel.data import read_step, steps
from raymodel.data.card.profile import Profile
from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.rows import RowKind
from raymodel.data.spec import CleanSpec, SourceSpec, TokenizerSpec
from raymodel.data.step import Step, complete_item, missing_items
from raymodel.storage.uri import Location

PAIRS, LINES = 5, 80_000
MEASURED = ("read", "rows")


class NoProfile(Profile):
    """Looks at nothing."""

    def add_found(self, *given: object) -> None:
        pass

    def add_rows(self, *given: object) -> None:
        pass


def turn(recipe: Recipe, kind: type[Profile]) -> dict[str, float]:
    """CPU seconds of each step."""
    took = {}

    def execute(step: Step) -> None:
        start = time.process_time()
        for item in missing_items(step):
            complete_item(step, item)
        took[step.name] = time.process_time() - start

    read_step.Profile = steps.Profile = kind  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        prepare_dataset(recipe, Location.parse(folder), execute, lambda text: None)
    return took


def turns(recipe: Recipe, number: int) -> tuple[dict[str, float], dict[str, float]]:
    """With the card and without; every other pair begins with the other side."""
    kinds = [Profile, NoProfile] if number % 2 else [NoProfile, Profile]
    took = {kind: turn(recipe, kind) for kind in kinds}
    return took[Profile], took[NoProfile]


def measure(source: SourceSpec, folder: Path, pairs: int) -> None:
    recipe = Recipe(
        sources=(source,),
        clean=CleanSpec(),
        holdout=0.01,
        seed=1,
        kind=RowKind(length=512),
        processor=TokenizerSpec(vocab_size=4096, sample_chars=1_000_000),
    )
    made = Location.parse(str(folder / "first"))

    def execute(step: Step) -> None:
        for item in missing_items(step):
            complete_item(step, item)

    prepare_dataset(recipe, made, execute, print)
    told = replace(recipe, processor=made / "data/processor")
    found = [turns(told, number) for number in range(pairs)]
    for name in MEASURED:
        first, median, third = quantiles([a[name] / b[name] for a, b in found], n=4)
        with_s, without_s = (min(pair[side][name] for pair in found) for side in (0, 1))
        print(
            f"{name}: {with_s:.2f} s with the card, {without_s:.2f} s without; ratio "
            f"{median:.3f} ({first:.3f} to {third:.3f})",
            flush=True,
        )
    made.delete_tree()


def write_lines(file: Path) -> SourceSpec:
    """Each line of the standard library as a document, with an address."""
    folder = Path(sysconfig.get_path("stdlib"))
    lines = [
        {"text": line, "url": f"https://{path.stem}.example/{number}"}
        for path in sorted(folder.glob("*.py"))
        for number, line in enumerate(path.read_text("utf-8").splitlines())
        if line.strip()
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines[:LINES]))
    return SourceSpec(path=str(file), format="jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print("modules:")
        measure(SourceSpec(path="python:stdlib"), Path(folder), arguments.pairs)
        print("lines:")
        measure(write_lines(Path(folder) / "lines.jsonl"), Path(folder), arguments.pairs)


if __name__ == "__main__":
    main()
