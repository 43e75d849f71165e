import asyncio
import json
import logging
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from ray.job_submission import JobStatus

from raymodel import cli
from raymodel.cluster import follow as follow_module
from raymodel.cluster import head as module
from raymodel.cluster import patience
from raymodel.cluster import submit as submit_module
from raymodel.cluster.package import check_folder, find_excludes
from raymodel.errors import ClusterError, RequestError
from raymodel.spec.own import own_files
from raymodel.testing.http import listening


class Head(BaseHTTPRequestHandler):
    """A head that answers `status`, or 401 to who does not send the token."""

    token: str | None = None
    status = 200
    body = b'{"version": "4", "ray_version": "2.60.0"}'

    def do_GET(self):
        wanted = f"Bearer {self.token}" if self.token else None
        refused = wanted is not None and self.headers.get("Authorization") != wanted
        self.send_response(401 if refused else self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_):
        pass


@pytest.fixture
def head(monkeypatch):
    """The address of a fake head."""
    monkeypatch.setattr(Head, "token", None)
    with listening(Head) as url:
        yield url


class FakeClient:
    """A head's Jobs API: keeps what is submitted; a job prints two pieces and ends as told."""

    status = JobStatus.SUCCEEDED
    exit_code: int | None = 0
    stream_error: Exception | None = None
    jobs: ClassVar[dict[str, SimpleNamespace]] = {}
    last: ClassVar[dict[str, object]] = {}

    def __init__(self, address, headers=None):
        FakeClient.headers = headers

    def _do_request(self, method, endpoint, **options):
        raise AssertionError("this head is asked nothing by HTTP")

    def submit_job(self, **request):
        if request["submission_id"] in self.jobs:
            taken = f"Job with submission_id {request['submission_id']} already exists."
            raise RuntimeError(f"Traceback\nValueError: {taken}")
        FakeClient.last = request
        self.add(request["submission_id"], request["metadata"])
        return request["submission_id"]

    @classmethod
    def add(cls, submission_id, metadata=None, status=JobStatus.RUNNING):
        cls.jobs[submission_id] = SimpleNamespace(
            submission_id=submission_id,
            status=status,
            driver_exit_code=None,
            message="it failed",
            metadata=metadata,
            start_time=len(cls.jobs),
        )

    def list_jobs(self):
        return [*self.jobs.values(), SimpleNamespace(submission_id=None)]  # Ray lists drivers too

    async def tail_job_logs(self, submission_id):
        yield "step 1\n"
        if self.stream_error:
            raise self.stream_error
        yield "step 2\n"

    def get_job_logs(self, submission_id):
        return "".join(f"step {i}\n" for i in range(1, 6))

    def get_job_info(self, submission_id):
        job = self.jobs[submission_id]
        if not job.status.is_terminal():
            job.status, job.driver_exit_code = self.status, self.exit_code
        return job

    def stop_job(self, submission_id):
        FakeClient.status, FakeClient.exit_code = JobStatus.STOPPED, None
        return True


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
    for name in ("status", "exit_code", "stream_error", "last"):
        monkeypatch.setattr(FakeClient, name, FakeClient.__dict__[name])
    monkeypatch.setattr(FakeClient, "jobs", {})
    return FakeClient


def submit(address: str, *options: str) -> int:
    return cli.main(["submit", "jobs/a.yaml", "--address", address, *options])


def test_the_cluster_runs_the_same_command_on_the_same_folder(folder, head, client, capsys):
    assert submit(head, "--set", "seed=3", "--set", "storage=s3://b/a b") == 0
    request = client.last
    assert request["entrypoint"] == (
        "python -m raymodel run jobs/a.yaml --set seed=3 --set 'storage=s3://b/a b'"
    )
    assert request["runtime_env"]["working_dir"] == str(folder)
    assert ".git" in request["runtime_env"]["excludes"]
    assert "step 1\nstep 2\n" in capsys.readouterr().out


def test_detached_it_returns_at_once_and_says_how_to_follow(folder, head, client, capsys):
    assert submit(head, "--detach") == 0
    out = capsys.readouterr().out
    (submission_id,) = client.jobs
    assert f"raymodel logs --follow {submission_id} --address {head}" in out
    assert "step 1" not in out


