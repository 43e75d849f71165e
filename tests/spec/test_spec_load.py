import pickle
from pathlib import Path

import pytest

from raymodel.errors import SpecError
from raymodel.spec.load import load_job
from raymodel.spec.quantity import Amount

GOOD = """\
name: first
cluster: {workers: 2}
prepare:
  sources:
    - {path: "python:stdlib"}
  tokenizer: {vocab_size: 4K}
  sequence_length: 256
pretrain:
  model: {preset: llama-tiny}
  global_batch: 32
  duration: 2M tokens
  optimizer:
    learning_rate: 1e-3
"""


def test_a_job_file_becomes_a_job_with_positions(write_job):
    path = write_job(GOOD)
    loaded = load_job(path)
    assert loaded.job.pretrain.duration == Amount(2e6, "tokens")
    assert loaded.job.pretrain.optimizer.learning_rate == 0.001
    assert loaded.job.prepare.tokenizer.vocab_size == 4000
    assert loaded.positions["pretrain", "optimizer", "learning_rate"].line == 13
    assert loaded.path == path


def test_a_resolved_job_loads_to_the_same_job(write_job):
    import yaml

    job = load_job(write_job(GOOD)).job
    again = load_job(write_job(yaml.safe_dump(job.to_dict(), sort_keys=False))).job
    assert again == job
    assert again.identity() == job.identity()


def test_nothing_in_a_value_is_expanded(write_job, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    loaded = load_job(write_job(GOOD.replace("python:stdlib", "~/data/$SECRET")))
    assert loaded.job.prepare.sources[0].path == "~/data/$SECRET"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "learning_rate: 1e-3",
            "learning_rat: 1e-3",
            "job.yaml:13: pretrain.optimizer.learning_rat: unknown key 'learning_rat'; did you "
            "mean 'learning_rate'? (known keys: name, learning_rate, weight_decay, betas, eps, "
            "momentum, nesterov, gradient_clip)",
        ),
        (
            "  global_batch: 32",
            "  global_batch: 32\n  learning_rate: 1e-3",
            "job.yaml:11: pretrain.learning_rate: unknown key 'learning_rate'; did you mean "
            "'optimizer.learning_rate'?",
        ),
        (
            "pretrain:",
            "pretrian:",
            "job.yaml:8: pretrian: unknown key 'pretrian'; did you mean 'pretrain'?",
        ),
        (
            "duration: 2M tokens",
            "duration: 3 parsecs",
            "job.yaml:11: pretrain.duration: '3 parsecs' is not an amount above zero; write "
            '"100 steps", "2M tokens" or "3 epochs"',
        ),
        (
            "  duration: 2M tokens\n",
            "",
            "job.yaml:8: pretrain: `duration` is missing (How long to train); write an amount, "
            'like "100 steps", "2M tokens" or "3 epochs"',
        ),
        (
            '{path: "python:stdlib"}',
            "{format: text}",
            "job.yaml:5: prepare.sources.0: `path` is missing",
        ),
        (
            '- {path: "python:stdlib"}',
            "[]",
            "job.yaml:4: prepare.sources: 0 given; give at least 1",
        ),
        (
            "global_batch: 32",
            "global_batch: '32'",
            "job.yaml:10: pretrain.global_batch: '32' is not a whole number, from 1 to 100,000,000",
        ),
        (
            "global_batch: 32",
            "global_batch: 0",
            "job.yaml:10: pretrain.global_batch: 0 must be at least 1",
        ),
        (
            "global_batch: 32",
            "global_batch: 33",
            "job.yaml:10: pretrain.global_batch of 33 cannot be divided by 2 workers; use 32 or "
            "34, or change cluster.workers",
        ),
        (
            "global_batch: 32",
            "global_batch: 32\n  precision: fp61",
            "job.yaml:11: pretrain.precision: unknown value 'fp61'; did you mean 'fp16'? (known "
            "values: bf16, fp16, fp32)",
        ),
        (
            "global_batch: 32",
            "global_batch: 32\n  checkpoint: {wait: yes}",
            "job.yaml:11: pretrain.checkpoint.wait: 'yes' is not true or false; write true",
        ),
        (
            "learning_rate: 1e-3",
            "betas: 0.9",
            "job.yaml:13: pretrain.optimizer.betas: 0.9 is not a list, each item a number, at "
            "least 0 and below 1; write [0.9]",
        ),
        (
            "learning_rate: 1e-3",
            "learning_rate: 1e999",
            "job.yaml:13: pretrain.optimizer.learning_rate: 1e999 is too large for a number",
        ),
        (
            "preset: llama-tiny",
            "preset: 3",
            'job.yaml:9: pretrain.model.preset: 3 is not text; quote it: "3"',
        ),
        (
            "name: first",
            "name: My Job",
            "job.yaml:1: name: 'My Job' does not fit; wanted: Folder name of the run",
        ),
        (
            "tokenizer: {vocab_size: 4K}",
            "tokenizer: {}",
            "job.yaml:6: prepare.tokenizer: give either `vocab_size`",
        ),
        (
            "tokenizer: {vocab_size: 4K}",
            "tokenizer: 3",
            "job.yaml:6: prepare.tokenizer: 3 is not a section (",
        ),
        (
            "pretrain:",
            "serve:\n  host: 0.0.0.0\npretrain:",
            "job.yaml:9: serve: host '0.0.0.0' can be reached from outside; set `token_env`",
        ),
    ],
)
def test_a_problem_names_line_field_value_rule_and_nearest_name(refusal, old, new, message):
    assert GOOD.count(old) == 1
    assert refusal(GOOD.replace(old, new)).startswith(message)


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        (
            "two",
            "cluster.workers: 'two' is not a whole number, from 1 to 100,000 or a section",
        ),
        ("[1]", "cluster.workers: a list is not a whole number, from 1 to"),
        ("0", "cluster.workers: 0 must be at least 1"),
        ("{min: x, max: 2}", "cluster.workers.min: 'x' is not a whole number, from 1"),
        ("{min: 3, max: 2}", "cluster.workers: min is 3 and max is 2; min must not exceed max"),
        ("{min: 1, max: 2, mox: 3}", "cluster.workers.mox: unknown key 'mox'; did you mean 'max'?"),
    ],
)
def test_a_union_gives_one_message(refusal, workers, message):
    text = refusal(GOOD.replace("workers: 2", f"workers: {workers}"))
    assert text.startswith(f"job.yaml:2: {message}")
    assert "\n" not in text


