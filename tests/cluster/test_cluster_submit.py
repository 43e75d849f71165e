import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from raymodel import cli
from raymodel.cluster import submit as module
from raymodel.cluster.package import check_size, find_excludes
from raymodel.errors import ClusterError


class Head(BaseHTTPRequestHandler):
    """A head that answers `status`, or 401 to who does not send the token."""

    token: str | None = None
    status = 200

    def do_GET(self):
        wanted = f"Bearer {self.token}" if self.token else None
        refused = wanted is not None and self.headers.get("Authorization") != wanted
        self.send_response(401 if refused else self.status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def head(monkeypatch):
    """The address of a fake head."""
    monkeypatch.setattr(Head, "token", None)
    server = HTTPServer(("127.0.0.1", 0), Head)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class FakeClient:
    """Records what is submitted; the job prints two pieces and ends as told."""

    status = module.JobStatus.SUCCEEDED
    exit_code: int | None = 0
    stream_error: Exception | None = None

    def __init__(self, address, headers=None):
        self.address, self.headers = address, headers
        FakeClient.last = self

    def submit_job(self, **request):
        self.request = request
        return "raysubmit_1"

    async def tail_job_logs(self, submission_id):
        yield "step 1\n"
        if self.stream_error:
            raise self.stream_error
        yield "step 2\n"

    def get_job_info(self, submission_id):
        return SimpleNamespace(
            status=self.status, driver_exit_code=self.exit_code, message="it failed"
        )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch):
    """A working directory with a job file; no token and no address in the environment."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    (work / "jobs").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    assert cli.main(["init", "jobs/a.yaml"]) == 0
    return work


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setattr(module, "JobSubmissionClient", FakeClient)
    for name in ("status", "exit_code", "stream_error"):
        monkeypatch.setattr(FakeClient, name, FakeClient.__dict__[name])
    return FakeClient


def submit(address: str, *options: str) -> int:
    return cli.main(["submit", "jobs/a.yaml", "--address", address, *options])


def test_the_cluster_runs_the_same_command_on_the_same_folder(folder, head, client, capsys):
    assert submit(head, "--set", "seed=3", "--set", "storage=s3://b/a b") == 0
    request = client.last.request
    assert request["entrypoint"] == (
        "python -m raymodel run jobs/a.yaml --set seed=3 --set 'storage=s3://b/a b'"
    )
    assert request["runtime_env"]["working_dir"] == str(folder)
    assert ".git" in request["runtime_env"]["excludes"]
    assert "step 1\nstep 2\n" in capsys.readouterr().out


def test_detached_it_returns_at_once_and_says_how_to_follow(folder, head, client, capsys):
    assert submit(head, "--detach") == 0
    out = capsys.readouterr().out
    assert "ray job logs --follow raysubmit_1" in out
    assert "step 1" not in out


def test_a_relative_storage_is_pointed_out(folder, head, client, capsys):
    submit(head, "--detach")
    assert "storage 'runs' is relative" in capsys.readouterr().out
    submit(head, "--detach", "--set", "storage=s3://bucket/runs")
    assert "is relative" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "exit_code", "code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", None, 1), ("STOPPED", None, 1)],
)
def test_the_exit_code_is_that_of_the_job(
    folder, head, client, monkeypatch, status, exit_code, code
):
    monkeypatch.setattr(client, "status", module.JobStatus(status))
    monkeypatch.setattr(client, "exit_code", exit_code)
    assert submit(head) == code


def test_a_broken_log_stream_does_not_end_the_wait(folder, head, client, monkeypatch, capsys):
    monkeypatch.setattr(client, "stream_error", RuntimeError("closed"))
    monkeypatch.setattr(client, "exit_code", 3)
    monkeypatch.setattr(client, "status", module.JobStatus.FAILED)
    assert submit(head) == 3
    assert "lost the log (closed)" in capsys.readouterr().out


def test_a_head_that_dies_is_waited_for_and_then_named(folder, head, client, monkeypatch, capsys):
    def gone(self, submission_id):
        raise ConnectionError("refused")

    monkeypatch.setattr(module, "_SILENCE_S", 0.2)
    monkeypatch.setattr(module, "_POLL_S", 0.05)
    monkeypatch.setattr(client, "get_job_info", gone)
    assert submit(head) == ClusterError.exit_code
    assert "has not answered for 0 s (refused)" in capsys.readouterr().err


def test_an_interruption_leaves_the_job_running_and_says_so(
    folder, head, client, monkeypatch, capsys
):
    monkeypatch.setattr(client, "stream_error", KeyboardInterrupt())
    assert submit(head) == 130
    assert "to stop it: ray job stop raysubmit_1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:1", "no Ray head answers at http://127.0.0.1:1"),
        ("127.0.0.1:1", "no Ray head answers at http://127.0.0.1:1"),
        ("ray://127.0.0.1:10001", "is not the address of a dashboard; write http://HEAD:8265"),
    ],
)
def test_no_head_at_the_address_is_one_message(folder, address, words, capsys):
    assert submit(address) == 2
    assert words in capsys.readouterr().err


def test_a_server_that_is_no_head_is_told_apart(folder, head, monkeypatch, capsys):
    monkeypatch.setattr(Head, "status", 404)
    assert submit(head) == 2
    assert "is no Ray head (HTTP 404)" in capsys.readouterr().err


def test_a_missing_and_a_wrong_token_are_told_apart(folder, head, client, monkeypatch, capsys):
    monkeypatch.setattr(Head, "token", "right")
    assert submit(head) == 2
    assert "asks for a token, and none was found" in capsys.readouterr().err
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    assert submit(head) == 2
    error = capsys.readouterr().err
    assert "refused the token" in error
    assert "wrong" not in error  # a secret never reaches a message


def test_the_token_is_read_where_ray_keeps_it_and_sent(folder, head, client, monkeypatch):
    monkeypatch.setattr(Head, "token", "right")
    kept = Path.home() / ".ray" / "auth_token"
    kept.parent.mkdir()
    kept.write_text("right\n", encoding="utf-8")
    assert submit(head) == 0
    assert client.last.headers == {"Authorization": "Bearer right"}


def test_an_address_in_the_environment_that_would_win_is_refused(
    folder, head, client, monkeypatch, capsys
):
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    assert submit(head) == 2
    assert "RAY_ADDRESS is 'http://elsewhere:8265' and would win" in capsys.readouterr().err


def test_a_job_file_outside_the_directory_is_refused(folder, head, client, capsys, monkeypatch):
    monkeypatch.chdir(folder / "jobs")
    (folder / "b.yaml").write_text((folder / "jobs" / "a.yaml").read_text(), encoding="utf-8")
    assert cli.main(["submit", "../b.yaml", "--address", head]) == 2
    assert "lies outside" in capsys.readouterr().err


def test_results_environments_and_history_are_not_sent(tmp_path: Path):
    (tmp_path / "my-env").mkdir()
    (tmp_path / "my-env" / "pyvenv.cfg").touch()
    excludes = find_excludes(tmp_path, "out/runs")
    assert {"/out/runs", "/my-env", ".git"} <= set(excludes)
    assert find_excludes(tmp_path, "s3://bucket/runs") == [
        ".git",
        *find_excludes(tmp_path, ".")[1:],
    ]


def test_a_directory_too_large_names_its_largest_files(tmp_path: Path):
    for name, size in {
        "big.bin": 3000,
        "small.py": 10,
        "runs/x.bin": 9000,
        "data.csv": 8000,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * size)
    excludes = find_excludes(tmp_path, "runs")
    check_size(tmp_path, excludes, max_bytes=12_000)
    with pytest.raises(ClusterError, match=r"data\.csv \(0\.0 MB\), big\.bin.*\.rayignore"):
        check_size(tmp_path, excludes, max_bytes=11_000)
    (tmp_path / ".gitignore").write_text("data.csv\n", encoding="utf-8")
    check_size(tmp_path, excludes, max_bytes=4_000)
