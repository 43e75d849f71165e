"""`raymodel submit` against a real Ray head with a token, started and ended here."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from raymodel import cli
from raymodel.testing.distributed import free_port

TOKEN = "a" * 64
BIN = Path(sys.executable).parent

# Stands in for the package in the submitted directory, so that the test is about submitting.
STAND_IN = """\
import os, sys
print("ran", *sys.argv[1:], "with", sorted(os.listdir(".")), flush=True)
sys.exit(3)
"""


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The dashboard address of a head that asks for a token."""
    temp = tempfile.mkdtemp(prefix="rm-")  # short: a socket's path has at most 107 characters
    port = free_port()
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=1"),
        *(f"--port={free_port()}", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"),
        *(f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={temp}"),
        *("--object-store-memory=80000000", "--disable-usage-stats"),
    ]
    environment = os.environ | {
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
            yield f"http://127.0.0.1:{port}"
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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "raymodel").mkdir()
    (tmp_path / "raymodel" / "__init__.py").touch()
    (tmp_path / "raymodel" / "__main__.py").write_text(STAND_IN, encoding="utf-8")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "old").touch()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "job.yaml"]) == 0
    return tmp_path


@pytest.mark.slow
def test_a_job_runs_on_a_real_head_and_its_exit_code_comes_back(folder, head, monkeypatch, capsys):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    code = cli.main(["submit", "job.yaml", "--address", head, "--set", "seed=3"])
    out = capsys.readouterr().out
    assert code == 3, out
    assert "ran run job.yaml --set seed=3 with ['job.yaml', 'raymodel']" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "words"), [("b" * 64, "refused the token"), ("", "none was found")]
)
def test_a_real_head_refuses_a_wrong_and_a_missing_token(
    folder, head, token, words, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    assert cli.main(["submit", "job.yaml", "--address", head]) == 2
    assert words in capsys.readouterr().err
