"""A job whose texts served models tell in other words needs them until its examples are made."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymodel import cli
from raymodel.testing.tiny import build_tiny_bert, train_tiny_tokenizer
from raymodel.testing.translator import stub_translator


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask_here: list[Any]) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    lines = [{"text": f"a b {i}", "label": "xy"[i % 2]} for i in range(50)]
    Path("d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    build_tiny_bert().save_pretrained("base")
    train_tiny_tokenizer(["a b c"] * 3, vocab_size=300).save_pretrained("base")
    return {
        "name": "tiny",
        "storage": "runs",
        "finetune": {
            "base": "base",
            "sources": [{"path": "d.jsonl", "format": "jsonl", "fields": {"label": "label"}}],
            "max_length": 16,
            "global_batch": 8,
            "duration": "2 steps",
        },
    }


def codes(job: dict[str, Any], made_by: dict[str, Any], task: str) -> dict[str, int]:
    job["finetune"]["task"] = {"name": task, "augment": {"back_translation": made_by}}
    Path("job.yaml").write_text(yaml.safe_dump(job))
    return {command: cli.main([command, "job.yaml"]) for command in ("check", "plan")}


def test_a_server_that_cannot_do_it_is_told_before_anything_is_made(
    job: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with stub_translator() as server:
        assert codes(job, server.spec, "text_classification") == {"check": 0, "plan": 0}
        unclear = server.spec | {"back": {"url": server.url}}
        capsys.readouterr()
        assert codes(job, unclear, "text_classification") == {"check": 0, "plan": 2}
        assert "back_translation.back: " in capsys.readouterr().err
        assert server.asked == []
    codes(job, server.spec, "text_classification")
    assert "cannot be reached" in capsys.readouterr().err
    assert cli.main(["run", "job.yaml"]) != 0
    assert "cannot be reached" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("made_by", "task", "told"),
    [
        ({"there": {"url": "here"}}, "text_classification", "'here' is no URL of a server"),
        ({"there": {"url": "http://me:hunter2@a"}}, "text_classification", "may hold a secret"),
        (
            {"there": {"url": "http://a", "prompt": "translate"}},
            "text_classification",
            "'translate' has no place for the text; write {text}",
        ),
        ({"there": {"url": "http://a"}}, "embedding", "unknown key 'back_translation'"),
        ({"there": {"url": "http://a"}}, "token_classification", "has no `augment`"),
    ],
)
def test_check_refuses_what_no_server_could_do(
    job: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    made_by: dict[str, Any],
    task: str,
    told: str,
) -> None:
    assert codes(job, {"back": {"url": "http://a"}} | made_by, task)["check"] == 2
    err = capsys.readouterr().err
    assert told in err
    assert "hunter2" not in err
