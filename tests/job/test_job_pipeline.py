"""What a run says at its end."""

import io
import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from raymodel.errors import GateError
from raymodel.job import run as whole
from raymodel.job.pipeline import Pipeline
from raymodel.job.run import _next_steps
from raymodel.job.spec import Job
from raymodel.observe.story import Story
from raymodel.storage.artifact import Artifact
from raymodel.storage.manifest import Manifest
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location

MEASURES = ("perplexity", "bits_per_byte", "bleu", "chrf", "text_perplexity", "text_bits_per_byte")


def artifact(run: Run, stage: str, content: dict[str, object]) -> Artifact:
    manifest = Manifest(
        format_version=1,
        job_name=run.name,
        stage=stage,
        fingerprint="ab" * 8,
        parents={},
        versions={},
        created="",
        files={},
        content=content,
    )
    return Artifact(run.execution(stage, "ab" * 8), manifest)


def closing_lines(tmp_path: Path, contents: dict[str, dict[str, object]]) -> list[str]:
    job = Job.model_validate({"name": "j" * 63, "serve": {"model": "x"}})
    stream, run = io.StringIO(), Run(Location.parse(str(tmp_path)) / job.name)
    with ExitStack() as stack:
        p = Pipeline(job, run, Story(stream), stack, None, tmp_path)
        for stage, content in contents.items():
            p._book(stage, artifact(run, stage, content), 1e6)
        p.close(1e6)
    return stream.getvalue().splitlines()


def test_the_closing_lines_fit_a_terminal_of_80_columns_but_for_whole_paths(tmp_path: Path) -> None:
    trained = {
        "tokens": 987e12,
        "tokens_per_s": 123.4e6,
        "first_loss": 12345.678,
        "loss": 0.0012345,
    }
    measured = {"metrics": dict.fromkeys(MEASURES, 123456.789)}
    stages = ("prepare", "pretrain", "examples", "finetune")
    lines = closing_lines(tmp_path, dict.fromkeys(stages, trained) | {"evaluate": measured})
    assert [line for line in lines if len(line) > 80] == [f"  {tmp_path / ('j' * 63)}"]
    table = lines[1:7]
    assert [line.split()[0] for line in table] == ["stage", *stages, "evaluate"]
    assert all(line.endswith("ab" * 8) for line in table[1:])
    below = "\n".join(lines[7:])
    assert all(f"{name} 1.235e+05" in below for name in MEASURES)


def test_what_was_not_measured_is_not_a_number(tmp_path: Path) -> None:
    lines = closing_lines(tmp_path, {"evaluate": {"metrics": {"bleu": 1.0, "chrf": None}}})
    assert "evaluate  bleu 1 · chrf –" in lines


def test_the_closing_lines_name_the_page_of_each_dataset(tmp_path: Path) -> None:
    lines = closing_lines(tmp_path, {"prepare": {"card": "card.html"}, "evaluate": {}})
    place = tmp_path / ("j" * 63) / "prepare" / ("ab" * 8) / "card.html"
    assert [line for line in lines if "card" in line] == [f"prepare   data card: {place}"]


def test_the_way_on_names_the_settings_of_the_command(tmp_path: Path) -> None:
    job = Job.model_validate({"name": "j", "serve": {"model": "x"}})
    lines = _next_steps(
        job, "job.yaml --set 'name=a b'", Run(Location.parse(str(tmp_path)) / job.name)
    )
    assert "  raymodel run job.yaml --set 'name=a b' --keep-serving" in lines


def test_a_missed_gate_is_told_after_the_closing_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = Job.model_validate({"name": "gated", "serve": {"model": "x"}})
    monkeypatch.setattr(whole, "check_inputs", lambda *_: None)
    monkeypatch.setattr(whole, "_run_stages", lambda *_: "accuracy is 0.1")
    stream = io.StringIO()
    with pytest.raises(GateError, match=r"accuracy is 0\.1"):
        whole.run(job, job_path="job.yaml", story=Story(stream))
    assert re.search(r"^gated: [\d.]+ ?s, in\b", stream.getvalue(), re.MULTILINE)
    assert "next:" not in stream.getvalue()
