"""What makes two records equal, what stays on one side of the holdout, what is one class."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from labelled import classes, documents, labelled, pairs, texts_of, write_records

from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.data.step import Step
from raymodel.errors import SourceError
from raymodel.storage.uri import Location

Execute = Callable[[Step], None]


def test_records_that_begin_alike_are_not_duplicates_and_are_cut(
    place: Location, tmp_path: Path, execute: Execute, tokenizer: Location
) -> None:
    records = [{"text": f"same start {i}", "label": "xy"[i % 2]} for i in range(20)]
    path = write_records(tmp_path / "d.jsonl", records)
    one = labelled(
        classes(path), "text_classification", tokenizer, CleanSpec(max_chars=10), holdout=0
    )
    content = prepare_dataset(one, place, execute, lambda text: None)
    assert content["duplicates"] == 0
    assert content["cut"] == {"text": 20}
    assert {text for text, _ in texts_of(place, content, "train")} == {"same start"}


def test_a_prompt_that_is_cut_keeps_its_end(
    place: Location, tmp_path: Path, execute: Execute, tokenizer: Location
) -> None:
    path = write_records(tmp_path / "d.jsonl", [{"q": "abcdefghij", "a": "klmnopqrst"}])
    one = labelled(pairs(path), "causal_lm", tokenizer, CleanSpec(max_chars=4), holdout=0)
    content = prepare_dataset(one, place, execute, lambda text: None)
    assert texts_of(place, content, "train") == [("ghij", "klmn")]
    assert content["cut"] == {"prompt": 1, "response": 1}


def test_what_does_not_fit_is_counted_by_role_and_said(
    place: Location, tmp_path: Path, execute: Execute, tokenizer: Location
) -> None:
    lengths = {"short": (1, 1), "prompt": (500, 1), "both": (500, 500)}
    path = write_records(
        tmp_path / "d.jsonl",
        [{"q": f"{name} {'ab ' * q}", "a": "ab " * a} for name, (q, a) in lengths.items()],
    )
    said: list[str] = []
    one = labelled(pairs(path), "causal_lm", tokenizer, holdout=0)
    content = prepare_dataset(one, place, execute, said.append)
    assert content["cut"] == {"prompt": 2, "response": 1}
    assert any("2 × prompt, 1 × response" in line for line in said)


def test_one_text_with_two_labels_is_kept_with_each_and_told(
    place: Location, tmp_path: Path, execute: Execute, tokenizer: Location
) -> None:
    records = [{"text": f"text {i}", "label": "x"} for i in range(60)]
    records += [{"text": f"text {i}", "label": "y"} for i in range(30)]
    records += [{"text": "text 1", "label": " x"}]
    path = write_records(tmp_path / "d.jsonl", records)
    said: list[str] = []
    one = labelled(classes(path), "text_classification", tokenizer, holdout=0.3)
    content = prepare_dataset(one, place, execute, said.append)
    assert (documents(content), content["duplicates"], content["label_conflicts"]) == (90, 1, 30)
    assert any("30 texts have several labels, such as d.jsonl" in s for s in said)
    sides = [
        {text for text, _ in texts_of(place, content, split)} for split in ("train", "holdout")
    ]
    assert not sides[0] & sides[1]
    assert min(map(len, sides)) > 5


def test_all_answers_to_a_prompt_are_on_one_side(
    place: Location, tmp_path: Path, execute: Execute, tokenizer: Location
) -> None:
    records = [{"q": f"question {i % 40}", "a": f"answer {i}"} for i in range(200)]
    path = write_records(tmp_path / "d.jsonl", records)
    one = labelled(pairs(path), "causal_lm", tokenizer, holdout=0.3)
    content = prepare_dataset(one, place, execute, lambda text: None)
    sides = [
        {prompt for prompt, _ in texts_of(place, content, split)} for split in ("train", "holdout")
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 40
    assert len(sides[1]) >= 4


def test_a_text_is_held_out_in_every_format_that_it_comes_in(
    recipe: Recipe, tmp_path: Path, execute: Execute, tokenizer: Location
) -> None:
    """Packed for pretraining from one file, labelled for fine-tuning from another."""
    texts = [f"number {i} of the texts" for i in range(80)]
    lines = write_records(tmp_path / "d.jsonl", [{"text": text, "more": 1} for text in texts])
    (tmp_path / "d.csv").write_text("label,text\n" + "".join(f"x,{text}\n" for text in texts))
    table = SourceSpec(path=str(tmp_path / "d.csv"), format="csv", fields={"label": "label"})
    packed = replace(recipe, sources=(SourceSpec(path=lines, format="jsonl"),), holdout=0.3)
    held = []
    for name, one in {
        "packed": packed,
        "labelled": labelled(table, "text_classification", tokenizer, holdout=0.3),
    }.items():
        place = Location.parse(str(tmp_path / name))
        content = prepare_dataset(one, place, execute, lambda text: None)
        held.append(content["splits"]["holdout"]["documents"])
        held.append(content["splits"]["holdout"]["num_bytes"])
    assert held[:2] == held[2:]


# ---- labels --------------------------------------------------------------------------------------


def test_one_class_is_one_whichever_way_it_is_written(
    place: Location, tmp_path: Path, execute: Execute, tokenizer: Location
) -> None:
    values = ["pos", " pos", "pos ", "neg", 1, "1", 1.0, True, "neg", "neg", float("nan"), None, ""]
    path = write_records(
        tmp_path / "d.jsonl", [{"text": f"t {i}", "label": v} for i, v in enumerate(values)]
    )
    said: list[str] = []
    one = labelled(classes(path), "text_classification", tokenizer, holdout=0)
    content = prepare_dataset(one, place, execute, said.append)
    assert content["labels"] == ["1", "neg", "pos", "true"]
    assert content["classes"]["train"] == {"1": 3, "neg": 3, "pos": 3, "true": 1}
    assert content["left_out"] == {"record without a value in 'label'": 3}
    assert any("1 of 4 labels have a single example to train on: 'true'" in line for line in said)


def test_a_class_that_is_only_held_out_is_told(
    place: Location, tmp_path: Path, execute: Execute, tokenizer: Location
) -> None:
    records = [{"text": f"text {i}", "label": "x"} for i in range(40)]
    records += [{"text": f"other {i}", "label": f"rare {i}"} for i in range(20)]
    path = write_records(tmp_path / "d.jsonl", records)
    said: list[str] = []
    one = labelled(classes(path), "text_classification", tokenizer, holdout=0.4)
    content = prepare_dataset(one, place, execute, said.append)
    unseen = sorted(set(content["labels"]) - set(content["classes"]["train"]))
    assert unseen
    assert any(
        f"{len(unseen)} of 21 labels have no example to train on: {unseen[0]!r}" in s for s in said
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "t3", "label": ["a", "b"]}, r"label 'label' holds a list \(\['a', 'b'\]\)"),
        ({"text": [{"role": "u"}], "label": "a"}, r"'text' holds a list.*\{text\[0\]\[role\]\}"),
    ],
)
def test_a_list_names_its_file_line_and_the_way_out(
    place: Location,
    tmp_path: Path,
    execute: Execute,
    tokenizer: Location,
    record: dict[str, Any],
    message: str,
) -> None:
    path = write_records(tmp_path / "d.jsonl", [{"text": "t1", "label": "a"}, record])
    one = labelled(classes(path), "text_classification", tokenizer)
    with pytest.raises(SourceError, match=rf"d\.jsonl', d\.jsonl(, line 2)?: .*{message}"):
        prepare_dataset(one, place, execute, lambda text: None)


def test_a_label_with_a_value_for_every_record_is_a_text(
    place: Location,
    tmp_path: Path,
    execute: Execute,
    tokenizer: Location,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("raymodel.data.prepare._MAX_LABELS", 9)
    records = [{"text": f"text {i}", "label": f"value {i}"} for i in range(10)]
    path = write_records(tmp_path / "d.jsonl", records)
    with pytest.raises(SourceError, match=r"'label' has 10 different values.*at most 9"):
        prepare_dataset(
            labelled(classes(path), "text_classification", tokenizer),
            place,
            execute,
            lambda text: None,
        )
