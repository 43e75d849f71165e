"""Near-duplicates and evaluation sets, through `prepare` and `examples`: planted, and found."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled import classes, documents, labelled, texts_of, write_records
from near_texts import cut_end, edited, jaccard, text_of
from small_corpus import execute_here

from raymodel.data.clean import values_digest
from raymodel.data.dedup.drops import EMPTIED, NEAR, NEAR_OTHER_LABEL, contaminated_reason
from raymodel.data.prepare import REJECTS, Recipe, prepare_dataset
from raymodel.data.read_step import is_held_out
from raymodel.data.shard import dataset_of
from raymodel.data.sources import prepare_identity
from raymodel.data.spec import CleanSpec, PrepareSpec, SourceSpec
from raymodel.data.step import Step, complete_item, missing_items
from raymodel.errors import SourceError
from raymodel.modality.text import TextProcessor
from raymodel.storage.uri import Location

Execute = Callable[[Step], None]
NEAR_SPEC = {"name": "near", "threshold": 0.6, "ngram": 3}
PLANTED = 30


@pytest.fixture
def near_recipe(recipe: Recipe, tmp_path: Path) -> Recipe:
    """60 texts in one source; in another 30 of its own and, nearly alike, 30 of the first."""
    first = [text_of(i, words=80) for i in range(60)]
    second = [text_of(i, words=80) for i in range(100, 160)]
    second[::2] = [planted(text) for text in first[:PLANTED]]
    sources = tuple(
        SourceSpec(
            path=write_records(tmp_path / name, [{"text": t} for t in texts]), format="jsonl"
        )
        for name, texts in {"a.jsonl": first, "b.jsonl": second}.items()
    )
    return replace(recipe, sources=sources, clean=CleanSpec(dedup=NEAR_SPEC), holdout=0.3)


def write_texts(file: Path, texts: list[str]) -> str:
    return write_records(file, [{"text": text} for text in texts])


def planted(text: str) -> str:
    """The same with its end changed, in other clothes."""
    return cut_end(text, 6).upper().replace(" ", ",\n")


def files_of(place: Location) -> dict[str, bytes]:
    return {entry.name: (place / entry.name).read_bytes() for entry in place.walk()}


def decode_all(place: Location, content: dict[str, Any], split: str) -> list[str]:
    """The documents of a split, as text."""
    data = dataset_of(place, content, split)
    tokenizer = TextProcessor.load(data.processor).tokenizer
    rows = data.read(np.arange(data.num_rows))
    pairs = zip(rows["tokens"].to_pylist(), rows["length"].to_pylist(), strict=True)
    text = tokenizer.decode([token for tokens, length in pairs for token in tokens[:length]])
    return text.split(tokenizer.eos_token)[:-1]


def held_out(text: str, seed: int) -> bool:
    return is_held_out(values_digest([text]), seed, 0.3)


def test_near_duplicates_across_sources_and_sides_of_the_holdout_go_before_the_split(
    near_recipe: Recipe, place: Location, execute: Execute
) -> None:
    pairs = [(text_of(i, words=80), planted(text_of(i, words=80))) for i in range(PLANTED)]
    sides = [{held_out(text, near_recipe.seed) for text in pair} for pair in pairs]
    assert sum(len(side) == 2 for side in sides) > 5, "many pairs would be on both sides"
    said: list[str] = []
    content = prepare_dataset(near_recipe, place, execute, said.append)
    assert content["read"] == 120
    assert content["left_out"] == {NEAR: PLANTED}
    assert documents(content) == 90
    near = content["near"]
    assert (near["duplicates"], near["label_conflicts"], near["unseen"]) == (PLANTED, 0, 0)
    assert (near["threshold"], near["ngram"]) == (0.6, 3)
    assert near["recall_at_threshold"] >= 0.95
    assert any(f"{near['bands']} bands of {near['rows']}" in line for line in said)
    rejects = [json.loads(line) for line in (place / REJECTS).read_text().splitlines()]
    assert {(r["reason"], r["source"]) for r in rejects} == {(NEAR, near_recipe.sources[1].path)}
    assert len(rejects) == 5, "samples of the source that lost them"


def test_the_result_does_not_depend_on_who_does_what_in_which_order(
    near_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymodel.data.plan.MIN_PARTITION_BYTES", 4000)
    monkeypatch.setattr("raymodel.data.dedup.plan.BUCKET_RECORDS", 40)

    class PowerCut(Exception):
        pass

    left = [40]

    def in_any_order(step: Step) -> None:
        items = missing_items(step)
        for item in random.Random(len(items)).sample(items, len(items)):
            left[0] -= 1
            if not left[0]:
                raise PowerCut
            complete_item(step, item)

    def in_order(step: Step) -> None:
        for item in missing_items(step):
            complete_item(step, item)

    one, other = (Location.parse(str(tmp_path / name)) for name in ("one", "other"))
    prepare_dataset(near_recipe, one, in_order, lambda text: None)
    with pytest.raises(PowerCut):
        prepare_dataset(near_recipe, other, in_any_order, lambda text: None)
    content = prepare_dataset(near_recipe, other, in_any_order, lambda text: None)
    assert content["left_out"] == {NEAR: PLANTED}
    assert files_of(one) == files_of(other)


def test_a_source_may_lose_most_to_near_duplicates(
    recipe: Recipe, place: Location, tmp_path: Path, execute: Execute
) -> None:
    texts = [edited(text_of(1), 0.02, i) for i in range(20)]
    path = write_records(tmp_path / "d.jsonl", [{"text": text} for text in texts])
    source = SourceSpec(path=path, format="jsonl")
    one = replace(recipe, sources=(source,), clean=CleanSpec(dedup=NEAR_SPEC), holdout=0.0)
    content = prepare_dataset(one, place, execute, lambda text: None)
    assert content["left_out"][NEAR] > 15, "the job asked for it, so max_left_out does not stop"


def test_equal_texts_are_duplicates_before_they_are_near(
    recipe: Recipe, place: Location, execute: Execute
) -> None:
    one = replace(recipe, clean=CleanSpec(dedup="near"))
    content = prepare_dataset(one, place, execute, lambda text: None)
    assert content["duplicates"] == 4
    assert content["read"] == documents(content) + 4 + content["left_out"].get(NEAR, 0)


# ---- labels --------------------------------------------------------------------------------------


def test_near_texts_of_another_label_are_kept_on_one_side_and_counted(
    place: Location, tmp_path: Path, execute: Execute, tokenizer: Location
) -> None:
    records = list[dict[str, Any]]()
    for i in range(40):
        text = text_of(i, words=60)
        records += [{"text": text, "label": "x"}, {"text": cut_end(text, 4), "label": "xy"[i % 2]}]
    recipe = labelled(
        classes(write_records(tmp_path / "d.jsonl", records)),
        "text_classification",
        tokenizer,
        CleanSpec(dedup=NEAR_SPEC),
        holdout=0.3,
    )
    said: list[str] = []
    content = prepare_dataset(recipe, place, execute, said.append)
    kept, apart = content["near"]["label_conflicts"], content["left_out"][NEAR_OTHER_LABEL]
    assert content["left_out"][NEAR] == 20
    assert kept + apart == 20
    assert kept > 3 < apart
    assert documents(content) == 40 + kept
    assert any(line.startswith(f"warning: {kept} documents that are nearly") for line in said)
    begins = [
        {text[:40] for text, _ in texts_of(place, content, split)} for split in ("train", "holdout")
    ]
    assert begins[0] & begins[1] == set(), "no text is on both sides, whatever its label"


def test_questions_on_one_context_are_no_duplicates(
    place: Location, tmp_path: Path, execute: Execute, tokenizer: Location
) -> None:
    context = text_of(1, words=50)
    records = [{"q": f"{context} {context}", "a": text_of(i, words=9)} for i in range(2, 12)]
    records.append({"q": records[0]["q"] + " more", "a": records[0]["a"]})
    path = write_records(tmp_path / "d.jsonl", records)
    source = SourceSpec(path=path, format="jsonl", fields={"prompt": "{q}", "response": "{a}"})
    clean = CleanSpec(dedup=NEAR_SPEC)
    recipe = labelled(source, "causal_lm", tokenizer, clean, holdout=0.0)
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    assert content["left_out"] == {NEAR: 1}


# ---- evaluation sets -----------------------------------------------------------------------------


def contaminated(recipe: Recipe, tmp_path: Path, texts: list[str], ngram: int = 13) -> Recipe:
    path = write_records(tmp_path / "set.jsonl", [{"question": text} for text in texts])
    source = SourceSpec(path=path, format="jsonl", fields={"text": "{question}"})
    other = SourceSpec(path=write_records(tmp_path / "o.jsonl", [{"text": text_of(999)}]),
                       format="jsonl")  # fmt: skip
    asked = {"sets": {"quiz": source, "other": other}, "ngram": ngram}
    return replace(recipe, clean=CleanSpec(dedup=recipe.clean.dedup, decontaminate=asked))


@pytest.mark.parametrize(("words", "found"), [(13, True), (12, False)])
def test_documents_with_words_of_an_evaluation_set_are_left_out(
    near_recipe: Recipe,
    place: Location,
    tmp_path: Path,
    execute: Execute,
    words: int,
    found: bool,
) -> None:
    inside = " ".join(text_of(40, words=80).split()[20 : 20 + words])
    asked = [f"Unknown before: {inside.upper()}! Unknown after", text_of(500), "too short"]
    said: list[str] = []
    recipe = contaminated(near_recipe, tmp_path, asked)
    content = prepare_dataset(recipe, place, execute, said.append)
    reason = contaminated_reason("quiz")
    assert content["left_out"].get(reason, 0) == found
    quiz = content["decontaminated"]["quiz"]
    assert quiz == {
        "documents": int(found), "texts": 3, "found": int(found), "too_short": 1, "left_out": {},
    }  # fmt: skip
    assert content["decontaminated"]["other"]["documents"] == 0
    assert content["left_out"][NEAR] == PLANTED
    assert content["read"] == documents(content) + PLANTED + found
    line = next(line for line in said if line.startswith("evaluation set 'quiz'"))
    assert f"{int(found)} of its 3 texts ({found / 3:.1%}) have 13 words in a row" in line
    assert line.endswith("; 1 have fewer words and cannot be found")


def test_what_a_set_takes_does_not_make_others_near(
    near_recipe: Recipe, place: Location, tmp_path: Path, execute: Execute
) -> None:
    """The document that is left out is the first of a pair: the other one has its words too, but
    those that were changed."""
    end = " ".join(text_of(3, words=80).split()[-13:])
    recipe = contaminated(near_recipe, tmp_path, [end])
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    assert content["left_out"] == {contaminated_reason("quiz"): 1, NEAR: PLANTED - 1}


def test_a_set_without_a_text_of_enough_words_is_an_error(
    near_recipe: Recipe, place: Location, tmp_path: Path, execute: Execute
) -> None:
    recipe = contaminated(near_recipe, tmp_path, ["yes", "no"])
    with pytest.raises(SourceError, match=r"none of the 2 texts of .*'quiz' has 13 words in a row"):
        prepare_dataset(recipe, place, execute, lambda text: None)


def test_records_of_a_set_that_cannot_be_read_are_told(
    near_recipe: Recipe, place: Location, tmp_path: Path, execute: Execute
) -> None:
    recipe = contaminated(near_recipe, tmp_path, [text_of(600)])
    (tmp_path / "set.jsonl").open("a").write("{no json\n")
    said: list[str] = []
    content = prepare_dataset(recipe, place, execute, said.append)
    assert content["decontaminated"]["quiz"]["left_out"] == {"line not JSON": 1}
    assert any("not read of it: 1 × line not JSON" in line for line in said)


def test_near_texts_are_as_near_as_the_threshold_says() -> None:
    assert jaccard(text_of(1, 80).upper(), planted(text_of(1, 80)).replace(",\n", " "), 3) > 0.6


# ---- lines and paragraphs ------------------------------------------------------------------------

MENU, NOTICE = "Home | About us | Contact | Sign in", "All rights reserved by their owners."


def stripped(
    recipe: Recipe, place: Location, tmp_path: Path, texts: list[str], **repeated: Any
) -> tuple[dict[str, Any], list[str]]:
    """The dataset of these texts, and the texts in it."""
    source = SourceSpec(path=write_texts(tmp_path / "d.jsonl", texts), format="jsonl")
    clean = CleanSpec(repeated=repeated, min_chars=5, dedup=recipe.clean.dedup)
    one = replace(recipe, sources=(source,), clean=clean, holdout=0.0)
    content = prepare_dataset(one, place, execute_here, lambda text: None)
    return content, decode_all(place, content, "train")


@pytest.mark.parametrize("most", [6, 5])
def test_a_line_that_stands_in_too_many_documents_is_taken_out_of_all(
    recipe: Recipe,
    place: Location,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
) -> None:
    monkeypatch.setattr("raymodel.data.plan.MIN_PARTITION_BYTES", 300)
    monkeypatch.setattr("raymodel.data.dedup.plan.BUCKET_UNITS", 10)
    own = [text_of(i, words=12) for i in range(9)]
    texts = [f"{MENU}\n\n{text}\n}}\n{MENU.upper()}" for text in own[:6]] + own[6:]
    content, found = stripped(recipe, place, tmp_path, [*texts, texts[0]], max_documents=most)
    assert content["duplicates"] == 1, "it does not count as another document with the line"
    is_common = most == 5
    assert found == ([f"\n{text}\n}}\n" for text in own[:6]] if is_common else texts[:6]) + own[6:]
    removed = {"units": 1, "documents": 6, "removed": 12}
    counts = {name: content["repeated"][name] for name in removed}
    assert counts == (removed if is_common else dict.fromkeys(removed, 0))
    assert content["repeated"]["chars"] == sum(map(len, texts)) - sum(map(len, found))


def test_paragraphs_go_as_a_whole_and_short_ones_stay(
    recipe: Recipe, place: Location, tmp_path: Path
) -> None:
    own = [text_of(i, words=12) for i in range(4)]
    texts = [f"{text}\n\n{MENU}\n{NOTICE}\n \nThe end.\n\n{NOTICE} {text}" for text in own]
    content, found = stripped(recipe, place, tmp_path, texts, max_documents=3, unit="paragraph")
    assert found == [f"{text}\n\nThe end.\n\n{NOTICE} {text}" for text in own]
    assert content["repeated"]["units"] == 1


def test_a_document_of_nothing_but_repeated_lines_is_left_out(
    near_recipe: Recipe, place: Location, tmp_path: Path
) -> None:
    own = [text_of(i, words=40) for i in range(4)]
    texts = [f"{MENU}\n{text}" for text in own] + [f"{MENU}\n...", cut_end(own[1], 2)]
    content, found = stripped(near_recipe, place, tmp_path, texts, max_documents=2)
    assert content["left_out"] == {EMPTIED: 1, NEAR: 1}
    assert found == own, "near ones are sought in what is left"


# ---- what names a dataset ------------------------------------------------------------------------


def test_what_is_compared_names_a_dataset_and_what_is_not_asked_for_changes_no_name(
    tmp_path: Path,
) -> None:
    (tmp_path / "d.txt").write_text("x")
    (tmp_path / "quiz.txt").write_text("a question")

    def mark(**clean: Any) -> str:
        spec = PrepareSpec.model_validate(
            {
                "sources": [{"path": "d.txt"}],
                "tokenizer": {"vocab_size": 300},
                "sequence_length": 8,
                "clean": clean,
            }
        )
        return json.dumps(prepare_identity(spec, tmp_path), sort_keys=True)

    def quiz(name: str = "quiz", **fields: Any) -> str:
        source = {"path": "quiz.txt"} | fields
        return mark(decontaminate={"sets": {name: source}})

    assert '"dedup": "exact"' in mark()
    assert "decontaminate" not in mark()
    assert "repeated" not in mark(), "those who ask for nothing keep their datasets"
    assert mark(dedup={"name": "exact"}) == mark()
    near = {"name": "near", "threshold": 0.8, "ngram": 5}
    assert mark(dedup="near") == mark(dedup=near), "the defaults, as they are resolved"
    marks = {mark(), mark(dedup="none"), mark(dedup="near"), mark(dedup=near | {"ngram": 4})}
    marks |= {quiz(), quiz("other"), quiz(encoding="latin-1"), mark(repeated={"max_documents": 3})}
    assert quiz(path=str(tmp_path / "quiz.txt")) == quiz(), "however the job file names it"
    (tmp_path / "quiz.txt").write_text("another question")
    assert len(marks | {quiz()}) == 9
