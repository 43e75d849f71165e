import json
import os
import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest

from raymodel import cli
from raymodel.errors import GateError, TrainingError

REPOSITORY = Path(__file__).parents[1]
JOBS = sorted((REPOSITORY / "jobs").glob("*.yaml"))
DOCUMENTED = sorted((REPOSITORY / "docs").rglob("*.yaml"))
HEAVY = ("torch", "ray", "transformers", "pyarrow", "numpy", "deepspeed", "peft")


def _cpu_s_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture
def job(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    assert cli.main(["init", str(path)]) == 0
    return str(path)


@pytest.mark.usefixtures("ask_here")  # a process apart takes seconds to import transformers
@pytest.mark.parametrize("path", [*JOBS, *DOCUMENTED], ids=lambda path: path.stem)
def test_every_job_of_the_repository_passes_check_and_stays_short(path, own_folder, capsys):
    own_folder(path.parent)  # where the modules lie that some of them name
    assert cli.main(["check", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: ok\n")
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60


def test_check_says_each_stage_in_one_line(job, capsys):
    assert cli.main(["check", job, "--set", "pretrain.global_batch=64"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["prepare", "pretrain", "evaluate", "serve"]
    assert "64 rows a step" in lines[1]


def test_check_takes_under_a_second_and_loads_nothing_heavy(job):
    code = (
        "import sys; from raymodel.cli import main; code = main(['check', sys.argv[1]]); "
        f"print([name for name in {HEAVY} if name in sys.modules]); sys.exit(code)"
    )
    before = _cpu_s_of_children()
    done = subprocess.run(
        [sys.executable, "-c", code, job], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert _cpu_s_of_children() - before < 1.0  # no clock on the wall: the machine may be busy


def test_who_starts_a_training_does_not_load_what_only_its_workers_compute_with():
    """Ray's controllers and the trials of a sweep import these modules, once each."""
    code = (
        "import sys, raymodel.train.run, raymodel.tune.run; "
        "print([n for n in ('torch', 'transformers', 'deepspeed', 'peft') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_wrong_job_file_is_one_error_on_stderr_and_exit_code_2(job, capsys):
    assert cli.main(["check", job, "--set", "sed=1"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: --set sed: unknown key 'sed'; did you mean 'seed'?")
    assert captured.out == ""


@pytest.mark.parametrize("command", ["check", "plan", "run", "submit"])
def test_every_command_that_takes_a_job_checks_it_before_anything_else(command, tmp_path, capsys):
    arguments = [command, str(tmp_path / "none.yaml")]
    assert cli.main(arguments) == 2
    assert "no such file" in capsys.readouterr().err


def test_describe_prints_a_section_and_refuses_an_unknown_one(capsys):
    assert cli.main(["describe", "pretrain.optimizer"]) == 0
    assert "learning_rate: a number, above 0" in capsys.readouterr().out
    assert cli.main(["describe", "pretrain.optimiser"]) == 2
    assert "did you mean 'optimizer'?" in capsys.readouterr().err


def test_schema_prints_json(capsys):
    assert cli.main(["schema"]) == 0
    assert "pretrain" in json.loads(capsys.readouterr().out)["properties"]


def test_init_writes_a_job_that_passes_and_never_overwrites(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    assert cli.main(["init", str(path)]) == 0
    assert cli.main(["check", str(path)]) == 0
    path.write_text("mine", encoding="utf-8")
    assert cli.main(["init", str(path)]) == 2
    assert path.read_text(encoding="utf-8") == "mine"
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["init", str(tmp_path / "no" / "folder.yaml")]) == 2


@pytest.mark.parametrize("arguments", [[], ["bogus"], ["check"], ["submit"]])
def test_wrong_usage_exits_with_2(arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (TrainingError("worker 1 was lost"), 1, "error: worker 1 was lost"),
        (GateError("perplexity is 50"), 3, "error: perplexity is 50"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on"),
        (ZeroDivisionError("a bug"), 1, "error: ZeroDivisionError: a bug"),
    ],
)
def test_how_a_command_ends_is_its_exit_code(error, code, words, monkeypatch, capsys):
    def fail(arguments):
        raise error

    monkeypatch.setattr(cli, "print_schema", fail)
    assert cli.main(["schema"]) == code
    assert capsys.readouterr().err.startswith(words)


def test_run_hands_the_job_and_its_options_to_the_pipeline(job, monkeypatch):
    calls = []
    stand_in = types.ModuleType("raymodel.job.run")
    stand_in.run = lambda job, **options: calls.append((job, options))
    monkeypatch.setitem(sys.modules, "raymodel.job.run", stand_in)
    assert cli.main(["run", job, "--address", "auto", "--keep-serving", "--set", "seed=5"]) == 0
    ((given, options),) = calls
    assert given.seed == 5
    assert options == {
        "address": "auto",
        "keep_serving": True,
        "job_path": Path(job),
        "settings": ["--set", "seed=5"],
    }


@pytest.mark.parametrize("storage", ["file/runs", "/proc/none", "~nobody-of-this-name/runs"])
def test_a_storage_that_cannot_be_written_is_one_message_of_run(
    storage, job, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code = cli.main(["run", job, "--set", f"storage={storage}"])
    assert code == (2 if storage.startswith("~") else 1)
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert storage.split("/")[0] in error


@pytest.mark.parametrize("command", ["check", "status", "plan", "submit"])
def test_a_user_without_a_home_is_no_error(command, job, tmp_path):
    """As in a container that runs under a number that no user has."""
    code = (
        "import sys, pathlib\n"
        "def nobody(self):\n    raise RuntimeError('Could not determine home directory.')\n"
        "import os; os.path.expanduser = lambda path: path\n"
        "pathlib.Path.home = classmethod(nobody)\n"
        "from raymodel.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = {"status": ["."], "submit": [job, "--address", "http://127.0.0.1:1"]}
    done = subprocess.run(
        [sys.executable, "-c", code, command, *arguments.get(command, [job])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == (1 if command == "submit" else 0), done.stderr
    assert "home" not in done.stderr


def test_status_of_an_empty_storage_says_so(tmp_path, capsys):
    assert cli.main(["status", str(tmp_path)]) == 0
    assert "no runs" in capsys.readouterr().out