def test_a_relative_storage_is_pointed_out(folder, head, client, capsys):
    submit(head)
    assert "storage 'runs' is relative" in capsys.readouterr().out
    submit(head, "--set", "storage=s3://bucket/runs")
    assert "is relative" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "exit_code", "code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", None, 1), ("STOPPED", None, 130)],
)
def test_the_exit_code_is_that_of_the_job(
    folder, head, client, monkeypatch, status, exit_code, code
):
    monkeypatch.setattr(client, "status", JobStatus(status))
    monkeypatch.setattr(client, "exit_code", exit_code)
    assert submit(head) == code


def test_a_broken_log_stream_does_not_end_the_wait(folder, head, client, monkeypatch, capsys):
    monkeypatch.setattr(client, "stream_error", RuntimeError("closed"))
    monkeypatch.setattr(client, "exit_code", 3)
    monkeypatch.setattr(client, "status", JobStatus.FAILED)
    assert submit(head) == 3
    assert "lost the log (closed)" in capsys.readouterr().out


def test_a_head_that_dies_is_waited_for_and_then_named(folder, head, client, monkeypatch, capsys):
    def gone(self, submission_id):
        raise ConnectionError("refused")

    monkeypatch.setattr(follow_module, "_SILENCE_S", 0.2)
    monkeypatch.setattr(follow_module, "_POLL_S", 0.05)
    monkeypatch.setattr(client, "get_job_info", gone)
    assert submit(head) == ClusterError.exit_code
    assert "has not answered for 0 s (refused)" in capsys.readouterr().err


def test_an_interruption_leaves_the_job_running_and_says_so(
    folder, head, client, monkeypatch, capsys
):
    monkeypatch.setattr(client, "stream_error", KeyboardInterrupt())
    assert submit(head) == 130
    (submission_id,) = client.jobs
    assert f"to stop it: raymodel stop {submission_id}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["submit", "logs", "stop", "doctor"])
@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("http://127.0.0.1:1", 1, "no Ray head answers at http://127.0.0.1:1"),
        ("127.0.0.1:1", 1, "no Ray "),  # a driver's address for the doctor
        ("http://127.0.0.1:x", 2, "no Ray head (InvalidURL)"),
        ("http://[::1", 2, "no Ray head (ValueError)"),
    ],
)
def test_no_head_at_the_address_is_one_message(folder, command, address, code, words, capsys):
    assert cli.main([command, "jobs/a.yaml", "--address", address]) == code
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


def test_an_address_of_another_kind_is_refused(folder, capsys):
    assert submit("ray://127.0.0.1:10001") == 2
    assert "is not the address of a dashboard; write http://HEAD:8265" in capsys.readouterr().err


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00\x00\x12\x04\x00\x00", b""])
def test_a_port_of_another_protocol_is_told_apart(folder, answer, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=talk)
        thread.start()
        code = submit(f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "no Ray head" in error
    assert code in (1, 2)


@pytest.mark.parametrize("body", [b"", b"<html>hello</html>", b"[]", b'{"version": "1"}'])
def test_a_server_that_answers_everything_is_no_head(folder, head, monkeypatch, body, capsys):
    monkeypatch.setattr(Head, "body", body)
    assert submit(head) == 2
    assert f"what answers at {head} is no Ray head" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "code"), [(404, 2), (502, 1), (503, 1)])
def test_a_gateway_without_its_head_may_have_one_later(folder, head, monkeypatch, status, code):
    monkeypatch.setattr(Head, "status", status)
    assert submit(head) == code


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
    assert client.headers == {"Authorization": "Bearer right"}


@pytest.mark.parametrize("variable", ["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"])
def test_the_address_of_the_command_wins_over_the_environment(
    folder, head, client, monkeypatch, variable
):
    """Ray's own client lets the environment win, and says nothing of it."""
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    seen = []

    def keep(self, url, headers):
        seen.append((url, variable in os.environ))

    monkeypatch.setattr(client, "__init__", keep)
    assert submit(head, "--detach") == 0
    assert seen == [(head, False)]
    assert os.environ[variable] == "http://127.0.0.1:1"


