"""Cleaning steps in a job: how they are written, what they see, what is counted of them."""

import json
from pathlib import Path

import pytest
from cleaned import cleaner_of
from labelled import classes, documents, labelled, texts_of, write_records
from pydantic import ValidationError

from raymodel.data.account import Account
from raymodel.data.cleaning.cleaner import STEPS
from raymodel.data.cleaning.spec import STEP_SPECS, OwnStepSpec
from raymodel.data.document import make_document
from raymodel.data.prepare import REJECTS, prepare_dataset
from raymodel.data.record import RawRecord
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.job.spec import Job
from raymodel.spec.reference import describe
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.fields import Field

MOJIBAKE = "schÃ¶n"


def spec_of(*steps) -> CleanSpec:
    return CleanSpec.model_validate({"steps": list(steps)})


# ---- how they are written ------------------------------------------------------------------------


def test_a_step_is_a_name_or_a_section_and_means_the_same() -> None:
    assert (
        spec_of("gopher")
        == spec_of({"name": "gopher"})
        == spec_of({"name": "gopher", "min_words": 50})
    )
    written = spec_of("unicode", {"name": "gopher", "min_words": 20})
    assert [step.name for step in written.steps] == ["unicode", "gopher"]
    assert CleanSpec.model_validate(written.to_dict()) == written


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("gofer", "'gofer' is not a cleaning step, nor a module.path:Name of your own; did you "
         "mean 'gopher'"),
        ({"name": "gopher", "min_words": -1}, "-1"),
        ({"min_words": 3}, "is not a cleaning step"),
        ({"gopher": {"min_words": 3}}, "write .name: gopher, …. with its settings beside it"),
        (3, "3 is not a cleaning step"),
        ({"name": "steps:mine", "min_words": 1}, "is a step of your own, which takes its name"),
        ("9:x", "names no part of your own"),
    ],
)  # fmt: skip
def test_what_is_no_step_is_refused(step, said) -> None:
    with pytest.raises(ValidationError, match=said):
        spec_of(step)


def test_steps_with_all_their_settings_are_read_back_from_what_names_a_result() -> None:
    steps = [
        {"name": "unicode", "form": "NFKC"},
        {"name": "language", "languages": ["en", "no"], "min_confidence": "50%"},
        {"name": "gopher", "stop_words": ["et"], "min_stop_words": 1},
        {"name": "repetition", "max_top_chars_frac": [0.5, 1, 1]},
        {"name": "c4", "bad_words": ["x"]},
        {"name": "fineweb", "max_short_lines_frac": None},
        {"name": "words", "hosts_file": "h.txt"},
        {"name": "pii", "kinds": ["phone"], "regions": ["US"]},
        {"name": "size", "min_side": 8},
        {"name": "aspect", "max_ratio": 2},
        {"name": "blur", "min_variance": 50, "longest_edge": 256},
        {"name": "duration", "min_seconds": 1},
        {"name": "silence", "max_share": "20%"},
        {"name": "clipping", "max_share": 0},
        {"name": "loudness", "max_lufs": -1.5},
        "steps:mine",
    ]
    written = spec_of(*steps)
    assert CleanSpec.model_validate(json.loads(json.dumps(written.to_dict()))) == written
    assert len({step.name for step in written.steps}) == len(STEP_SPECS) + 1


def test_a_step_that_is_given_twice_is_refused_unless_it_differs() -> None:
    with pytest.raises(ValidationError, match="is given twice"):
        spec_of("unicode", "gopher", "unicode")
    assert len(spec_of("unicode", {"name": "unicode", "form": "NFKC"}).steps) == 2


def test_every_step_has_a_spec_that_describe_tells() -> None:
    specs = {step.spec_class for step in STEPS}
    assert specs == {*STEP_SPECS, OwnStepSpec}
    text = describe(Job, "prepare.clean.steps")
    for spec in STEP_SPECS:
        name = spec.model_fields["name"].default
        assert f"\n{name}: " in text
        for field in spec.model_fields:
            assert field == "name" or f"\n  {field}: " in text


def test_order_settings_and_version_of_steps_are_in_the_fingerprint(monkeypatch) -> None:
    def marks(*steps) -> str:
        return json.dumps(spec_of(*steps).identity(), sort_keys=True)

    assert "steps" not in spec_of().identity(), "those who have none keep their datasets"
    known = {marks("unicode", "gopher"), marks("gopher", "unicode"), marks("gopher"),
             marks({"name": "gopher", "min_words": 20})}  # fmt: skip
    assert len(known) == 4
    monkeypatch.setattr(STEP_SPECS[0], "version", 2)
    assert marks("unicode", "gopher") not in known
    assert marks("gopher") in known


def test_the_mark_of_a_step_of_ones_own_is_what_it_was(own_folder) -> None:
    (own_folder() / "mine.py").write_text("def step(text): return text\n")
    (mark,) = spec_of("mine:step").identity()["steps"]
    assert mark[0] == "mine:step"
    assert len(mark[1]) == 16


