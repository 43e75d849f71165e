"""Every record that is read ends as a row, as a duplicate, or left out for a reason."""

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from labelled import documents, labelled, pairs, write_records

from raymodel.data import read_step
from raymodel.data.account import Account
from raymodel.data.document import make_document
from raymodel.data.ledger import Ledger
from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.rows import RowKind, Rows
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.data.step import Step
from raymodel.errors import AccountError, SourceError
from raymodel.storage.uri import Location

Execute = Callable[[Step], None]


def rejects_of(place: Location) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place / "data/rejects.jsonl").read_text().splitlines()]


# ---- it adds up ----------------------------------------------------------------------------------


def random_record(random: random.Random) -> dict[str, Any] | str:
    """A good record, or one with a fault of some kind."""
    word = random.choice(["alpha", "beta", "gamma", "delta"])
    good = {"q": f"{word} {random.randrange(40)}", "a": f"{word}!", "label": word}
    faults: list[Callable[[], dict[str, Any] | str]] = [
        lambda: "{not json",
        lambda: "[1, 2]",
        lambda: "42",
        lambda: {**good, "a": random.choice(["", "  ", None, float("nan"), "\n"])},
        lambda: {**good, "q": random.choice(["", None, "x" * 4000, "\ud800", 3, 2.5, True])},
        lambda: {**good, "a": "y" * 4000},
        lambda: {"q": random.choice(["", " ", None]), "a": random.choice(["", None]), "label": ""},
        lambda: {key: good[key] for key in random.sample(sorted(good), random.randrange(3))},
        lambda: {**good, "label": random.choice([" pos", "pos", 1, 1.0, "1", True, None, " "])},
    ]
    return random.choice(faults)() if random.random() < 0.4 else good


@pytest.mark.parametrize("task", ["causal_lm", "text_classification", None])
@pytest.mark.parametrize("seed", range(4))
def test_records_with_any_faults_add_up(
    recipe: Recipe,
    place: Location,
    tmp_path: Path,
    execute: Execute,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    task: str | None,
    seed: int,
) -> None:
    monkeypatch.setattr("raymodel.data.plan.MIN_PARTITION_BYTES", 3000)
    chance = random.Random(seed)
    records = [random_record(chance) for _ in range(200)]
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    file = tmp_path / "records.jsonl"
    file.write_text("\n".join(lines))
    clean = CleanSpec(
        min_chars=chance.choice([1, 8]),
        max_chars=chance.choice([50, 10**6]),
        dedup=chance.choice(["exact", "none"]),
    )
    if task is None:
        source = SourceSpec(path=str(file), format="jsonl", fields={"text": "{q} {a}"})
        one = replace(recipe, sources=(source,), clean=clean)
    else:
        fields = {
            "causal_lm": {"prompt": "{q}", "response": "{a}"},
            "text_classification": {"text": "{q}", "label": "label"},
        }
        source = SourceSpec(path=str(file), format="jsonl", fields=fields[task])
        one = labelled(source, task, request.getfixturevalue("tokenizer"), clean)
    said: list[str] = []
    content = prepare_dataset(one, place, execute, said.append)

    assert content["read"] == len(lines)
    left_out = sum(content["left_out"].values())
    assert content["read"] == documents(content) + content["duplicates"] + left_out
    if task is not None:
        assert documents(content) == sum(s["rows"] for s in content["splits"].values())
    assert any(line.startswith("read 200: ") for line in said)
    counted = Counter(reject["reason"] for reject in rejects_of(place))
    assert counted.keys() == content["left_out"].keys()
    for reject in rejects_of(place):
        assert reject["file"] == "records.jsonl"
        assert reject["source"] == str(file)


class Forgetful(RowKind):
    """Loses a row without a word."""

    def rows(self, documents: Any, *arguments: Any) -> Rows:
        return super().rows(documents[1:], *arguments)


def forget_a_document(*arguments: Any) -> Any:
    """Loses one without a word."""
    document, account = make_document(*arguments), arguments[-1]
    return None if account.read == 3 else document