@pytest.mark.parametrize("command", ["submit", "logs", "stop"])
@pytest.mark.parametrize("variable", ["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"])
def test_without_an_address_the_environment_names_the_cluster(
    folder, head, client, monkeypatch, variable, command, capsys
):
    submit(head, "--detach")
    monkeypatch.setenv(variable, head)
    assert cli.main([command, "jobs/a.yaml"]) == 0


@pytest.mark.parametrize("command", ["submit", "logs", "stop"])
def test_without_any_address_the_command_says_where_to_give_it(
    folder, command, monkeypatch, capsys
):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")  # a driver's, not a dashboard's
    assert cli.main([command, "jobs/a.yaml"]) == 2
    assert "no cluster is named; give the dashboard of its head" in capsys.readouterr().err


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
    check_folder(tmp_path, excludes, max_bytes=12_000)
    with pytest.raises(RequestError, match=r"data\.csv \(0\.0 MB\), big\.bin.*\.rayignore"):
        check_folder(tmp_path, excludes, max_bytes=11_000)
    (tmp_path / ".gitignore").write_text("data.csv\n", encoding="utf-8")
    check_folder(tmp_path, excludes, max_bytes=4_000)


def test_what_cannot_be_packed_is_named_before_anything_is_sent(tmp_path: Path, monkeypatch):
    def refused(name: str) -> str:
        with pytest.raises(RequestError) as caught:
            check_folder(tmp_path, [])
        message = str(caught.value)
        assert name in message
        assert ".rayignore" in message
        (tmp_path / name).unlink()
        return message

    # Ray logs the name that is no UTF-8, which no report of a test can hold.
    monkeypatch.setattr(logging.getLogger("raymodel.cluster.package.silent"), "disabled", True)
    check_folder(tmp_path, [])
    (tmp_path / "nothing").symlink_to("nowhere")
    assert "is a link to nothing" in refused("nothing")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert "is a link to a folder that holds it" in refused("loop")
    os.mkfifo(tmp_path / "pipe")  # Ray would wait for ever to read it
    assert "is a socket, a pipe or a device" in refused("pipe")
    with monkeypatch.context() as patch, socket.socket(socket.AF_UNIX) as own:
        patch.chdir(tmp_path)
        own.bind("listening")
        assert "is a socket, a pipe or a device" in refused("listening")
    (tmp_path / "secret").touch()
    with monkeypatch.context() as patch:  # root may read everything
        patch.setattr(os, "access", lambda path, mode: Path(path).name != "secret")
        assert "may not be read by this user" in refused("secret")
    (tmp_path / os.fsdecode(b"\xff")).touch()
    assert "has a name that is no UTF-8" in refused(os.fsdecode(b"\xff"))
    (tmp_path / ".gitignore").write_bytes(b"\xff")
    with pytest.raises(RequestError, match="cannot travel"):
        check_folder(tmp_path, [])


def test_what_cannot_be_packed_and_is_not_sent_does_no_harm(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".rayignore").write_text("pipe\n", encoding="utf-8")
    check_folder(tmp_path, [])


def test_a_head_without_its_agent_is_waited_for_aloud_and_not_for_ever(
    folder, head, client, monkeypatch, capsys
):
    def submit_job(self, **request):
        time.sleep(0.2)
        raise RuntimeError("Request failed: No available agent to submit job, please try again")

    monkeypatch.setattr(client, "submit_job", submit_job)
    monkeypatch.setattr(patience, "QUIET_S", 0.1)
    monkeypatch.setattr(submit_module, "_AGENT_S", 0.5)
    monkeypatch.setattr(submit_module, "_POLL_S", 0.1)
    assert submit(head) == 1
    captured = capsys.readouterr()
    assert f"waiting for the Ray head at {head} to take the job" in captured.out
    assert "took no job within 0 s" in captured.err


def test_no_request_waits_for_ever(folder, head):
    """Ray's own client sets no limit."""
    client = module.open_client(head)
    assert client._do_request.keywords == {"timeout": module._ANSWER_S}
    assert client._do_request("GET", "/api/version").ok


