"""Whatever happens in a command, a person reads one message, and no traceback."""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from raymodel import cli, torchrun
from raymodel.observe import ending, quiet
from raymodel.observe.story import Story

BUG = "a bug\nof two lines"


def commands() -> dict[str, list[str]]:
    """Every command, with the arguments that it needs."""
    (action,) = (
        action
        for action in cli.build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    found = {}
    for name, parser in action.choices.items():
        needed = [a for a in parser._actions if not a.option_strings and a.nargs != "?"]
        asked = [a for a in parser._actions if a.option_strings and a.required]
        options = [(a.option_strings[-1], str(next(iter(a.choices)))) for a in asked]
        found[name] = [name, *("job.yaml" for _ in needed), *itertools.chain(*options)]
    return found


@pytest.fixture
def no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process whose logs were not made quiet; returns the folder of temporary files."""
    monkeypatch.setattr(quiet, "find_log_file", lambda: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(ending.SHOW_TRACEBACK, raising=False)
    return tmp_path


def fail(*arguments: object, **options: object) -> int:
    raise ZeroDivisionError(BUG)


@pytest.mark.parametrize("name", commands())
def test_a_bug_in_any_command_is_one_message_and_a_file(
    name: str, no_log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = cli.build_parser().parse_args(commands()[name]).call
    monkeypatch.setattr(cli, called.__name__, fail)
    assert cli.main(commands()[name]) == 1
    error = capsys.readouterr().err
    first, *rest = error.splitlines()
    assert first == "error: ZeroDivisionError: a bug of two lines"
    assert "Traceback" not in error
    (kept,) = no_log.glob("raymodel-*.log")
    assert str(kept) in rest[0]
    assert "run the same command again" in rest[1]
    text = kept.read_text()
    assert text.startswith("Traceback")
    assert "in fail" in text
    assert kept.stat().st_mode & 0o077 == 0, "it may hold what others should not read"


def test_a_bug_under_torchrun_is_told_the_same_way(
    no_log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torchrun, "load_job", fail)
    assert torchrun.main(["job.yaml", "pretrain"]) == 1
    assert capsys.readouterr().err.startswith("error: ZeroDivisionError: a bug of two lines\n")


def test_it_is_shown_whole_to_who_asks(
    no_log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ending.SHOW_TRACEBACK, "1")
    assert ending.run_command(fail) == 1
    assert capsys.readouterr().err.startswith("Traceback")


def test_it_is_shown_where_no_file_can_take_it(
    no_log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    assert ending.run_command(fail) == 1
    assert "ZeroDivisionError: a bug" in capsys.readouterr().err


def test_of_a_traceback_in_a_message_the_end_is_shown(
    no_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Ray puts that of a worker into its own errors."""

    def fail() -> int:
        raise RuntimeError("ray::read() (pid=7)\n  File \"read.py\", line 3\nKeyError: 'text'\n")

    ending.run_command(fail)
    assert capsys.readouterr().err.startswith("error: RuntimeError: KeyError: 'text'\n")


def test_a_message_without_end_is_cut(no_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise RuntimeError("x" * 10_000)

    ending.run_command(fail)
    assert len(capsys.readouterr().err) < 1000


def test_the_log_of_the_run_has_the_whole_of_it(tmp_path: Path) -> None:
    log = tmp_path / "runs/job/log.txt"
    code = f"""
import sys
import tempfile
from pathlib import Path
from raymodel.errors import SpecError
from raymodel.observe.ending import run_command
from raymodel.observe.quiet import quiet_logs
def fail():
    quiet_logs(Path({str(log)!r}))
    try:
        1 / 0
    except ZeroDivisionError as error:
        if sys.argv[1] == "bug":
            raise
        raise SpecError("seen; rule; fix") from error
sys.exit(run_command(fail))
"""
    for argument, exit_code, words in (
        ("bug", 1, f"the whole traceback: {log}"),
        ("ours", 2, "error: seen; rule; fix\n"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, argument], capture_output=True, text=True, check=False
        )
        assert done.returncode == exit_code
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert log.read_text().count("ZeroDivisionError: division by zero") == 2


# ---- who reads it --------------------------------------------------------------------------------

SHORT = {
    "check": ["check", "job.yaml"],
    "plan": ["plan", "job.yaml"],
    "describe": ["describe"],
    "schema": ["schema"],
    "status": ["status", "."],
    "init": ["init", "other.yaml"],
    "help": ["--help"],
    "error": ["check", "none.yaml"],
}


def start(folder: Path, name: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    if not (folder / "job.yaml").exists():
        assert cli.main(["init", str(folder / "job.yaml")]) == 0
    return subprocess.run(
        [sys.executable, "-m", "raymodel", *SHORT[name]], cwd=folder, check=False, **options
    )


@pytest.mark.parametrize("name", SHORT)
def test_a_reader_that_leaves_ends_a_command_quietly(name: str, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = start(tmp_path, name, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert done.returncode in (0, ending.READER_LEFT) if name != "error" else 2
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


@pytest.mark.parametrize("name", ["status", "schema", "error"])
def test_closed_streams_are_no_error(name: str, tmp_path: Path) -> None:
    shell = f"{sys.executable} -m raymodel {' '.join(SHORT[name])} >&- 2>&-"
    assert cli.main(["init", str(tmp_path / "job.yaml")]) == 0
    done = subprocess.run(["sh", "-c", shell], cwd=tmp_path, check=False)
    assert done.returncode == (2 if name == "error" else 0)


@pytest.mark.parametrize("name", ["check", "plan", "describe", "schema"])
def test_a_terminal_of_another_encoding_gets_what_it_can_show(name: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = start(tmp_path, name, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


def test_a_story_goes_on_when_its_reader_has_left() -> None:
    """`raymodel run JOB | head`: the job is worth more than its lines."""
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w")
    story = Story(stream)
    for _ in range(3):
        story.say("a line")
    story.table([{"a": 1}])
    with pytest.raises(BrokenPipeError):  # what it still holds
        stream.close()


def test_a_broken_pipe_to_somewhere_else_is_told(
    no_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise BrokenPipeError("to the head")

    assert ending.run_command(fail) == 1
    assert "error: BrokenPipeError: to the head" in capsys.readouterr().err


def test_an_interruption_is_said_and_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    assert ending.run_command(interrupt) == 130
    assert capsys.readouterr().err == "interrupted; run the same command again to go on\n"
