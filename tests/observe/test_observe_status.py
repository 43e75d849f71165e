"""Status, throughput and quiet logs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from raymodel import cli
from raymodel.job import stages
from raymodel.observe import waiting
from raymodel.observe.records import RecordWriter
from raymodel.observe.status import print_status, run_rows
from raymodel.observe.throughput import Peak, data_sheet_peak, mfu
from raymodel.observe.waiting import WaitingNote
from raymodel.storage.artifact import open_artifact
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.registry import Run, lock_run
from raymodel.storage.uri import Location

DONE, OPEN = "aa" * 8, "bb" * 8


@pytest.fixture
def run(tmp_path) -> Run:
    """`prepare` is complete and best; `pretrain` has stored two records."""
    run = Run(Location.parse(str(tmp_path)) / "job")
    done = run.execution("prepare", DONE)
    (done / "data/x").write_text("x")
    commit_manifest(done, job_name="job", stage="prepare", fingerprint=DONE, parents={}, content={})
    run.set_latest("prepare", DONE)
    run.set_best(open_artifact(done))
    with RecordWriter(run.execution("pretrain", OPEN) / "metrics.jsonl") as writer:
        writer.write({"step": 1, "loss": 3.0, "validation_loss": 3.5})
        writer.write({"step": 2, "loss": 2.5, "tokens": 4096, "validation_loss": None})
    return run


def test_status_tells_complete_interrupted_and_running_apart(run: Run) -> None:
    assert [row["state"] for row in run_rows(run)] == ["complete", "interrupted"]
    with lock_run(run):
        assert [row["state"] for row in run_rows(run)] == ["complete", "running"]


def test_status_shows_the_last_value_of_each_metric(run: Run) -> None:
    prepare, pretrain = run_rows(run)
    assert (pretrain["step"], pretrain["loss"], pretrain["validation"]) == (2, 2.5, 3.5)
    assert pretrain["tokens"] == "4.1K"
    assert (prepare["best"], pretrain["best"]) == ("best", "")


def test_status_calls_a_cut_artifact_damaged(run: Run) -> None:
    (run.execution("prepare", DONE) / "data/x").write_text("")
    assert run_rows(run)[0]["state"] == "damaged"


def test_status_is_printed(run: Run, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    print_status(str(tmp_path))
    name, header, prepare, pretrain = capsys.readouterr().out.splitlines()
    assert (name, header.split()[:2]) == ("job", ["stage", "state"])
    assert "goodput" not in header, "nothing is known of it"
    assert prepare.split()[:2] == ["prepare", "complete"]
    assert OPEN in pretrain
    (tmp_path / "empty").mkdir()
    print_status(str(tmp_path / "empty"))
    assert "no runs below" in capsys.readouterr().out


def test_status_names_the_page_of_a_dataset(
    run: Run, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run.execution("examples", DONE)
    (made / "card.html").write_text("<p>")
    content = {"card": "card.html"}
    commit_manifest(
        made, job_name="job", stage="examples", fingerprint=DONE, parents={}, content=content
    )
    run.set_latest("examples", DONE)
    print_status(str(tmp_path))
    told = [line for line in capsys.readouterr().out.splitlines() if "card" in line]
    assert told == [f"  data card of examples: {made / 'card.html'}"]
    (made / "card.html").write_text("")  # the table says that it is damaged
    print_status(str(tmp_path))
    assert "card" not in capsys.readouterr().out


def test_status_names_the_run_that_made_what_was_taken_over(run: Run) -> None:
    second = Run(run.location.parent / "second")
    (second.execution("prepare", DONE) / "spec.yaml").write_text("begun, and then found elsewhere")
    second.set_latest("prepare", DONE, run)
    (row,) = run_rows(second)
    assert (row["state"], row["fingerprint"], row["made by"]) == ("complete", DONE, "job")
    run.location.delete_tree()
    (row,) = run_rows(second)
    assert row["state"] == "gone"


def test_status_fits_a_terminal_of_80_columns(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(Location.parse(str(tmp_path)) / ("j" * 63))
    with RecordWriter(run.execution("pretrain", OPEN) / "metrics.jsonl") as writer:
        numbers = dict.fromkeys(("loss", "validation_loss", "goodput"), 1234.5678)
        writer.write({"step": 12_345_678, "tokens": 987e12, "tokens_per_s": 1.23e6, **numbers})
    print_status(str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert OPEN in lines[-1]


def test_the_folder_of_a_run_shows_that_run(
    run: Run, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_status(str(tmp_path))
    whole = capsys.readouterr().out
    print_status(str(tmp_path / "job"))
    assert capsys.readouterr().out == whole


@pytest.mark.parametrize(
    ("below", "words"),
    [
        ("nosuch", "there is no folder"),
        ("job/log.txt", "there is no folder"),
        ("job/pretrain", "give all of it: raymodel status {job}"),
        (f"job/pretrain/{OPEN}", "give all of it: raymodel status {job}"),
    ],
)
def test_what_is_no_storage_and_no_run_is_an_error_with_the_way_on(
    run: Run, tmp_path, below: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job/log.txt").touch()
    assert cli.main(["status", str(tmp_path / below)]) == 2
    captured = capsys.readouterr()
    assert words.format(job=tmp_path / "job") in captured.err
    assert captured.out == ""


def test_stages_are_listed_in_the_order_in_which_they_run(run: Run) -> None:
    """All that a job may have, as `stages.py` makes them."""
    made = re.findall(r'Stage\(\s*name="(\w+)"', Path(stages.__file__).read_text())
    assert len(made) > 4
    for name in sorted(made):
        run.execution(name, DONE).make_dir()
    assert [row["stage"] for row in run_rows(run)] == made


def test_a_stage_that_waits_is_not_called_running(
    run: Run, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "BEFORE_NOTING_S", 0.0)
    note = WaitingNote(run.execution("pretrain", OPEN))
    with lock_run(run):
        note.tell("2 workers of 1 CPU; held by job b-1 (1 CPU)")
        assert [row["state"] for row in run_rows(run)] == ["complete", "waiting"]
        print_status(str(tmp_path))
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("  pretrain waits for 2 workers of 1 CPU; held by job b-1 (1 CPU) (")
        note.clear()
        assert [row["state"] for row in run_rows(run)] == ["complete", "running"]
        note.tell("places")
    # Whoever waited was killed: its note is still there, and its lock is not.
    assert [row["state"] for row in run_rows(run)] == ["complete", "interrupted"]
    print_status(str(tmp_path))
    assert "waits for" not in capsys.readouterr().out


def test_a_short_wait_leaves_no_note_and_a_long_one_few(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = run.execution("pretrain", OPEN)
    WaitingNote(execution).tell("places")
    assert waiting.find_waiting(execution) is None
    monkeypatch.setattr(waiting, "BEFORE_NOTING_S", 0.0)
    note = WaitingNote(execution)
    for words in ("first", "second"):
        note.tell(words)
    found = waiting.find_waiting(execution)
    assert found is not None
    assert found["for"] == "first"


def test_a_note_that_cannot_be_written_costs_no_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setattr(waiting, "BEFORE_NOTING_S", 0.0)
    (tmp_path / "file").touch()
    note = WaitingNote(Location.parse(str(tmp_path / "file")))
    note.tell("places")
    note.clear()


def test_mfu_is_flops_used_over_peak_flops() -> None:
    # 6 GFLOPs a token, 100 k tokens/s on two H100: 600 of 1,978 TFLOP/s.
    peak = Peak(2 * 989e12, "data sheet")
    assert mfu(6e9, 1e5, peak) == pytest.approx(0.3033, abs=1e-4)
    assert mfu(6e9, 1e5, None) is None
    assert mfu(None, 1e5, peak) is None


def test_a_measured_peak_that_training_exceeds_gives_no_figure() -> None:
    """Something else ran while it was measured."""
    assert mfu(6e9, 100.0, Peak(1e12, "measured")) == pytest.approx(0.6)
    assert mfu(6e9, 200.0, Peak(1e12, "measured")) is None
    assert mfu(6e9, 200.0, Peak(1e12, "data sheet")) == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10G", None),  # not an A10
        ("Some future device", None),
    ],
)
def test_the_peak_of_a_device_is_looked_up_by_its_whole_name(
    name: str, flops: float | None
) -> None:
    assert data_sheet_peak(name) == (None if flops is None else (flops, "data sheet"))


def test_quiet_logs_leave_the_screen_to_the_story(tmp_path) -> None:
    code = f"""
import logging, os, sys, warnings
from pathlib import Path
from raymodel.observe.quiet import quiet_logs
os.environ["TRANSFORMERS_VERBOSITY"] = "info"
quiet_logs(Path({str(tmp_path)!r}) / "logs" / "run.log")
assert os.environ["TRANSFORMERS_VERBOSITY"] == "info", "a user's own value wins"
assert os.environ["RAY_DEDUP_LOGS"] == "1"
assert not {{"ray", "torch", "transformers", "deepspeed"}} & set(sys.modules)
late = logging.getLogger("DeepSpeed")
late.addHandler(logging.StreamHandler(sys.stdout))  # as DeepSpeed does when it is imported
quiet_logs(Path({str(tmp_path)!r}) / "logs" / "run.log")
late.warning("from deepspeed")
logging.getLogger("ray.train").warning("from ray")
warnings.warn("from python")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    log = (tmp_path / "logs" / "run.log").read_text()
    for source in ("from deepspeed", "from ray", "from python"):
        assert log.count(source) == 1