def test_a_log_that_says_nothing_does_not_hide_that_the_head_is_gone(
    folder, head, client, monkeypatch, capsys
):
    async def silent(self, submission_id):
        await asyncio.sleep(60)
        yield "never"

    def gone(self, submission_id):
        raise ConnectionError("refused")

    monkeypatch.setattr(client, "tail_job_logs", silent)
    monkeypatch.setattr(follow_module, "_SILENCE_S", 0.2)
    monkeypatch.setattr(follow_module, "_POLL_S", 0.05)
    monkeypatch.setattr(client, "get_job_info", gone)
    assert submit(head) == 1
    captured = capsys.readouterr()
    assert "lost the log (refused)" in captured.out
    assert "has not answered" in captured.err


# ---- the same job again --------------------------------------------------------------------------


def test_the_id_is_that_of_the_resolved_job(folder, head, client):
    submit(head)
    submit(head, "--set", "seed=3")
    (folder / "copy.yaml").write_text("# another file\n" + Path("jobs/a.yaml").read_text())
    cli.main(["submit", "copy.yaml", "--address", head, "--set", "seed=3"])
    first, second, third = client.jobs
    assert first.rpartition("-")[0] != second.rpartition("-")[0]
    assert (second.rpartition("-")[0], "2") == third.rpartition("-")[::2]


def test_a_job_that_runs_is_followed_and_not_started_twice(folder, head, client, capsys):
    assert submit(head, "--detach") == 0
    assert submit(head) == 0
    assert len(client.jobs) == 1
    out = capsys.readouterr().out
    assert "runs already" in out
    assert "step 2" in out


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "STOPPED"])
def test_a_job_that_ended_is_started_again(folder, head, client, monkeypatch, status, capsys):
    monkeypatch.setattr(client, "status", JobStatus(status))
    submit(head)
    submit(head)
    assert [name.rpartition("-")[2] for name in client.jobs] == ["1", "2"]
    assert "start 2: what is complete is skipped" in capsys.readouterr().out


def test_of_two_submitted_at_once_the_second_attaches(folder, head, client, monkeypatch, capsys):
    """The second looked before the first was there, and its id is taken when it submits."""
    submit(head, "--detach")
    monkeypatch.setattr(client, "list_jobs", lambda self: [])
    assert submit(head) == 0
    assert len(client.jobs) == 1
    assert "attached to it" in capsys.readouterr().out


def test_another_version_of_a_running_job_may_not_write_to_the_same_place(
    folder, head, client, capsys
):
    submit(head, "--detach")
    assert submit(head, "--set", "seed=3") == 1
    error = capsys.readouterr().err
    assert "another version of" in error
    assert f"raymodel stop {next(iter(client.jobs))}" in error
    assert submit(head, "--set", "seed=3", "--set", "storage=/elsewhere") == 0


# ---- variables -----------------------------------------------------------------------------------


def test_a_variable_travels_by_name_and_its_value_is_shown_nowhere(
    folder, head, client, monkeypatch, capsys
):
    monkeypatch.setenv("WANDB_API_KEY", "hush-hush")
    sent = {}

    def keep_package(self, **request):
        (package,) = request["runtime_env"].pop("py_modules")
        sent.update(json.loads(Path(package, "values.json").read_text()), package=package)
        sent["request"] = str(request)

    monkeypatch.setattr(client, "submit_job", keep_package)
    assert submit(head, "--detach", "--env", "WANDB_API_KEY") == 0
    assert sent["WANDB_API_KEY"] == "hush-hush"
    assert "hush" not in sent["request"]
    captured = capsys.readouterr()
    assert "hush" not in captured.out + captured.err
    assert not Path(sent["package"]).exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("NOT_SET", "--env NOT_SET: not set in this environment"), ("A=hush", "give only its name")],
)
def test_a_variable_that_is_not_set_or_comes_with_a_value_is_refused(
    folder, head, client, name, words, capsys
):
    assert submit(head, "--env", name) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "hush" not in error
    assert not client.jobs


# ---- logs and stop -------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["file", "file and overrides", "name", "id"])
def test_logs_are_found_by_what_a_person_has_at_hand(folder, head, client, by, capsys):
    submit(head, "--detach", "--set", "seed=3")
    capsys.readouterr()
    what = {
        "file": ["jobs/a.yaml"],
        "file and overrides": ["jobs/a.yaml", "--set", "seed=3"],
        "name": ["first"],
        "id": [next(iter(client.jobs))],
    }[by]
    assert cli.main(["logs", *what, "--address", head]) == 0
    assert capsys.readouterr().out == "step 1\nstep 2\nstep 3\nstep 4\nstep 5\n"


