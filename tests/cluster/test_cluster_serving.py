"""What a cluster serves: listed, named to who waits for its places, replaced, taken down."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.job_submission import JobStatus

from raymodel import cli
from raymodel.cluster import head as head_module
from raymodel.job import pipeline
from raymodel.spec.load import load_job
from raymodel.testing.distributed import free_port
from raymodel.testing.http import listening
from raymodel.testing.nodes import Nodes
from raymodel.testing.tiny import tiny_job, write_tiny_corpus

APP = {
    "status": "RUNNING",
    "deployments": {"model": {"replicas": [{}, {}]}},
}


class Dashboard(BaseHTTPRequestHandler):
    apps: dict[str, Any]

    def do_GET(self) -> None:
        answers = {
            "/api/version": {"ray_version": "2.60.0"},
            "/api/serve/applications/": {
                "applications": self.apps,
                "http_options": {"host": "127.0.0.1", "port": 8000},
            },
        }
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answers[self.path]).encode())

    def log_message(self, *_: object) -> None:
        pass


class Client:
    """Runs what is submitted by taking the app away, unless it is to fail."""

    status = JobStatus.SUCCEEDED
    known: list[SimpleNamespace] = []  # noqa: RUF012 - replaced in each test

    def __init__(self, url: str, headers: object) -> None:
        pass

    def _do_request(self) -> None: ...

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.known

    def submit_job(self, submission_id: str, entrypoint: str) -> None:
        Client.entrypoint = entrypoint
        if self.status == JobStatus.SUCCEEDED:
            Dashboard.apps = {}

    def get_job_info(self, submission_id: str) -> SimpleNamespace:
        return SimpleNamespace(status=self.status, message="it failed")

    def get_job_logs(self, submission_id: str) -> str:
        return "one\nlast words\n"


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A dashboard of a cluster that serves two apps, one of them a job's."""
    monkeypatch.setattr(Dashboard, "apps", {"raymodel-a": APP, "shop": APP}, raising=False)
    monkeypatch.setattr(head_module, "JobSubmissionClient", Client)
    monkeypatch.setattr(Client, "known", [])
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with listening(Dashboard) as url:
        yield url


def submission(name: str, status: JobStatus) -> SimpleNamespace:
    return SimpleNamespace(
        submission_id=f"{name}-0123-1", metadata={"job": name}, status=status, start_time=1
    )


def test_status_lists_what_a_cluster_serves(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", url)
    assert cli.main(["status", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines[1].split() == ["raymodel-a", "a", "running", "2", "http://127.0.0.1:8000"]
    assert lines[2].split()[:2] == ["shop", "–"]
    Dashboard.apps = {}
    assert cli.main(["status", str(tmp_path), "--address", url]) == 0
    assert f"nothing is served on {url}" in capsys.readouterr().out


@pytest.mark.parametrize("reference", ["a", "a-0123-1", "job.yaml"])
def test_an_app_is_taken_down_by_what_a_person_has_at_hand(
    url: str,
    reference: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    cli.main(["init", "job.yaml"])
    file = tmp_path / "job.yaml"
    file.write_text(file.read_text().replace("name: first", "name: a"))
    Client.known = [submission("a", JobStatus.SUCCEEDED)]
    assert cli.main(["stop", "--serving", reference, "--address", url]) == 0
    assert "the app of a is taken down" in capsys.readouterr().out
    assert Client.entrypoint.endswith("raymodel-a")
    assert cli.main(["stop", "--serving", reference, "--address", url]) == 0
    assert "a is not served on this cluster" in capsys.readouterr().out


def test_an_app_that_stays_is_an_error_with_the_last_words(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Client, "status", JobStatus.FAILED)
    assert cli.main(["stop", "--serving", "a", "--address", url]) == 1
    assert "the app of a is not taken down (last words)" in capsys.readouterr().err


def test_stop_says_when_the_app_of_a_job_that_ended_answers_on(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Client.known = [submission("a", JobStatus.SUCCEEDED), submission("b", JobStatus.SUCCEEDED)]
    assert cli.main(["stop", "a", "--address", url]) == 0
    assert "to take it down: raymodel stop --serving a" in capsys.readouterr().out
    assert cli.main(["stop", "b", "--address", url]) == 0
    assert "--serving" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stage", "places"),
    [("prepare", 1), ("pretrain", 4), ("examples", 1), ("finetune", 2), ("evaluate", 1)],
)
def test_an_app_makes_room_for_what_a_stage_needs_and_not_before(
    stage: str, places: int, tmp_path: Path
) -> None:
    finetune = {
        "task": "causal_lm",
        "sources": [{"path": "x", "fields": {"prompt": "{a}", "response": "{b}"}}],
        "global_batch": 4,
        "duration": "1 epoch",
        "sweep": {
            "trials": 2,
            "workers_per_trial": 2,
            "search": {"optimizer.learning_rate": {"choice": [1e-3, 1e-4]}},
        },
    }
    job = tiny_job(tmp_path, duration="2 steps") | {"cluster": {"workers": 4}, "finetune": finetune}
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    assert pipeline._places(load_job(file).job, stage).min_workers == places


# ---- a real one ----------------------------------------------------------------------------------


def write_job(folder: Path, name: str, port: int) -> Path:
    job = tiny_job(folder, duration="2 steps") | {
        "name": name,
        "storage": str(folder / "runs"),
        "cluster": {"workers": 2},
        "serve": {"port": port},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(job))
    return file


def until(is_so: Callable[[], object], told: Callable[[], object], limit_s: float = 180) -> None:
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, told()
        time.sleep(1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_two_cpus_a_served_app_starves_nobody(tmp_path: Path) -> None:
    """Its job trains again: it makes room. Another job names it, and goes on once it is gone."""
    write_tiny_corpus(tmp_path / "corpus")
    port = free_port()
    file, other = write_job(tmp_path, "first", port), write_job(tmp_path, "other", port)
    with Nodes(dashboard=True) as nodes:
        nodes.add(2)

        def command(*words: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "raymodel", *words],
                cwd=tmp_path,
                env=nodes.environment,
                capture_output=True,
                text=True,
                timeout=400,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        address = ("--address", nodes.address)
        command("run", file.name, *address)
        assert "raymodel-first" in command("status", "runs", "--address", nodes.dashboard)

        again = command("run", file.name, *address, "--set", "seed=9")
        assert "the app of first makes room: 2 workers of 1 CPU" in again
        assert "answers as 'first'" in again

        output = tmp_path / "output.txt"
        with open(output, "w") as stream:
            waits = subprocess.Popen(
                [sys.executable, "-m", "raymodel", "run", other.name, *address],
                cwd=tmp_path,
                env=nodes.environment,
                stdout=stream,
                stderr=stream,
            )
        try:
            until(
                lambda: "held by the app of job first (1 CPU" in output.read_text(),
                output.read_text,
            )
            until(lambda: "waiting" in command("status", "runs"), output.read_text)
            told = command("stop", "--serving", "first", "--address", nodes.dashboard)
            assert "the app of first is taken down" in told
            assert waits.wait(300) == 0, output.read_text()
        finally:
            waits.kill()
            waits.wait()
        assert "'other'" in output.read_text()