def test_all_problems_come_at_once_in_the_order_of_the_file(refusal):
    text = refusal(
        GOOD.replace("learning_rate", "learning_rat")
        .replace("name: first", "name: first\nseeed: 1")
        .replace("{path:", "{pth: 1, path:")
    )
    lines = text.splitlines()
    assert lines[0] == "3 problems"
    assert [line.split(":")[1] for line in lines[1:]] == ["2", "6", "14"]


def test_a_bad_item_does_not_make_its_list_seem_too_short(refusal):
    text = refusal(GOOD.replace('{path: "python:stdlib"}', '{path: "python:stdlib", pth: 1}'))
    assert "at least 1" not in text
    assert text.startswith("job.yaml:5: prepare.sources.0.pth: unknown key 'pth'")


def test_a_missing_file_points_to_init(tmp_path: Path):
    with pytest.raises(SpecError, match=r"none\.yaml: no such file; `raymodel init"):
        load_job(tmp_path / "none.yaml")


def test_a_folder_and_binary_junk_are_refused(tmp_path: Path):
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        load_job(tmp_path)
    (tmp_path / "junk.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(SpecError, match=r"junk\.yaml:1: byte 6 of the file is not UTF-8"):
        load_job(tmp_path / "junk.yaml")


@pytest.mark.parametrize("text", ["just text", "[1, 2]", "3"])
def test_a_file_that_holds_no_sections_is_refused(refusal, text):
    assert "is not a job; write sections" in refusal(text)


def test_the_error_pickles_with_its_message(write_job):
    with pytest.raises(SpecError) as caught:
        load_job(write_job("nam: x"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert copy.exit_code == 2