def test_logs_can_be_followed_to_the_exit_code_of_the_job(
    folder, head, client, monkeypatch, capsys
):
    submit(head, "--detach")
    monkeypatch.setattr(client, "status", JobStatus.FAILED)
    monkeypatch.setattr(client, "exit_code", 3)
    assert cli.main(["logs", "jobs/a.yaml", "--follow", "--address", head]) == 3


def test_stop_waits_for_the_end_and_shows_the_last_words(folder, head, client, capsys):
    submit(head, "--detach")
    capsys.readouterr()
    assert cli.main(["stop", "jobs/a.yaml", "--address", head]) == 0
    (submission_id,) = client.jobs
    assert capsys.readouterr().out.splitlines() == [
        f"{submission_id} was asked to stop; waiting until it has",
        *("  step 3", "  step 4", "  step 5"),
        f"{submission_id} ended: STOPPED",
    ]
    assert cli.main(["stop", submission_id, "--address", head]) == 0
    assert "has ended before: STOPPED" in capsys.readouterr().out


def test_of_several_versions_the_one_that_runs_is_meant_and_else_the_newest(
    folder, head, client, capsys
):
    names = {"job": "first", "storage": "runs"}
    client.add("first-a-1", names)
    client.add("first-b-1", names, JobStatus.FAILED)
    client.add("other-c-1", {"job": "other", "storage": "runs"})
    cli.main(["stop", "first", "--address", head])
    assert "first-a-1 was asked to stop" in capsys.readouterr().out
    cli.main(["stop", "first", "--address", head])
    assert "first-b-1 has ended before" in capsys.readouterr().out


def test_jobs_of_one_name_in_two_storages_are_told_apart(folder, head, client, capsys):
    client.add("first-a-1", {"job": "first", "storage": "s3://one/runs"})
    client.add("first-b-1", {"job": "first", "storage": "s3://two/runs"})
    assert cli.main(["logs", "jobs/a.yaml", "--address", head]) == 2
    error = capsys.readouterr().err
    assert "may be any of first-b-1 (RUNNING), first-a-1 (RUNNING), which write to 2" in error
    client.add("first-c-1", {"job": "first", "storage": "runs"})  # that of the file
    cli.main(["stop", "jobs/a.yaml", "--address", head])
    assert "first-c-1 was asked to stop" in capsys.readouterr().out
    assert cli.main(["logs", "jobs/a.yaml", "--set", "seed=9", "--address", head]) == 2
    assert "was not submitted with these overrides" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["logs", "stop"])
def test_what_was_never_submitted_is_one_message(folder, head, client, command, capsys):
    assert cli.main([command, "jobs/a.yaml", "--address", head]) == 2
    assert "was not submitted; the head knows none" in capsys.readouterr().err
    submit(head, "--detach")
    assert cli.main([command, "raysubmit_x", "--address", head]) == 2
    assert f"the head's newest are {next(iter(client.jobs))} (RUNNING)" in capsys.readouterr().err


def test_a_traceback_of_the_head_becomes_one_line(folder, head, client, monkeypatch, capsys):
    def fail(self):
        raise RuntimeError(
            "Request failed with status code 500: Traceback\n  File\nKeyError: 'x'\n"
        )

    monkeypatch.setattr(client, "list_jobs", fail)
    assert submit(head) == 1
    assert "could not answer (KeyError: 'x')" in capsys.readouterr().err


def test_a_part_of_the_job_that_would_stay_here_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net_parts.py").write_text("import layer_parts\n", encoding="utf-8")
    (tmp_path / "layer_parts.py").write_text("", encoding="utf-8")
    needed = own_files("net_parts:Net").values()
    check_folder(tmp_path, [], needed=needed)
    (tmp_path / ".gitignore").write_text("layer_parts.py\n", encoding="utf-8")
    with pytest.raises(RequestError, match=r"layer_parts\.py holds a part of the job and would st"):
        check_folder(tmp_path, [], needed=needed)
