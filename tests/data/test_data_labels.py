"""Several labels, numbers and pairs: what a record must hold, what is equal, who falls where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled import labelled, write_records

from raymodel.data.prepare import prepare_dataset
from raymodel.data.shard import dataset_of
from raymodel.data.sides import Sides
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError
from raymodel.modality.text import TextProcessor
from raymodel.storage.uri import Location
from raymodel.tasks.label import label_texts, number_value
from raymodel.tasks.template import FieldTypeError, RecordError
from raymodel.testing.tiny import train_pair_tokenizer


@pytest.fixture(scope="module")
def pair_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Location:
    place = Location.parse(str(tmp_path_factory.mktemp("tokenizer")))
    TextProcessor(train_pair_tokenizer(["a dog barks"])).save(place)
    return place


def prepared(source: SourceSpec, task: str, tokenizer: Location, place: Location, execute: Any,
             **fields: Any) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    said: list[str] = []
    recipe = labelled(source, task, tokenizer, **fields)
    return prepare_dataset(recipe, place, execute, said.append), said


def rows_of(place: Location, content: dict[str, Any], split: str = "train") -> Any:
    data = dataset_of(place, content, split)
    return data.read(np.arange(data.num_rows))


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "separator", "labels"),
    [
        (["b", " a "], None, ["b", "a"]),
        ([1, 2.0, True], None, ["1", "2", "true"]),
        ([], None, []),
        ("a;b", None, ["a;b"]),
        ("a; b;", ";", ["a", "b"]),
        ("", ";", []),
        (3, ";", ["3"]),
    ],
)
def test_labels_are_a_list_or_a_text_that_is_parted(
    value: Any, separator: str | None, labels: list[str]
) -> None:
    assert label_texts({"x": value}, "x", separator) == labels


@pytest.mark.parametrize(
    ("value", "error"),
    [(None, RecordError), ("", RecordError), (["a", ""], RecordError), ([None], RecordError),
     ([["a"]], FieldTypeError), ({"a": 1}, FieldTypeError)],
)  # fmt: skip
def test_what_names_no_labels_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        label_texts({"x": value}, "x", None)


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3.0), (-0.5, -0.5), (" 2.50 ", 2.5), ("1e-3", 0.001), (".5", 0.5), ("7.", 7.0)],
)
def test_a_number_may_be_written_as_text(value: Any, number: float) -> None:
    assert number_value({"x": value}, "x") == number


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "record without a value in 'x'"),
        (float("nan"), "record without a value in 'x'"),
        ("good", "record without a number in 'x'"),
        ("1_000", "record without a number in 'x'"),
        ("1,5", "record without a number in 'x'"),
        (True, "record without a number in 'x'"),
        (float("inf"), "number that is not finite in 'x'"),
        ("-Infinity", "number that is not finite in 'x'"),
        (1e39, "number that is not finite in 'x'"),
        (10**400, "number that is not finite in 'x'"),
    ],
)
def test_what_is_no_number_leaves_its_record_out(value: Any, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        number_value({"x": value}, "x")
    assert caught.value.reason == reason


# ---- datasets ------------------------------------------------------------------------------------


def test_records_with_the_same_labels_are_one_and_others_contradict(
    tmp_path: Path, place: Location, execute: Any, tokenizer: Location
) -> None:
    records: list[dict[str, Any]] = [{"text": f"t{i}", "label": ["x"]} for i in range(40)]
    records += [{"text": "t1", "label": ["x", "x"]}, {"text": "t2", "label": ["y", "x"]}]
    records += [{"text": "none", "label": []}, {"text": "bad", "label": None}]
    source = SourceSpec(path=write_records(tmp_path / "d.jsonl", records), format="jsonl")
    content, said = prepared(
        source, "multi_label_classification", tokenizer, place, execute, holdout=0.0
    )
    assert (content["labels"], content["classes"]["train"]) == (["x", "y"], {"x": 41, "y": 1})
    assert content["duplicates"] == 1
    assert content["label_conflicts"] == 1
    assert content["left_out"] == {"record without a value in 'label'": 1}
    assert any("1 texts have several labels" in line for line in said)
    labels = rows_of(place, content)["label"].to_pylist()
    assert sorted(map(tuple, labels)) == sorted([()] + [(0,)] * 40 + [(0, 1)])


def test_data_without_any_class_is_refused(
    tmp_path: Path, place: Location, execute: Any, tokenizer: Location
) -> None:
    path = write_records(tmp_path / "d.jsonl", [{"text": str(i), "label": []} for i in range(9)])
    source = SourceSpec(path=path, format="jsonl")
    with pytest.raises(SourceError, match="no record has a class in its `label`"):
        prepared(source, "multi_label_classification", tokenizer, place, execute)


def test_numbers_are_kept_and_what_is_none_is_counted(
    tmp_path: Path, place: Location, execute: Any, tokenizer: Location
) -> None:
    records: list[dict[str, Any]] = [{"text": f"t{i}", "label": i / 7} for i in range(40)]
    records += [{"text": "t1", "label": str(1 / 7)}, {"text": "t2", "label": 0}]
    records += [{"text": "a", "label": "much"}, {"text": "b", "label": float("inf")}]
    source = SourceSpec(path=write_records(tmp_path / "d.jsonl", records), format="jsonl")
    content, _ = prepared(source, "text_regression", tokenizer, place, execute, holdout=0.2)
    assert content["labels"] == []
    assert (content["duplicates"], content["label_conflicts"]) == (1, 1)
    assert content["left_out"] == {
        "record without a number in 'label'": 1,
        "number that is not finite in 'label'": 1,
    }
    found = [rows_of(place, content, split)["label"].to_pylist() for split in ("train", "holdout")]
    assert sorted(found[0] + found[1]) == sorted([i / 7 for i in range(40)] + [0.0])


def test_pairs_are_equal_where_both_texts_are_and_stay_with_their_first(
    tmp_path: Path, place: Location, execute: Any, pair_tokenizer: Location
) -> None:
    records = [
        {"a": f"first {i}", "b": f"second {j}", "label": "xy"[j % 2]}
        for i in range(60)
        for j in range(3)
    ]
    path = write_records(tmp_path / "d.jsonl", [*records, records[0]])
    fields = {"text": "{a}", "text_pair": "{b}"}
    source = SourceSpec(path=path, format="jsonl", fields=fields)
    content, _ = prepared(
        source, "text_classification", pair_tokenizer, place, execute, holdout=0.3
    )
    assert content["duplicates"] == 1
    assert content["label_conflicts"] == 0
    tokenizer = TextProcessor.load(pair_tokenizer)
    sides = []
    for split in ("train", "holdout"):
        rows = rows_of(place, content, split)
        assert rows.column_names[:4] == ["input_ids", "label", "pair_start", "token_type_ids"]
        pairs = zip(rows["input_ids"].to_pylist(), rows["pair_start"].to_pylist(), strict=True)
        sides.append({tokenizer.decode(ids[:start]) for ids, start in pairs})
    assert all(sides)
    assert not sides[0] & sides[1]


# ---- sides ---------------------------------------------------------------------------------------


def test_a_group_moves_once_for_several_classes_and_takes_none_of_another_away() -> None:
    together = Sides()
    for key, group in ((1, "g1"), (2, "g2")):
        for label in ("a", "b"):
            together.add(label, "train", key, group)
    assert together.moves() == {"g1": "holdout"}, "one is enough for both"

    bound = Sides()
    for label, key, group in (("a", 1, "g1"), ("a", 2, "g2"), ("only", 1, "g1")):
        bound.add(label, "train", key, group)
    bound.add("only", "holdout", 9, "h")
    assert bound.moves() == {"g2": "holdout"}, "g1 is all that `only` is trained on"

    crossed = Sides()
    for label, groups in (("a", ("g1", "g2")), ("b", ("g2", "g3")), ("c", ("g3", "g1"))):
        for key, group in enumerate(groups):
            crossed.add(label, "train", key, group)
    moved = set(crossed.moves())
    for groups in ({"g1", "g2"}, {"g2", "g3"}, {"g3", "g1"}):
        assert groups - moved, "each class is still trained on"


def test_a_rare_label_among_others_is_on_both_sides(
    tmp_path: Path, place: Location, execute: Any, tokenizer: Location
) -> None:
    records = [{"text": f"t{i}", "label": ["x"]} for i in range(80)]
    records += [{"text": f"r{i}{j}", "label": ["x", f"rare{i}"]} for i in range(6) for j in "ab"]
    source = SourceSpec(path=write_records(tmp_path / "d.jsonl", records), format="jsonl")
    content, _ = prepared(source, "multi_label_classification", tokenizer, place, execute)
    for i in range(6):
        for split in ("train", "holdout"):
            assert content["classes"][split][f"rare{i}"] == 1
