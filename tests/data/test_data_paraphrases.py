"""Texts there and back: what is asked of whom, what lies in the rows, and what a failure costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled import MAX_LENGTH, classes, write_records  # type: ignore[import-not-found]

from raymodel.chance import Draw
from raymodel.data import translate
from raymodel.data.columns import columns_of
from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.rows import RowKind
from raymodel.data.shard import dataset_of
from raymodel.data.spec import CleanSpec
from raymodel.data.step import Step, complete_item, missing_items
from raymodel.errors import RaymodelError, RequestError
from raymodel.modality.text import TextProcessor
from raymodel.spec.base import fingerprint
from raymodel.storage.uri import Location
from raymodel.tasks import make_task
from raymodel.tasks.spec import default_spec, task_spec
from raymodel.testing.tiny import train_pair_tokenizer
from raymodel.testing.translator import (
    BACK,
    THERE,
    StubTranslator,
    paraphrase_of,
    stub_translator,
)

Execute = Callable[[Step], None]
WORDS = ["red", "blue", "green", "fish", "tree", "sea", "rose", "stone", "cloud", "river"]
TEXTS = [
    " ".join(WORDS[(i * k + k) % 10] for k in range(1, 4 + i % 5)) + f" {i}" for i in range(40)
]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubTranslator]:
    monkeypatch.setattr(translate, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("raymodel.data.paraphrases.TRANSLATED_ROWS", 6)
    with stub_translator() as stub:
        yield stub


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Location:
    place = Location.parse(str(tmp_path_factory.mktemp("words")))
    TextProcessor(train_pair_tokenizer(TEXTS)).save(place)
    return place


def task_of(server: StubTranslator, **changes: Any) -> Any:
    augment = {"back_translation": server.spec | changes}
    return task_spec({"name": "text_classification", "augment": augment})


def recipe_of(task: Any, words: Location, folder: Path, *, is_pair: bool = False) -> Recipe:
    records = [{"text": t, "other": t[::-1], "label": "xy"[i % 2]} for i, t in enumerate(TEXTS)]
    source = classes(write_records(folder / "d.jsonl", records))
    if is_pair:
        fields = {"text": "{text}", "text_pair": "{other}", "label": "label"}
        source = source.model_copy(update={"fields": fields})
    return Recipe(
        sources=(source,),
        clean=CleanSpec(),
        holdout=0.25,
        seed=7,
        kind=RowKind(task=task, length=MAX_LENGTH),
        processor=words,
    )


def rows_of(place: Location, content: dict[str, Any], split: str) -> list[dict[str, Any]]:
    data = dataset_of(place, content, split)
    rows: list[dict[str, Any]] = data.read(np.arange(data.num_rows)).to_pylist()
    return rows


def test_every_row_that_is_trained_on_has_its_text_in_other_words(
    server: StubTranslator, words: Location, tmp_path: Path, place: Location, execute: Execute
) -> None:
    said: list[str] = []
    recipe = recipe_of(task_of(server, concurrency=4), words, tmp_path)
    content = prepare_dataset(recipe, place, execute, said.append)
    train, held = (rows_of(place, content, split) for split in ("train", "holdout"))
    assert len(train) + len(held) == len(TEXTS)
    reader = TextProcessor.load(words)
    for row in train:
        text = reader.decode(row["input_ids"])
        assert row["paraphrase_input_ids"] == reader.encode(paraphrase_of(text), None)[0]
    assert all(not row["paraphrase_input_ids"] for row in held)
    assert set(train[0]) == {"input_ids", "label", "paraphrase_input_ids"}, "the texts are gone"
    assert content["paraphrases"] == {"made": len(train), "without": {}}
    assert f"{len(train)} examples have a paraphrase" in said
    assert len(server.asked) == 2 * len(train), "nobody is asked of what is held out"
    assert server.most_at_once <= 4
    plain = replace(recipe, kind=RowKind(task=default_spec("text_classification"), length=64))
    without = prepare_dataset(plain, place / "plain", execute, said.append)
    names = ("input_ids", "label")
    assert rows_of(place / "plain", without, "train") == [
        {n: row[n] for n in names} for row in train
    ]
    assert "paraphrases" not in without


def test_both_texts_of_a_pair_are_told_in_other_words(
    server: StubTranslator, words: Location, tmp_path: Path, place: Location, execute: Execute
) -> None:
    recipe = recipe_of(task_of(server), words, tmp_path, is_pair=True)
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    reader = TextProcessor.load(words)
    train = rows_of(place, content, "train")
    for row in train:
        text, other = (
            paraphrase_of(reader.decode(ids))
            for ids in np.split(row["input_ids"], [row["pair_start"]])
        )
        expected = reader.encode_pair(text, other, None)
        assert row["paraphrase_input_ids"] == expected.input_ids
        assert row["paraphrase_token_type_ids"] == expected.token_type_ids
    assert len(train) > 20


def test_what_cannot_be_translated_is_counted_and_keeps_its_text(
    server: StubTranslator, words: Location, tmp_path: Path, place: Location, execute: Execute
) -> None:
    known = Counter[str]()

    def says(prompt: str) -> str | int | None:
        known[prompt] += 1
        number = int(prompt.split()[-1]) if prompt.startswith(THERE) else None
        if number is None:
            return 500 if prompt == f"{BACK}{' '.join(w[::-1] for w in TEXTS[5].split())}" else None
        if number in (3, 13):
            return 400
        if number == 4:
            return "  "
        return 500 if number == 6 and known[prompt] < 3 else None

    server.says = says
    recipe = replace(recipe_of(task_of(server), words, tmp_path), holdout=0)
    said: list[str] = []
    content = prepare_dataset(recipe, place, execute, said.append)
    assert content["paraphrases"] == {
        "made": 36,
        "without": {
            "back: the server failed 5 times": 1,
            "there: an empty answer": 1,
            "there: refused by the server": 2,
        },
    }
    assert any("without a paraphrase: 1 × back: the server failed 5 times" in each for each in said)
    reader = TextProcessor.load(words)
    without = {
        reader.decode(row["input_ids"])
        for row in rows_of(place, content, "train")
        if not row["paraphrase_input_ids"]
    }
    assert without == {TEXTS[number] for number in (3, 4, 5, 13)}
    assert known[f"{THERE}{TEXTS[6]}"] == 3, "what fails for a moment is asked again"
    assert known[f"{THERE}{TEXTS[3]}"] == 1, "what is refused is not"


def test_a_text_that_comes_back_as_it_was_is_no_paraphrase(
    server: StubTranslator, words: Location, tmp_path: Path, place: Location, execute: Execute
) -> None:
    server.says = lambda prompt: prompt.removeprefix(THERE).removeprefix(BACK)
    recipe = replace(recipe_of(task_of(server), words, tmp_path), holdout=0)
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    assert content["paraphrases"] == {"made": 0, "without": {"back: the text as it was": 40}}


def test_a_translation_that_was_cut_is_none(
    server: StubTranslator, words: Location, tmp_path: Path, place: Location, execute: Execute
) -> None:
    server.finish_reason = "length"
    recipe = recipe_of(task_of(server), words, tmp_path)
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    assert content["paraphrases"]["made"] == 0
    assert [*content["paraphrases"]["without"]] == ["there: longer than max_tokens"]


def test_an_attempt_that_goes_on_asks_for_what_is_missing_alone(
    server: StubTranslator, words: Location, tmp_path: Path, execute: Execute
) -> None:
    places = [Location.parse(str(tmp_path / name)) for name in ("whole", "broken")]
    recipe = recipe_of(task_of(server), words, tmp_path)
    whole = prepare_dataset(recipe, places[0], execute, lambda text: None)
    asked, server.asked = Counter(server.asked), []

    def until_the_server_goes(step: Step) -> None:
        for item in missing_items(step):
            if step.name == "paraphrases" and item == 3:
                server.says = lambda prompt: 500
            complete_item(step, item)

    with pytest.raises(RaymodelError, match=r"6 of 6 texts could not be translated \(there: the"):
        prepare_dataset(recipe, places[1], until_the_server_goes, lambda text: None)
    server.says = lambda prompt: None
    before, server.asked = Counter(server.asked), []
    broken = prepare_dataset(recipe, places[1], execute, lambda text: None)
    assert rows_of(places[1], broken, "train") == rows_of(places[0], whole, "train")
    after = Counter(server.asked)
    assert sum((asked - after).values()) == 2 * 3 * 6, "of three runs of six rows nothing more"
    assert all(count > 1 for prompt, count in before.items() if prompt in after)
    server.asked = []
    prepare_dataset(recipe, places[1], execute, lambda text: None)
    assert server.asked == []


def test_a_share_is_translated_and_a_larger_one_holds_it(
    server: StubTranslator, words: Location, tmp_path: Path, execute: Execute
) -> None:
    made = []
    for share in (0.3, 0.7):
        place = Location.parse(str(tmp_path / str(share)))
        recipe = recipe_of(task_of(server, share=share), words, tmp_path)
        content = prepare_dataset(recipe, place, execute, lambda text: None)
        rows = rows_of(place, content, "train")
        made.append({tuple(r["input_ids"]) for r in rows if r["paraphrase_input_ids"]})
    assert 0 < len(made[0]) < len(made[1]) < 30
    assert made[0] < made[1]


def test_a_wrong_server_is_told(server: StubTranslator, words: Location) -> None:
    make = translate.Translator
    spec = task_of(server).back_translation.there
    with pytest.raises(RequestError, match="must be told what to do; add `prompt`"):
        make(spec.model_copy(update={"prompt": None}), "there", 10)
    with pytest.raises(RequestError, match="has no model 'nobody'; it has stub"):
        make(spec.model_copy(update={"model": "nobody"}), "there", 10)
    server.token = "right"
    with pytest.raises(RequestError, match="asks for a token; put its token into the environment"):
        make(spec, "there", 10)
    with pytest.raises(RaymodelError, match="cannot be reached"):
        make(spec.model_copy(update={"url": "http://127.0.0.1:9"}), "there", 10)


def test_a_server_that_is_down_is_not_waited_for_text_by_text(server: StubTranslator) -> None:
    one = translate.Translator(task_of(server).back_translation.there, "there", 10)
    server.says = lambda prompt: 500
    found = one.translate(TEXTS, 2)
    assert {each.reason for each in found if isinstance(each, translate.Failed)} == {
        "there: the server failed 5 times"
    }
    assert len(server.asked) <= 10 * translate.TRIES
    server.says = lambda prompt: None
    assert all(isinstance(each, str) for each in one.translate(TEXTS, 2)), "it is back"


# ---- in training ---------------------------------------------------------------------------------


@pytest.fixture
def prepared(
    server: StubTranslator, words: Location, tmp_path: Path, place: Location, execute: Execute
) -> dict[str, Any]:
    """Columns of rows, of which some have no paraphrase."""
    server.says = lambda prompt: "" if prompt.endswith(("1", "2")) else None
    recipe = recipe_of(task_of(server), words, tmp_path, is_pair=True)
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    data = dataset_of(place, content, "train")
    return columns_of(data.read(np.arange(data.num_rows)))


def shown(server: StubTranslator, words: Location, rows: Any, draw: Any, **augment: Any) -> Any:
    probability = augment.pop("probability", 0.5)
    spec = task_of(server, probability=probability)
    spec = task_spec(
        {"name": spec.name, "augment": spec.augment.model_dump(exclude_none=True) | augment}
    )
    task = make_task(spec, processor=TextProcessor.load(words), labels=("x", "y"))
    return task.collate(rows, draw)


def row_texts(batch: Any) -> list[tuple[list[int], list[int]]]:
    masks = batch["attention_mask"].bool()
    return [
        (ids[mask].tolist(), types[mask].tolist())
        for ids, types, mask in zip(batch["input_ids"], batch["token_type_ids"], masks, strict=True)
    ]


def test_a_step_is_shown_the_one_or_the_other_by_its_draw_alone(
    server: StubTranslator, words: Location, prepared: dict[str, Any]
) -> None:
    size = len(prepared["label"])
    own, other = (
        [
            (ids.tolist(), types.tolist())
            for ids, types in zip(*(prepared[p + n] for n in names), strict=True)
        ]
        for p, names in (("", COLUMNS), ("paraphrase_", COLUMNS))
    )
    has = [bool(ids) for ids, _ in other]
    assert 3 < sum(has) < size - 3
    server.asked = []
    made = {}
    for step in (3, 4):
        whole = row_texts(shown(server, words, prepared, Draw(7, step, range(size))))
        taken = [
            row == changed != mine for row, changed, mine in zip(whole, other, own, strict=True)
        ]
        expected = [o if t else mine for t, o, mine in zip(taken, other, own, strict=True)]
        assert whole == expected, "a row's tokens and types go together"
        assert not any(t and not h for t, h in zip(taken, has, strict=True))
        assert 0 < sum(taken) < sum(has)
        made[step] = whole
        part = {name: column[5:9] for name, column in prepared.items()}
        cut = row_texts(shown(server, words, part, Draw(7, step, range(5, 9))))
        assert cut == whole[5:9]
    assert made[3] != made[4]
    assert row_texts(shown(server, words, prepared, None)) == own
    always = row_texts(shown(server, words, prepared, Draw(7, 3, range(size)), probability=1.0))
    assert always == [o if h else mine for o, h, mine in zip(other, has, own, strict=True)]
    fewer = row_texts(shown(server, words, prepared, Draw(7, 3, range(size)), drop=0.9))
    assert all(len(a[0]) <= len(b[0]) for a, b in zip(fewer, made[3], strict=True))
    assert server.asked == [], "training asks nobody"


COLUMNS = ("input_ids", "token_type_ids")


def test_what_makes_paraphrases_decides_the_examples_and_when_they_are_shown_does_not(
    server: StubTranslator,
) -> None:
    plain, made = default_spec("text_classification"), task_of(server)
    assert plain.identity() == {"name": "text_classification"}
    assert "back_translation" not in plain.examples_identity()
    rarer, quicker = task_of(server, probability=0.1), task_of(server, concurrency=1)
    assert made.examples_identity() != plain.examples_identity()
    assert made.examples_identity() == rarer.examples_identity() == quicker.examples_identity()
    assert fingerprint(made.identity()) != fingerprint(rarer.identity())
    assert fingerprint(made.identity()) == fingerprint(quicker.identity())
    assert made.examples_identity() != task_of(server, share=0.5).examples_identity()
    other = server.spec["back"] | {"model": "another"}
    assert made.examples_identity() != task_of(server, back=other).examples_identity()
