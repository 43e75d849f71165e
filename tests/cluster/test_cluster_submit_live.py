"""`raymodel submit` against a real Ray head with a token, started and ended here."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray.job_submission import JobSubmissionClient

from raymodel import cli
from raymodel.observe.records import read_records
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location
from raymodel.testing.distributed import free_port
from raymodel.testing.nodes import left_in
from raymodel.testing.s3 import s3_bucket
from raymodel.testing.tiny import TINY_LLAMA, write_tiny_corpus
from raymodel.train.checkpoint.state import committed_steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TOKEN = "a" * 64
BIN = Path(sys.executable).parent


# Stands in for the package in the submitted directory, so that the test is about submitting.
STAND_IN = """\
import os, sys, time
time.sleep(3)
print("ran", *sys.argv[1:], "with", sorted(os.listdir(".")), flush=True)
sys.exit(3)
"""

NOTHING_LEFT = {"actors": [], "groups": [], "free_cpus": 1}


@dataclass(frozen=True)
class Head:
    """A Ray of one node with one CPU, which asks for a token."""

    url: str
    address: str
    folder: Path
    environment: dict[str, str]

    def left(self) -> dict[str, Any]:
        """What there is some seconds after the end of a job."""
        deadline = time.monotonic() + 30
        while (left := self.look()) != NOTHING_LEFT and time.monotonic() < deadline:
            time.sleep(0.5)
        return left

    def pending_groups(self) -> list[str]:
        return [state for state in self.look()["groups"] if state == "PENDING"]

    def look(self) -> dict[str, Any]:
        """Actors, placement groups and free CPUs now."""
        return left_in(self.address, self.environment)

    def log(self, submission_id: str) -> str:
        return str(self.client.get_job_logs(submission_id))

    @property
    def client(self) -> JobSubmissionClient:
        return JobSubmissionClient(self.url, headers={"Authorization": f"Bearer {TOKEN}"})


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    temp = tempfile.mkdtemp(prefix="rm-")  # short: a socket's path has at most 107 characters
    port, ray_port = free_port(), free_port()
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=1"),
        *(f"--port={ray_port}", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"),
        *("--node-ip-address=127.0.0.1", f"--ray-client-server-port={free_port()}"),
        *(f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={temp}"),
        *("--object-store-memory=80000000", "--disable-usage-stats"),
    ]
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = own | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    with open(f"{temp}/log", "wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_until_up(f"http://127.0.0.1:{port}", process)
            yield Head(f"http://127.0.0.1:{port}", f"127.0.0.1:{ray_port}", Path(temp), environment)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
            shutil.rmtree(temp, ignore_errors=True)


def wait_until_up(url: str, process: subprocess.Popen[bytes], limit_s: float = 120) -> None:
    request = urllib.request.Request(
        f"{url}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    end = time.monotonic() + limit_s
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise RuntimeError(f"the Ray head did not come up (exit code {process.poll()})")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and the cluster's token in the environment."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def folder(work: Path) -> Path:
    """With a job file, and a stand-in for the package."""
    (work / "raymodel").mkdir()
    (work / "raymodel" / "__init__.py").touch()
    (work / "raymodel" / "__main__.py").write_text(STAND_IN, encoding="utf-8")
    (work / "runs").mkdir()
    (work / "runs" / "old").touch()
    assert cli.main(["init", "job.yaml"]) == 0
    return work


def test_a_job_runs_on_a_real_head_and_its_exit_code_comes_back(folder, head, capsys):
    code = cli.main(["submit", "job.yaml", "--address", head.url, "--set", "seed=3"])
    out = capsys.readouterr().out
    assert code == 3, out
    assert "ran run job.yaml --set seed=3 with ['job.yaml', 'raymodel']" in out


@pytest.mark.parametrize(
    ("token", "words"), [("b" * 64, "refused the token"), ("", "none was found")]
)
def test_a_real_head_refuses_a_wrong_and_a_missing_token(
    folder, head, token, words, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    assert cli.main(["submit", "job.yaml", "--address", head.url]) == 2
    assert words in capsys.readouterr().err


def test_a_job_submitted_twice_at_once_runs_once(folder, head, capsys):
    command = ["submit", "job.yaml", "--address", head.url, "--set", "seed=4", "--detach"]
    with ThreadPoolExecutor() as pool:
        codes = list(pool.map(cli.main, [command, command]))
    out = capsys.readouterr().out
    assert codes == [0, 0]
    (submission_id,) = set(re.findall(r"first-[0-9a-f]{12}-\d+", out))
    assert out.count("attached to it") == 1
    assert cli.main(["logs", submission_id, "--address", head.url, "--follow"]) == 3


# ---- real jobs -----------------------------------------------------------------------------------


def job(corpus: Path, name: str, storage: str, **sections: Any) -> str:
    """Writes `NAME.yaml`: prepare, and what else is given."""
    write_tiny_corpus(corpus)
    prepare = {
        "sources": [{"path": str(corpus)}],
        "tokenizer": {"vocab_size": 300},
        "sequence_length": 16,
        "holdout": "20%",
    }
    whole = {"name": name, "storage": storage, "seed": 7, "prepare": prepare, **sections}
    Path(f"{name}.yaml").write_text(yaml.safe_dump(whole))
    return f"{name}.yaml"


def wait_for(is_so: Callable[[], object], told: Callable[[], str], limit_s: float = 180) -> None:
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, told()
        time.sleep(0.5)


def submit(head: Head, file: str, capsys: Any, *options: str) -> str:
    """Submits, detached. Returns the id."""
    assert cli.main(["submit", file, "--address", head.url, "--detach", *options]) == 0
    out: str = capsys.readouterr().out
    return out.split("submitted ")[1].split()[2].rstrip(",")


def kill_driver(file: str) -> None:
    """kill -9, as the out-of-memory killer does."""
    (pid,) = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [""])[1:] == ["-m", "raymodel", "run", file]
    ]
    os.kill(pid, signal.SIGKILL)


def test_secrets_reach_every_process_of_the_job_and_no_log_of_ray(
    work, tmp_path, head, monkeypatch, capsys
):
    """Driver and workers write to a bucket whose credentials only the submitter has."""
    with s3_bucket() as storage:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush-hush")
        file = job(tmp_path / "corpus", "secret", str(storage))
        names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        options = [word for name in names for word in ("--env", name)]
        code = cli.main(["submit", file, "--address", head.url, *options])
        out = capsys.readouterr().out
        assert code == 0, out
        assert Run(storage / "secret").latest("prepare") is not None
    assert "hush" not in out
    assert "hush" not in str(head.client.list_jobs())
    logs = [path for path in (head.folder / "session_latest/logs").rglob("*") if path.is_file()]
    assert len(logs) > 10
    assert not [path for path in logs if b"hush-hush-hush" in path.read_bytes()]


def test_a_stopped_job_leaves_a_checkpoint_and_goes_on_and_one_that_waits_leaves_nothing(
    work, tmp_path, head, capsys
):
    storage = tmp_path / "runs"
    pretrain = {
        "model": TINY_LLAMA,
        "global_batch": 8,
        "duration": "5000 steps",
        "log_every": "1 step",
        "validate_every": "5000 steps",
        "checkpoint": {"every": "5000 steps"},
    }
    file = job(tmp_path / "corpus", "first", str(storage), pretrain=pretrain)
    first = submit(head, file, capsys)

    def records() -> list[dict[str, Any]]:
        return [
            record
            for path in storage.glob("first/pretrain/*/metrics.jsonl")
            for record in read_records(Location.parse(str(path)))
        ]

    wait_for(lambda: len(records()) >= 5, lambda: head.log(first))

    # Of files of its own: that they are written anew would change the first job's input.
    second = submit(head, job(tmp_path / "other", "second", str(storage)), capsys)
    wait_for(lambda: "waiting for a free CPU" in head.log(second), lambda: head.log(second), 60)
    assert "1 worker of 1 CPU; free places: 0 on 1 node" in head.log(second)
    started = time.monotonic()
    assert cli.main(["stop", second, "--address", head.url]) == 0
    assert time.monotonic() - started < 20
    assert "run the same command again to go on" in capsys.readouterr().out
    assert not head.pending_groups()

    second = submit(head, "second.yaml", capsys)
    wait_for(lambda: "waiting for a free CPU" in head.log(second), lambda: head.log(second), 60)
    assert len(head.pending_groups()) == 1
    kill_driver("second.yaml")
    wait_for(lambda: head.client.get_job_status(second).is_terminal(), lambda: "", 30)
    wait_for(lambda: not head.pending_groups(), lambda: str(head.left()), 30)

    assert cli.main(["stop", file, "--address", head.url]) == 0
    assert "ended: STOPPED" in capsys.readouterr().out
    (run,) = [path for path in storage.glob("first/pretrain/*") if path.is_dir()]
    (saved,) = committed_steps(Location.parse(str(run)))
    assert 5 <= saved < 5000
    assert head.left() == NOTHING_LEFT

    assert cli.main(["submit", file, "--address", head.url, "--detach"]) == 0
    assert "start 2: what is complete is skipped" in capsys.readouterr().out
    again = first.removesuffix("1") + "2"
    wait_for(lambda: records()[-1]["step"] > saved + 5, lambda: head.log(again))
    assert cli.main(["stop", again, "--address", head.url]) == 0
    steps = [record["step"] for record in records() if "loss" in record]
    assert steps == list(range(1, len(steps) + 1))
    assert head.left() == NOTHING_LEFT


def test_what_one_node_cannot_hold_is_refused_at_once(work, tmp_path, head, capsys):
    file = job(tmp_path / "corpus", "large", str(tmp_path / "runs"))
    larger = ["--set", "cluster.cpus_per_worker=8"]
    assert cli.main(["submit", file, "--address", head.url, *larger]) == 1
    out = capsys.readouterr().out
    assert "a worker needs 8 CPU on one node, and no node has them (1 node of 1 CPU)" in out
    assert head.left() == NOTHING_LEFT


def test_the_doctor_examines_a_cluster_through_its_dashboard(work, tmp_path, head, capsys):
    file = job(tmp_path / "corpus", "sick", str(tmp_path / "runs"))
    assert cli.main(["doctor", file, "--address", head.url]) == 0
    out = capsys.readouterr().out
    assert "version of torch" in out
    assert "writes" in out
    assert not list((tmp_path / "runs").glob(".doctor*"))
    assert cli.main(["doctor", file, "--address", head.url, "--set", "cluster.workers=9"]) == 1
    assert "the nodes have places for 1" in capsys.readouterr().out
    assert head.left() == NOTHING_LEFT


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RAY_AUTH_TOKEN": "b" * 64}, "refused the token"),
        ({}, "asks for a token, and none was found"),
        ({"RAY_AUTH_MODE": "token"}, "RAY_AUTH_MODE is 'token', and no token was found"),
    ],
)
def test_ray_itself_refuses_a_wrong_or_a_missing_token_with_one_message(
    work, tmp_path, head, variables, words
):
    file = job(tmp_path / "corpus", "wrong", str(tmp_path / "runs"))
    own = {name: value for name, value in head.environment.items() if not name.startswith("RAY_")}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "raymodel", "run", file, "--address", head.address],
        env=own | {"HOME": str(tmp_path)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - started < 15, "Ray itself tries a wrong token for twenty seconds"
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_driver_sends_the_token_that_a_file_holds(work, tmp_path, head):
    """As `submit` does, without being told to by RAY_AUTH_MODE."""
    file = job(tmp_path / "corpus", "kept", str(tmp_path / "runs"))
    own = {name: value for name, value in head.environment.items() if not name.startswith("RAY_")}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text(TOKEN)
    done = subprocess.run(
        [sys.executable, "-m", "raymodel", "doctor", file, "--address", head.address],
        env=own | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "version of torch" in done.stdout


def test_parts_of_ones_own_travel_and_are_imported_where_the_job_runs(work, tmp_path, head, capsys):
    """The folder that they were submitted from is empty by then."""
    templates = Path(__file__).parents[2] / "docs/own"
    for file in templates.iterdir():
        if file.is_file():
            shutil.copy(file, work)
    lines = [{"text": f"{'ab'[i % 2] * 9} {i}", "label": "ab"[i % 2]} for i in range(60)]
    table = {"text": "1 | 2 | 3\n4 | 5 | 6", "label": "a"}
    (work / "texts.jsonl").write_text("\n".join(map(json.dumps, [*lines, table])))
    own = yaml.safe_load((work / "job.yaml").read_text()) | {"storage": str(tmp_path / "runs")}
    own["finetune"] |= {"duration": "8 steps", "parallel": {"zero": 3}}
    own["evaluate"]["gates"] = {}
    del own["serve"]
    (work / "job.yaml").write_text(yaml.safe_dump(own))
    submission_id = submit(head, "job.yaml", capsys)
    for path in work.iterdir():
        path.unlink() if path.is_file() else shutil.rmtree(path)
    code = cli.main(["logs", submission_id, "--address", head.url, "--follow"])
    out = capsys.readouterr().out
    assert code == 0, out
    assert "1 × dropped by steps:drop_tables" in out
    assert "measures:macro_recall" in out
