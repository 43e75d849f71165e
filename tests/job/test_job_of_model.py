"""`raymodel serve`: a model that lies there, served by a job that is in no file."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest

from raymodel import cli
from raymodel.errors import ArtifactError, SpecError
from raymodel.job.of_model import serving_job
from raymodel.job.run import _question
from raymodel.storage.artifact import open_artifact
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location
from raymodel.testing.distributed import free_port
from raymodel.testing.tiny import build_tiny_bert, train_tiny_tokenizer

FINGERPRINT = "0123456789abcdef"


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """With the run `chat`, and the folder of a model beside it."""
    run = Run(Location.parse(str(tmp_path / "runs" / "chat")))
    execution = run.execution("pretrain", FINGERPRINT)
    (execution.local_path / "model").mkdir(parents=True)
    (execution.local_path / "model" / "config.json").write_text("{}")
    commit_manifest(
        execution,
        job_name="chat",
        stage="pretrain",
        fingerprint=FINGERPRINT,
        parents={},
        content={"task": "causal_lm"},
    )
    run.set_latest("pretrain", FINGERPRINT)
    run.set_best(open_artifact(execution))
    folder = tmp_path / "My Model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return tmp_path / "runs"


@pytest.mark.parametrize("reference", ["chat", "runs/chat"])
def test_a_run_is_served_as_its_best_so_that_it_can_be_followed(
    reference: str, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(storage.parent)
    job = serving_job(reference, "runs", ["serve.watch=best", "serve.port=9000"]).job
    assert job.serve is not None
    assert (job.name, job.storage) == ("serve-chat", str(storage))
    assert (job.serve.model, job.serve.name) == ("chat/best", "chat")
    assert (job.serve.watch, job.serve.port) == ("best", 9000)


def test_a_folder_is_served_by_its_name(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(storage.parent)
    job = serving_job("My Model", "elsewhere").job
    assert job.serve is not None
    assert job.name == "serve-my-model"
    assert job.serve.name == "My Model"
    assert Path(str(job.serve.model)) == storage.parent / "My Model"
    assert Path(job.storage) == storage.parent / "elsewhere"


def test_a_stage_of_a_run_is_served(storage: Path) -> None:
    job = serving_job("chat/pretrain", str(storage)).job
    assert job.serve is not None
    assert job.serve.name == "chat"
    assert str(job.serve.model).endswith(f"pretrain/{FINGERPRINT}/model")


def test_what_cannot_be_served_is_said_before_anything_starts(
    storage: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArtifactError, match="is no folder here"):
        serving_job("nowhere", str(storage))
    with pytest.raises(SpecError, match=r"serve\.prot: unknown key.*port"):
        serving_job("chat", str(storage), ["serve.prot=1"])
    assert cli.main(["serve", "chat", "--storage", str(storage), "--port", "99999"]) == 2
    assert "serve.port" in capsys.readouterr().err
    assert not (storage / "serve-chat").exists()


def test_a_model_that_the_job_did_not_train_is_asked_what_its_task_takes(tmp_path: Path) -> None:
    """It was asked for a text to go on with, whatever it is for."""
    pipeline: Any = SimpleNamespace(
        job=SimpleNamespace(serve=SimpleNamespace(model="m"), compress=None),
        run=Run(Location.parse(str(tmp_path / "serve-m"))),
    )
    assert set(_question(pipeline, "embedding")[1]) == {"query"}
    assert set(_question(pipeline, "text_classification")[1]) == {"text"}


@pytest.mark.slow
def test_a_classifier_in_a_folder_is_served_until_ctrl_c(tmp_path: Path) -> None:
    tokenizer = train_tiny_tokenizer(["the cat and a dog"] * 30, vocab_size=300)
    folder, port = tmp_path / "judge", free_port()
    build_tiny_bert(("no", "yes"), vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Sockets have short paths.
    question = {"model": "judge", "input": "a cat"}
    # A folder of its own for Ray: its sockets have short paths.
    with TemporaryDirectory(prefix="ray-") as ray_folder, (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "raymodel", "serve", "judge", "--port", str(port)],
            cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT,
            env=os.environ | {"RAY_TMPDIR": ray_folder}, preexec_fn=_take_interrupts,
        )  # fmt: skip
        try:
            answer = _ask(f"http://127.0.0.1:{port}/classify", question, process)
            assert answer["data"][0]["label"] in ("no", "yes")
            assert answer["model"] == "judge"
            _wait_for("until Ctrl-C", tmp_path / "log", process)
        finally:
            process.send_signal(signal.SIGINT)
            status = process.wait(120)
    told = (tmp_path / "log").read_text()
    assert status == 0, told
    assert "Traceback" not in told


def _take_interrupts() -> None:
    """A process that a shell started behind its back has them ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _ask(url: str, body: dict[str, Any], process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Until there is an answer."""
    end_s, data = time.monotonic() + 180, json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    while True:
        assert process.poll() is None, "it ended"
        assert time.monotonic() < end_s, "it does not answer"
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return dict(json.load(response))
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
        except OSError:  # nobody listens yet
            pass
        time.sleep(0.5)


def _wait_for(words: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + 60
    while words not in log.read_text():
        assert process.poll() is None, "it ended"
        assert time.monotonic() < end_s, log.read_text()
        time.sleep(0.2)