# ---- what they see -------------------------------------------------------------------------------


def made(record, fields, *steps, **named):
    account = Account()
    account.begin("x")
    source = SourceSpec(path="x", format="jsonl", fields=named)
    raw, root = RawRecord(record, b"0" * 16), Location.parse("/nowhere")
    document = make_document(raw, source, root, fields, cleaner_of(*steps), account)
    return document, account


def test_all_texts_of_a_record_are_changed_and_no_label() -> None:
    fields = {
        "query": Field(kind="text", default="{q}"),
        "others": Field(kind="texts", default="others"),
        "label": Field(kind="label", default="label"),
    }
    record = {"q": MOJIBAKE, "others": [MOJIBAKE, "b"], "label": MOJIBAKE}
    document, account = made(record, fields, "unicode")
    assert document.values == {"query": "schön", "others": ["schön", "b"], "label": MOJIBAKE}
    assert account.changed == {"unicode": {"records": 1}}


def test_every_turn_of_a_conversation_is_changed_and_its_role_stays() -> None:
    turns = [{"role": role, "content": MOJIBAKE} for role in ("system", "user", "assistant")]
    document, _ = made({"messages": turns}, get_task("chat").fields, "unicode")
    assert [turn["role"] for turn in document.values["messages"]] == ["system", "user", "assistant"]
    assert {turn["content"] for turn in document.values["messages"]} == {"schön"}


def test_texts_of_a_record_are_judged_together() -> None:
    fields = {role: Field(kind="text", default=f"{{{role}}}") for role in ("prompt", "response")}
    step = {"name": "gopher", "min_words": 4, "min_stop_words": 0}
    document, _ = made({"prompt": "what is", "response": "this here"}, fields, step)
    assert document is not None
    document, account = made({"prompt": "what is", "response": "this"}, fields, step)
    assert document is None
    assert account.left_out == {"gopher: fewer than 4 words": 1}


def test_an_answer_is_changed_as_its_context_is_and_found_again() -> None:
    record = {
        "context": f"Es ist {MOJIBAKE} hier.",
        "question": "Wie?",
        "answers": [{"text": MOJIBAKE, "answer_start": 7}],
    }
    document, _ = made(record, get_task("question_answering").fields, "unicode")
    assert document.values["context"] == "Es ist schön hier."
    assert document.values["answers"] == [{"text": "schön", "start": 7}]


def test_a_step_sees_what_the_one_before_it_gave(own_folder) -> None:
    (own_folder() / "ordered.py").write_text(
        "def shout(text): return text.upper()\n"
        "def check(text): return text if 'Ö' in text else None\n"
    )
    fields = {"text": Field(kind="text", default="{text}")}
    steps = ["unicode", "ordered:shout", "ordered:check"]
    document, account = made({"text": MOJIBAKE}, fields, *steps)
    assert document.values == {"text": "SCHÖN"}
    assert account.changed == {"unicode": {"records": 1}, "ordered:shout": {"records": 1}}
    document, account = made({"text": MOJIBAKE}, fields, *reversed(steps))
    assert document is None
    assert account.left_out == {"dropped by ordered:check": 1}
    assert account.changed == {}, "of what is kept alone"


# ---- what is counted -----------------------------------------------------------------------------


def test_what_steps_leave_out_and_change_is_in_the_manifest_and_the_rejects(
    place, tmp_path: Path, execute, tokenizer
) -> None:
    good = [{"text": f"this here is text number {i}", "label": "x"} for i in range(6)]
    bad = [{"text": f"{MOJIBAKE} is a text of number {i}", "label": "y"} for i in range(4)]
    short = [{"text": f"{i}", "label": "x"} for i in range(20)]
    path = write_records(tmp_path / "d.jsonl", good + bad + short)
    clean = spec_of("unicode", {"name": "gopher", "min_words": 4, "min_stop_words": 0})
    recipe = labelled(classes(path), "text_classification", tokenizer, clean, holdout=0)
    said: list[str] = []
    content = prepare_dataset(recipe, place, execute, said.append)
    # More than half is left out, as the job asks for: that is no sign of bad data.
    assert content["left_out"] == {"gopher: fewer than 4 words": 20}
    assert content["changed"] == {"unicode": {"records": 4}}
    assert documents(content) == 10
    assert ("schön is a text of number 3", "y") in texts_of(place, content, "train")
    assert "changed by unicode: 4 documents" in said
    rejects = [json.loads(line) for line in (place / REJECTS).read_text().splitlines()]
    assert [reject["line"] for reject in rejects] == [11, 12, 13, 14, 15]
    assert {reject["reason"] for reject in rejects} == {"gopher: fewer than 4 words"}
    assert "'text': '0'" in rejects[0]["sample"]
