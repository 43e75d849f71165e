"""`raymodel monitor` and what a job file may say of it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
import yaml

from raymodel import cli
from raymodel.job.spec import Job
from raymodel.modality.text import TextProcessor
from raymodel.serve.app import build_app
from raymodel.serve.gate import Rules
from raymodel.serve.keys import Key, digest_of
from raymodel.serve.prediction import PredictionService
from raymodel.serve.spec import ServeSpec
from raymodel.tasks import get_task
from raymodel.testing.distributed import free_port
from raymodel.testing.tiny import build_tiny_bert, train_tiny_tokenizer

RULE = {"labels": ["no"], "window": "100s", "baseline": "1000s", "min_count": 20}


@contextmanager
def served(rules=None):
    """The URL of a tiny classifier of no, maybe and yes."""
    tokenizer = train_tiny_tokenizer(["some text, and some more"] * 3, vocab_size=300)
    model = build_tiny_bert(("no", "maybe", "yes"), vocab_size=len(tokenizer)).eval()
    task = get_task("text_classification")(processor=TextProcessor(tokenizer))
    service = PredictionService(model, task, name="tiny", spec=ServeSpec())
    config = uvicorn.Config(
        build_app(service, rules), port=free_port(), log_level="warning", lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{config.port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        service.close()


def write_job(folder, **monitor):
    path = folder / "job.yaml"
    job = {"name": "watching", "storage": "runs", "monitor": {"alerts": [RULE]} | monitor}
    path.write_text(yaml.safe_dump(job))
    return str(path)


def test_the_command_asks_a_server_for_texts_of_files_and_of_others_until_it_is_ended(tmp_path):
    port = free_port()
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox/a.txt").write_text("one text\nand another\n" + "very long " * 3000 + "\n")
    rules = Rules(keys=(Key("client", digest_of("secret")),))
    with served(rules) as url:
        job = write_job(tmp_path, url=url, follow=[{"path": "inbox"}], http={"port": port})
        command = subprocess.Popen(
            [sys.executable, "-m", "raymodel", "monitor", job],
            cwd=tmp_path,
            env=os.environ | {"RAYMODEL_TOKEN": "secret"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert command.stdout is not None
        assert "asks tiny" in command.stdout.readline()
        sent = httpx.post(f"http://127.0.0.1:{port}/texts", json={"texts": ["four", "five"]})
        assert sent.status_code == 202
        while httpx.get(f"http://127.0.0.1:{port}/health").json().get("texts", 0) < 5:
            time.sleep(0.05)
        command.send_signal(signal.SIGTERM)
        said = command.stdout.read()
        assert command.wait(30) == 0
    assert "5 texts, 0 alerts" in said
    assert (tmp_path / "runs/watching/monitor/state.sqlite").exists()


@pytest.mark.parametrize(
    ("monitor", "words"),
    [
        ({"alerts": [RULE | {"labels": ["noo"]}]}, "knows no, maybe, yes; did you mean 'no'?"),
        ({"model": "other"}, "has no model 'other'"),
        ({"webhook": {"url_env": "NO_SUCH_HOOK"}}, "NO_SUCH_HOOK, which is not set"),
    ],
)
def test_what_cannot_be_asked_is_told_at_the_start(tmp_path, monkeypatch, capsys, monitor, words):
    monkeypatch.chdir(tmp_path)
    with served() as url:
        job = write_job(tmp_path, url=url, follow=[{"path": "inbox"}], **monitor)
        assert cli.main(["monitor", job]) == 2
    assert words in capsys.readouterr().err


def test_a_server_that_is_not_there_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    url = f"http://127.0.0.1:{free_port()}"
    assert cli.main(["monitor", write_job(tmp_path, url=url, follow=[{"path": "a"}])]) == 1
    assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"monitor": {"follow": [{"path": "s3://b/texts"}], "url": "http://a"}}, "mount it"),
        ({"storage": "s3://b/runs", "monitor": {"http": {}, "url": "http://a"}}, "monitor.folder"),
        ({"monitor": {"http": {"port": 8000}}, "serve": {"model": "x/best"}}, "port of serve"),
        ({"monitor": {"http": {}}}, "monitor has no model"),
        ({"serve": {"model": "x/best"}}, "no `monitor:` section"),
    ],
)
def test_a_job_that_cannot_be_monitored_is_refused_before_anything_is_started(
    tmp_path, capsys, job, words
):
    job = {"name": "watching"} | job
    if "monitor" in job:
        job["monitor"] = {"alerts": [RULE]} | job["monitor"]
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    assert cli.main(["monitor", str(path)]) == 2
    assert words in capsys.readouterr().err


def test_a_job_that_serves_no_classifier_is_refused(tmp_path, capsys):
    job = {
        "name": "watching",
        "prepare": {
            "sources": [{"path": "texts"}],
            "tokenizer": {"vocab_size": 300},
            "sequence_length": 32,
        },
        "pretrain": {
            "model": {"preset": "llama-tiny"},
            "global_batch": 4,
            "duration": "2 steps",
            "optimizer": {"learning_rate": 0.01},
        },
        "serve": {},
        "monitor": {"alerts": [RULE], "http": {}},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    assert cli.main(["check", str(path)]) == 2
    assert "serves a model for causal_lm" in capsys.readouterr().err


def test_check_says_what_is_monitored(tmp_path, capsys):
    job = write_job(tmp_path, url="http://a", follow=[{"path": "inbox"}], http={})
    assert cli.main(["check", job]) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "monitor" in each]
    said = "inbox, http://127.0.0.1:8100/texts; alerts when no rises"
    assert line.split(maxsplit=1) == ["monitor", said]
    fields = yaml.safe_load(Path(job).read_text())
    assert json.dumps(Job.model_validate(fields).to_dict())
