"""Conversations from files to rows: found by their fields, told, counted, and on one side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.rows import RowKind
from raymodel.data.run import run_examples
from raymodel.data.shard import dataset_of
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.data.step import Step
from raymodel.errors import ArtifactError, SourceError
from raymodel.modality.text import TextProcessor
from raymodel.storage.uri import Location
from raymodel.tasks.spec.language import ChatPreferenceSpec, ChatSpec
from raymodel.testing.families import CHATML, build_tokenizer
from raymodel.train.spec import FinetuneSpec

Execute = Callable[[Step], None]


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """The folder of a tokenizer with a chat template."""
    place = Location.parse(str(tmp_path_factory.mktemp("chatty")))
    TextProcessor(build_tokenizer(CHATML)).save(place)
    return place


def messages(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant") * len(contents)
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


def source(path: Path, records: list[Any], *, as_array: bool = False) -> SourceSpec:
    lines = "\n".join(map(json.dumps, records))
    path.write_text(json.dumps(records, indent=1) if as_array else lines + "\n")
    return SourceSpec(path=str(path), format="jsonl")


def recipe_of(tokenizer: Location, *sources: SourceSpec, **fields: Any) -> Recipe:
    kind = RowKind(task=ChatSpec(too_long="drop"), length=fields.pop("length", 300))
    given: dict[str, Any] = {"clean": CleanSpec(), "holdout": 0.3, "seed": 7, "kind": kind} | fields
    return Recipe(sources=sources, processor=tokenizer, **given)


def test_three_ways_of_writing_are_read_said_and_make_the_same_rows(
    tmp_path: Path, place: Location, chatty: Location, execute: Execute
) -> None:
    asked = [(f"question {n}", f"answer {n}") for n in range(30)]
    openai = source(tmp_path / "a.jsonl", [{"messages": messages(q, a)} for q, a in asked])
    alpaca = source(
        tmp_path / "b.json",
        [{"instruction": q, "input": "", "output": a} for q, a in asked],
        as_array=True,
    )
    sharegpt = source(
        tmp_path / "c.json",
        [
            {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
            for q, a in asked
        ],
        as_array=True,
    )
    said: list[str] = []
    recipe = recipe_of(chatty, openai, alpaca, sharegpt)
    content = prepare_dataset(recipe, place, execute, said.append)
    told = "\n".join(said)
    assert "a.jsonl': 30 conversations, turns in 'messages', as OpenAI writes them" in told
    assert "b.json': 30 conversations, instruction, input and output, as Alpaca has them" in told
    assert "c.json': 30 conversations, turns in 'conversations', as ShareGPT writes them" in told
    assert (content["read"], content["duplicates"]) == (90, 60)
    assert content["splits"]["train"]["rows"] + content["splits"]["holdout"]["rows"] == 30
    rows = dataset_of(place, content, "train").read(np.arange(3)).to_pylist()
    tokenizer = build_tokenizer(CHATML)
    for row in rows:
        turns = json.loads(row["messages"])
        whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        assert row["input_ids"] == whole


def test_conversations_with_one_opening_fall_on_one_side(
    tmp_path: Path, place: Location, chatty: Location, execute: Execute
) -> None:
    records = [
        {"messages": messages(f"question {n % 20}", f"answer {n}", "more", "no")} for n in range(60)
    ]
    recipe = recipe_of(chatty, source(tmp_path / "a.jsonl", records))
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    openings = {}
    for split in ("train", "holdout"):
        data = dataset_of(place, content, split)
        rows = data.read(np.arange(data.num_rows)).to_pylist()
        openings[split] = {json.loads(row["messages"])[0]["content"] for row in rows}
        assert rows
    assert not openings["train"] & openings["holdout"]


def test_what_is_left_out_is_counted_by_reason_and_what_was_asked_for_is_no_fault(
    tmp_path: Path, place: Location, chatty: Location, execute: Execute
) -> None:
    good = [{"messages": messages(f"question {n}", "yes")} for n in range(20)]
    bad = [
        {"messages": messages("a", "b")[::-1]},
        {"messages": [{"role": "narrator", "content": "x"}]},
        {"messages": messages("a", "")},
        {"messages": [*messages("a"), {"role": "assistant", "tool_calls": [{}]}]},
        {"text": "x"},
        {"messages": messages("a", "b" * 5000)},
    ]
    long = [{"messages": messages(f"long {n}", "what " * 400)} for n in range(50)]
    clean = CleanSpec(max_chars=4000)
    recipe = recipe_of(chatty, source(tmp_path / "a.jsonl", good + bad + long), clean=clean)
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    assert content["left_out"] == {
        "conversation longer than clean.max_chars": 1,
        "conversation that begins with the assistant": 1,
        "conversation with a turn without content": 1,
        "conversation with an unknown role": 1,
        "conversation with tool calls": 1,
        "longer than max_length": 50,
        "record without messages, conversations, or instruction and output": 1,
    }


def test_a_tokenizer_without_a_template_is_one_clear_error(
    tmp_path: Path, place: Location, tokenizer: Location, execute: Execute
) -> None:
    records = [{"messages": messages(f"question {n}", "yes")} for n in range(20)]
    recipe = recipe_of(tokenizer, source(tmp_path / "a.jsonl", records))
    with pytest.raises(SourceError, match=r"a\.jsonl.*no chat template; name one"):
        prepare_dataset(recipe, place, execute, lambda text: None)


def test_a_template_that_teaches_no_end_is_refused_before_a_record_is_read(
    tmp_path: Path, chatty: Location
) -> None:
    """Where the job has pretrained the base itself, nothing could look at both before."""
    (tmp_path / "own.jinja").write_text("{{- eos_token }}")
    spec = FinetuneSpec.model_validate(
        {
            "task": {"name": "chat", "chat_template": "own.jinja"},
            "sources": [{"path": "nowhere.jsonl"}],
            "global_batch": 1,
            "duration": "1 step",
        }
    )
    nothing: Any = None
    with pytest.raises(ArtifactError, match=r"chatty.*chat template"):
        run_examples(spec, nothing, nothing, chatty, tmp_path)


def test_parquet_and_a_field_of_another_name_are_read_too(
    tmp_path: Path, place: Location, chatty: Location, execute: Execute
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    talks = [messages(f"question {n}", "yes", "sure?", f"sure {n}") for n in range(20)]
    pq.write_table(pa.table({"talk": talks}), tmp_path / "a.parquet")
    spec = SourceSpec(
        path=str(tmp_path / "a.parquet"), format="parquet", fields={"messages": "talk"}
    )
    content = prepare_dataset(recipe_of(chatty, spec), place, execute, lambda text: None)
    assert (content["read"], content["left_out"]) == (20, {})
    row = dataset_of(place, content, "train").read(np.arange(1)).to_pylist()[0]
    assert len(row["answers"]) == 4


def test_answers_follow_their_prompt_where_it_stands_in_a_field_of_its_own(
    tmp_path: Path, place: Location, chatty: Location, execute: Execute
) -> None:
    def record(n: int, prompt: Any) -> dict[str, Any]:
        answers = {"chosen": f"yes {n}", "rejected": f"no {n}"}
        turns = {k: [{"role": "assistant", "content": v}] for k, v in answers.items()}
        return {"prompt": prompt} | turns

    listed = [record(n, messages(f"question {n}")) for n in range(20)]
    texts = [record(n, f"other {n}") for n in range(20)]
    wrong = [record(1, 5), record(2, None)]
    said: list[str] = []
    recipe = recipe_of(
        chatty,
        source(tmp_path / "a.jsonl", listed),
        source(tmp_path / "b.jsonl", texts + wrong),
        kind=RowKind(task=ChatPreferenceSpec(reference="none"), length=300),
    )
    content = prepare_dataset(recipe, place, execute, said.append)
    assert content["left_out"] == {
        "conversation that begins with the assistant": 1,
        "conversation whose prompt is neither a text nor a list of turns": 1,
    }
    assert "20 conversations, turns in 'chosen' after 'prompt', as OpenAI" in "\n".join(said)
    data = dataset_of(place, content, "train")
    rows = data.read(np.arange(data.num_rows)).to_pylist()
    asked = {json.loads(row["messages"])[0]["content"].split()[0] for row in rows}
    assert asked == {"question", "other"}
