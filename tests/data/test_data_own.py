"""Cleaning steps of a user's own: what they keep, what is counted, and what names a dataset."""

import json
from pathlib import Path

import pytest
from labelled import classes, documents, labelled, texts_of, write_records

from raymodel.data.prepare import prepare_dataset
from raymodel.data.sources import prepare_identity
from raymodel.data.spec import CleanSpec, PrepareSpec, SourceSpec, TokenizerSpec
from raymodel.errors import SourceError, SpecError
from raymodel.tasks.own import own_step

TEMPLATES = Path(__file__).parents[2] / "docs/own"
TABLE = "a | b | c\n1 | 2 | 3"


def prepared(place, path, tokenizer, execute, steps, **fields):
    recipe = labelled(
        classes(path), "text_classification", tokenizer, CleanSpec(steps=steps), holdout=0, **fields
    )
    return prepare_dataset(recipe, place, execute, lambda text: None)


def test_a_step_changes_texts_and_leaves_out_those_it_gives_nothing_for(
    place, tmp_path, execute, tokenizer, own_folder
):
    records = [
        {"text": f"text {i} https://example.org/{i}", "label": "xy"[i % 2]} for i in range(4)
    ]
    # More than half is left out, as the job asks for: that is no sign of bad data.
    tables = [{"text": f"{TABLE} | {i}", "label": "x"} for i in range(9)]
    links = [{"text": "https://example.org", "label": "x"}]
    path = write_records(tmp_path / "d.jsonl", records + tables + links)
    own_folder(TEMPLATES)
    steps = ("steps:drop_links", "steps:drop_tables")
    content = prepared(place, path, tokenizer, execute, steps)
    assert content["left_out"] == {"dropped by steps:drop_tables": 9, "empty document": 1}
    assert documents(content) == 4
    assert {text for text, _ in texts_of(place, content, "train")} == {
        f"text {i} " for i in range(4)
    }


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 3", "gave a int; it must give the text to keep, or None"),
        ("return text[99]", r"d\.jsonl.*ended in IndexError: string index out of range"),
    ],
)
def test_a_step_that_fails_stops_with_the_record_and_its_own_words(
    place, tmp_path, execute, tokenizer, own_folder, body, said
):
    path = write_records(tmp_path / "d.jsonl", [{"text": "abc", "label": "x"}])
    (own_folder() / "failing_steps.py").write_text(f"def step(text): {body}\n")
    with pytest.raises(SourceError, match=said):
        prepared(place, path, tokenizer, execute, ("failing_steps:step",))


def test_a_step_whose_text_changed_makes_another_dataset(own_folder):
    folder = own_folder()
    (folder / "d.txt").write_text("x")
    (folder / "my_steps.py").write_text("def step(text): return text\n")

    def mark(**clean) -> str:
        spec = PrepareSpec.model_validate(
            {
                "sources": [{"path": "d.txt"}],
                "tokenizer": {"vocab_size": 300},
                "sequence_length": 8,
                "clean": clean,
            }
        )
        return json.dumps(prepare_identity(spec, folder), sort_keys=True)

    without, before = mark(), mark(steps=["my_steps:step"])
    assert "steps" not in without, "those who have none keep their datasets"
    (folder / "my_steps.py").write_text("def step(text): return text.lower()\n")
    assert len({without, before, mark(steps=["my_steps:step"])}) == 3


def test_what_is_no_step_is_refused(own_folder):
    (own_folder() / "no_steps.py").write_text("number = 1\ndef none(): ...\n")
    with pytest.raises(SpecError, match="a cleaning step is a function of"):
        own_step("no_steps:number")
    with pytest.raises(SpecError, match=r"cannot be called with \(text\)"):
        own_step("no_steps:none")


@pytest.mark.parametrize("task", ["text_classification", "token_classification"])
def test_examples_of_a_fresh_model_bring_forth_their_tokenizer(place, tmp_path, execute, task):
    texts = [{"text": f"tree house {i}", "label": "xy"[i % 2]} for i in range(20)]
    words = [{"tokens": ["tree", "house", str(i)], "tags": ["x", "y", "x"]} for i in range(20)]
    path = write_records(tmp_path / "d.jsonl", words if task.startswith("token") else texts)
    source = SourceSpec(path=path, format="jsonl")
    recipe = labelled(source, task, TokenizerSpec(vocab_size=290), holdout=0)
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    assert documents(content) == 20
    assert content["processor"]["vocab_size"] > 264, "more than single bytes: `tree`, `house`"