@pytest.mark.parametrize("at", ["document", "rows"])
def test_a_record_that_is_lost_without_a_word_is_an_error_of_ours(
    recipe: Recipe,
    place: Location,
    execute: Execute,
    at: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forgetful = recipe
    if at == "rows":
        forgetful = replace(recipe, kind=Forgetful(length=16))
    else:
        monkeypatch.setattr(read_step, "make_document", forget_a_document)
    with pytest.raises(AccountError, match=r"read 150: .* that makes 14\d\. .*not of the data"):
        prepare_dataset(forgetful, place, execute, lambda text: None)


# ---- what was left out ---------------------------------------------------------------------------


def test_empty_responses_are_left_out_with_their_lines(
    place: Location, tmp_path: Path, execute: Execute, tokenizer: Location
) -> None:
    answers = ["ok", "", "  ", "yes", "no"] * 8
    file = tmp_path / "d.csv"
    file.write_text("q,a\n" + "".join(f"q{i},{a}\n" for i, a in enumerate(answers)))
    source = SourceSpec(path=str(file), format="csv", fields={"prompt": "{q}", "response": "{a}"})
    said: list[str] = []
    content = prepare_dataset(labelled(source, "causal_lm", tokenizer), place, execute, said.append)
    assert content["left_out"] == {"empty response": 16}
    assert documents(content) == 24
    assert len(rejects_of(place)) == 5
    for reject in rejects_of(place):
        assert answers[reject["line"] - 2].strip() == "", "the header is line 1"
        assert f"q{reject['line'] - 2}'" in reject["sample"]
    assert any(line.endswith("0 duplicates, 16 left out") for line in said)
    assert any("16 × empty response. Samples: " in line for line in said)


@pytest.mark.parametrize("answer", ["", "  ", None, float("nan")])
def test_each_kind_of_empty_response_is_counted(
    place: Location, tmp_path: Path, execute: Execute, tokenizer: Location, answer: object
) -> None:
    records = [{"q": "1", "a": "yes"}, {"q": "2", "a": answer}]
    path = write_records(tmp_path / "d.jsonl", records)
    content = prepare_dataset(
        labelled(pairs(path), "causal_lm", tokenizer, holdout=0), place, execute, lambda text: None
    )
    assert content["left_out"] == {"empty response": 1}


def test_too_much_left_out_stops_with_shares_samples_and_the_fix(
    place: Location, tmp_path: Path, execute: Execute, tokenizer: Location
) -> None:
    file = tmp_path / "d.csv"
    file.write_text("q,a\n" + "".join(f"q{i},{'' if i % 4 else 'yes'}\n" for i in range(20)))
    source = SourceSpec(path=str(file), format="csv", fields={"prompt": "{q}", "response": "{a}"})
    one = labelled(source, "causal_lm", tokenizer)
    with pytest.raises(SourceError, match=r"15 of 20 records.*75\.0%.*max_left_out") as caught:
        prepare_dataset(one, place, execute, lambda text: None)
    assert caught.value.exit_code == 2
    assert "75.0%  empty response" in str(caught.value)
    assert "d.csv, line 3: " in str(caught.value)
    again = replace(one, max_left_out=0.75)
    assert documents(prepare_dataset(again, place, execute, lambda text: None)) == 5


def test_a_dataset_that_lost_every_row_says_for_what(
    place: Location, tmp_path: Path, execute: Execute, tokenizer: Location
) -> None:
    path = write_records(tmp_path / "d.jsonl", [{"q": "1", "a": ""}, {"q": "2", "a": " "}])
    one = labelled(pairs(path), "causal_lm", tokenizer, max_left_out=1.0)
    with pytest.raises(SourceError, match=r"no training rows.*2 × empty response left out"):
        prepare_dataset(one, place, execute, lambda text: None)


def test_a_source_that_is_lost_whole_is_not_hidden_by_a_larger_one(
    recipe: Recipe, place: Location, corpus: Path, tmp_path: Path, execute: Execute
) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small/x.txt").write_bytes(b"caf\xe9")
    small = SourceSpec(path=str(tmp_path / "small"))
    with pytest.raises(SourceError, match=r"small': 1 of 1 records read are left out"):
        prepare_dataset(
            replace(recipe, sources=(*recipe.sources, small)), place, execute, lambda text: None
        )


def test_what_the_job_file_asks_to_drop_does_not_count_as_lost(
    recipe: Recipe, place: Location, execute: Execute
) -> None:
    strict = replace(recipe, clean=CleanSpec(min_chars=700), max_left_out=0.0)
    content = prepare_dataset(strict, place, execute, lambda text: None)
    assert 0 < documents(content) < 75 < content["left_out"]["shorter than clean.min_chars"]
    assert content["left_out"].keys() == {"shorter than clean.min_chars"}


def test_nothing_left_out_leaves_no_file_of_rejects(
    recipe: Recipe, place: Location, execute: Execute
) -> None:
    prepare_dataset(recipe, place, execute, lambda text: None)
    assert not (place / "data/rejects.jsonl").exists()


def test_samples_are_few_of_each_reason_and_source() -> None:
    ledger, account = Ledger(["one", "two"]), Account()
    for line in range(9):
        account.begin("caf\udce9.txt", line + 1)
        account.leave_out("bad", "\ud800" * 500)
    for source, index in (("one", 0), ("one", 0), ("two", 1)):
        ledger.add(index, account.summary(source))
    assert ledger.read == 27
    assert ledger.left_out == {"bad": 27}
    assert Counter(reject["source"] for reject in ledger.rejects) == {"one": 5, "two": 5}
    assert ledger.rejects[0]["file"] == "caf\\udce9.txt", "what UTF-8 cannot hold is escaped"
    json.dumps(ledger.rejects, ensure_ascii=False).encode()


# ---- splits without rows -------------------------------------------------------------------------


def test_a_holdout_that_holds_nothing_out_is_told(
    place: Location, tmp_path: Path, execute: Execute, tokenizer: Location
) -> None:
    path = write_records(tmp_path / "d.jsonl", [{"q": "1 + 1", "a": "2"}])
    said: list[str] = []
    one = labelled(pairs(path), "causal_lm", tokenizer, holdout=0.01)
    prepare_dataset(one, place, execute, said.append)
    assert any("nothing is held out with a holdout of 0.01" in line for line in said)
    assert "read 1: 1 to train on, 0 held out, 0 duplicates, 0 left out" in said
