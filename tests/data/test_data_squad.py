"""SQuAD's files: what is read of them, what is wrong with them, and the rows that they give."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled import labelled
from reading import read_source

from raymodel.data.prepare import prepare_dataset
from raymodel.data.shard import dataset_of
from raymodel.data.spec import SourceSpec
from raymodel.modality.text import TextProcessor
from raymodel.storage.uri import Location
from raymodel.testing.tiny import train_pair_tokenizer


def question(text: str, *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    found = [{"text": answer, "answer_start": start} for answer, start in answers]
    return {"id": text, "question": text, "answers": found, **more}


def article(title: str, *paragraphs: tuple[str, list[Any]]) -> dict[str, Any]:
    return {"title": title, "paragraphs": [{"context": c, "qas": qas} for c, qas in paragraphs]}


def write(folder: Path, *articles: Any, name: str = "train.json") -> SourceSpec:
    folder.mkdir(exist_ok=True)
    data = json.dumps({"version": "v2.0", "data": list(articles)}).encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return SourceSpec(path=str(folder), format="squad")


@pytest.mark.parametrize("name", ["train.json", "dev.json.gz"])
def test_each_question_is_a_record_with_its_context_and_title(tmp_path: Path, name: str) -> None:
    impossible = question("Why?", is_impossible=True, plausible_answers=[])
    source = write(
        tmp_path / "d",
        article("One", ("In Rome.", [question("Where?", ("Rome", 3)), impossible])),
        article("Two", ("At noon.", [question("When?", ("noon", 3), ("At noon", 0))])),
        name=name,
    )
    records, account = read_source(source)
    fields = [record.fields for record in records]
    assert [each["question"] for each in fields] == ["Where?", "Why?", "When?"]
    assert [each["title"] for each in fields] == ["One", "One", "Two"]
    assert fields[0]["context"] == "In Rome."
    assert fields[1]["answers"] == []
    assert fields[1]["is_impossible"] is True
    assert fields[2]["answers"][1] == {"text": "At noon", "answer_start": 0}
    assert (account.read, account.kept) == (3, 3)


def test_what_is_wrong_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    source = write(
        tmp_path / "d",
        {"title": "no paragraphs"},
        article("good", ("In Rome.", [question("Where?", ("Rome", 3)), "no mapping"])),
        {"title": "no context", "paragraphs": [{"qas": []}]},
        name="a.json",
    )
    (tmp_path / "d" / "b.json").write_text('{"data": ')
    (tmp_path / "d" / "c.json").write_text('{"rows": []}')
    (tmp_path / "d" / "d.json").write_text('{"data": []}')
    records, account = read_source(source)
    assert len(records) == 1
    assert dict(account.left_out) == {
        "article without a list of `paragraphs`": 1,
        "question that is no mapping": 1,
        "paragraph without a `context` and a list of `qas`": 1,
        "file not JSON": 1,
        "JSON file without a list `data`, which SQuAD's have": 1,
        "SQuAD file without questions": 1,
    }
    assert account.read == account.kept + account.left_out.total()


def test_questions_of_a_context_stay_together_and_bad_answers_are_counted(
    tmp_path: Path, place: Location, execute: Any
) -> None:
    tokenizer = Location.parse(str(tmp_path / "tokenizer"))
    TextProcessor(train_pair_tokenizer(["In town 17 it was noon."])).save(tokenizer)
    paragraphs = [
        (f"In town {i}\r\nit was noon.", [question("When?", ("noon", 17)), question("Who?")])
        for i in range(40)
    ]
    bad = [question("A?", ("rain", 3)), question("B?", ("", 0)), question("When?", ("noon", 17))]
    lacking = {"question": "C?"}
    paragraphs[0] = (paragraphs[0][0], [*paragraphs[0][1], *bad, lacking])
    source = write(tmp_path / "d", article("Towns", *paragraphs))
    recipe = labelled(source, "question_answering", tokenizer, holdout=0.3)
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    assert content["left_out"] == {
        "record with an answer that its context does not have": 1,
        "record with an empty answer in 'answers'": 1,
        "record without a value in 'answers'": 1,
    }
    assert content["duplicates"] == 1
    sides = []
    for split in ("train", "holdout"):
        data = dataset_of(place, content, split)
        rows = data.read(np.arange(data.num_rows))
        sides.append(set(rows["context"].to_pylist()))
        assert len(rows) == 2 * len(sides[-1])
        assert set(map(tuple, rows["answers"].to_pylist())) == {("noon",), ()}
    assert all(sides)
    assert not sides[0] & sides[1]
