"""Pairs through preparing: what is left out, and what the base makes of the rest, in each row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled import write_records  # type: ignore[import-not-found]

from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.references import AskedBase
from raymodel.data.rows import RowKind
from raymodel.data.shard import dataset_of
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.data.step import Step, complete_item, missing_items
from raymodel.modality.text import TextProcessor
from raymodel.storage.uri import Location
from raymodel.tasks.spec.language import PreferenceSpec
from raymodel.testing.tiny import build_tiny_llama, train_tiny_tokenizer

Execute = Callable[[Step], None]
WORDS = ["red", "blue", "green", "fish", "tree", "sea", "rose", "stone", "cloud", "river"]


def pair(index: int) -> dict[str, str]:
    turn = [WORDS[(index * k + k) % len(WORDS)] for k in range(1, 4 + index % 5)]
    return {"q": f"{index}?", "good": " ".join(turn), "bad": " ".join(reversed(turn)) + " no"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Location:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("base")
    build_tiny_llama(seed=1).save_pretrained(folder)
    train_tiny_tokenizer([" ".join(WORDS)]).save_pretrained(folder)
    return Location.parse(str(folder))


@pytest.fixture
def recipe(tmp_path: Path, base: Location) -> Recipe:
    """40 pairs of two files, and three that teach nothing."""
    wrong = [pair(1) | {"bad": pair(1)["good"]}, pair(2) | {"good": " "}, pair(3) | {"bad": ""}]
    files = {"a": [*map(pair, range(25)), *wrong], "b": [*map(pair, range(25, 40))]}
    sources = tuple(
        SourceSpec(
            path=write_records(tmp_path / f"{name}.jsonl", records),
            format="jsonl",
            fields={"prompt": "{q}", "chosen": "{good}", "rejected": "{bad}"},
        )
        for name, records in files.items()
    )
    return Recipe(
        sources=sources,
        clean=CleanSpec(),
        holdout=0.2,
        seed=7,
        kind=RowKind(task=PreferenceSpec(), length=64),
        processor=base,
        base=AskedBase(folder=base, precision="fp32"),
    )


@pytest.fixture(autouse=True)
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymodel.data.references.READ_BY_BASE_ROWS", 6)


def rows_of(place: Location, content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for split in ("train", "holdout"):
        data = dataset_of(place, content, split)
        yield from data.read(np.arange(data.num_rows)).to_pylist()


def test_every_pair_is_beside_what_the_base_makes_of_it(
    recipe: Recipe, place: Location, base: Location, execute: Execute
) -> None:
    said: list[str] = []
    content = prepare_dataset(recipe, place, execute, said.append)
    assert content["left_out"] == {
        "pair whose sides are equal": 1,
        "pair whose chosen side is empty": 1,
        "pair whose rejected side is empty": 1,
    }
    assert "the base has read 40 examples" in said
    model, seen = build_tiny_llama(seed=1).eval(), set()
    tokenizer = TextProcessor.load(base).tokenizer
    for row in rows_of(place, content):
        length = row["prompt_length"]
        seen.add(tokenizer.decode(row["chosen_ids"][:length]))
        for side in ("chosen", "rejected"):
            ids = row[f"{side}_ids"]
            with torch.no_grad():
                log_probs = model(torch.tensor([ids])).logits[0].log_softmax(1)
            alone = sum(float(log_probs[at - 1, ids[at]]) for at in range(length, len(ids)))
            assert row[f"{side}_reference"] == pytest.approx(alone, rel=1e-5)
    assert seen == {f"{index}?" for index in range(40)}
    assert content["tokens"] == sum(
        len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows_of(place, content)
    )


def test_an_interrupted_asking_goes_on_with_what_is_missing(
    recipe: Recipe, tmp_path: Path, execute: Execute
) -> None:
    class PowerCut(Exception):
        pass

    def break_down(step: Step) -> None:
        for item in missing_items(step):
            if step.name == "references" and item == 3:
                raise PowerCut
            complete_item(step, item)

    asked: list[int] = []

    def go_on(step: Step) -> None:
        asked.extend(missing_items(step) if step.name == "references" else [])
        execute(step)

    places = [Location.parse(str(tmp_path / name)) for name in ("whole", "broken")]
    whole = prepare_dataset(recipe, places[0], execute, lambda text: None)
    with pytest.raises(PowerCut):
        prepare_dataset(recipe, places[1], break_down, lambda text: None)
    broken = prepare_dataset(recipe, places[1], go_on, lambda text: None)
    assert asked[0] == 3
    assert list(rows_of(places[1], broken)) == list(rows_of(places[0], whole))


def test_without_a_reference_the_base_is_not_asked(
    recipe: Recipe, place: Location, execute: Execute
) -> None:
    free = RowKind(task=PreferenceSpec(reference="none"), length=64)
    steps: list[str] = []

    def watch(step: Step) -> None:
        steps.append(step.name)
        execute(step)

    content = prepare_dataset(replace(recipe, kind=free, base=None), place, watch, print)
    assert "references" not in steps
    assert set(next(rows_of(place, content))) == {"chosen_ids", "rejected_ids", "prompt_length"}
