"""A stage under the real `torchrun`, without Ray."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_runs import MODEL, make_dataset

from raymodel import cli
from raymodel import torchrun as command
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location
from raymodel.torchrun import main

JOB = {
    "name": "tiny",
    "storage": "runs",
    "seed": 3,
    "cluster": {"workers": 2},
    "pretrain": {
        "data": [{"path": "dataset"}, {"path": "other/dataset", "weight": 2.0}],
        "model": MODEL,
        "global_batch": 8,
        "duration": "6 steps",
        "precision": "fp32",
        "parallel": {"zero": 2},
        "validate_rows": 8,
    },
}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job file in the current folder, whose two datasets are ready."""
    monkeypatch.chdir(tmp_path)
    first = make_dataset(tmp_path)
    make_dataset(tmp_path / "other", seed=1, tokenizer=first.location / "data/processor")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(JOB))
    return path


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    # --standalone takes a free port by itself.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "raymodel.torchrun", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_torchrun_trains_a_stage_to_a_complete_artifact_and_skips_it_then(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = torchrun(str(job), "pretrain")
    assert done.returncode == 0, done.stderr[-3000:]
    story = [line for line in done.stdout.splitlines() if line.startswith(("pretrain", " "))]
    assert "/runs/tiny/pretrain/" in story[0], "told once, by the first worker"
    assert "          2 workers from step 0" in story
    assert any(line.startswith("pretrain  step 6/6 · loss ") for line in story), done.stdout
    assert (Path(story[0].split()[1]) / "tensorboard").is_dir()
    run = Run(Location.parse("runs") / "tiny")
    artifact = run.latest("pretrain")
    artifact.verify()
    assert artifact.content["steps"] == 6
    assert artifact.content["loss"] < artifact.content["first_loss"]
    assert (artifact.location / "model/model.safetensors").exists()
    assert set(artifact.manifest.parents) == {"data", "data-2"}
    assert "Mixture card" in (artifact.location / artifact.content["card"]).read_text()
    assert "in 1,000 steps" in " ".join(done.stdout.split())
    before = artifact.manifest.created
    assert main([str(job), "pretrain"]) == 0, "nothing is left to do"
    assert "complete, skipped" in capsys.readouterr().out
    assert run.latest("pretrain").manifest.created == before


def test_a_stage_without_its_input_is_refused(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(job), "pretrain", "--set", "pretrain.data=nowhere/prepare"]) == 2
    assert "names 'nowhere/prepare', and no complete dataset" in capsys.readouterr().err
    assert main([str(job), "finetune"]) == 2
    assert "no finetune section" in capsys.readouterr().err


TOO_SMALL = "pretrain.model.config.vocab_size=100"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (TOO_SMALL, "model.config.vocab_size is 100, but the data needs 300"),
        ("pretrain.model.config.num_attention_heads=3", "heads cannot share 2 of keys"),
    ],
)
def test_what_run_refuses_before_its_first_stage_is_refused_in_the_same_words(
    job: Path, capsys: pytest.CaptureFixture[str], setting: str, told: str
) -> None:
    assert cli.main(["run", str(job), "--set", setting]) == 2
    refused = capsys.readouterr().err
    assert told in refused
    assert main([str(job), "pretrain", "--set", setting]) == 2
    assert capsys.readouterr().err == refused
    assert not Path("runs").exists()


def test_rows_that_do_not_fill_a_step_are_refused_before_a_worker_starts(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = ["--set", "pretrain.global_batch=100000", "--set", "pretrain.duration=1 epoch"]
    assert main([str(job), "pretrain", *wide]) == 2
    assert "no epoch has a whole step" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_worker_beside_the_first_leaves_it_to_that_to_tell(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = list[float]()
    monkeypatch.setattr(command.time, "sleep", waited.append)
    nowhere = [str(job), "pretrain", "--set", "pretrain.data=nowhere/prepare"]
    assert (main(nowhere), waited) == (2, [])
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (main(nowhere), waited) == (2, [command._PATIENCE_S])


def test_the_other_stages_of_a_job_may_lie_elsewhere(job: Path) -> None:
    """Where one stage is trained, the raw data and the model to serve need not be."""
    whole = yaml.safe_load(job.read_text())
    source = {"path": "gone", "fields": {"prompt": "{text}", "response": "{text}"}}
    whole["prepare"] = {
        "sources": [{"path": "gone"}],
        "tokenizer": {"vocab_size": 300},
        "sequence_length": 16,
    }
    whole["finetune"] = {
        "task": "causal_lm",
        "sources": [source],
        "global_batch": 8,
        "duration": "1 step",
    }
    whole["serve"] = {"model": "gone/best"}
    job.write_text(yaml.safe_dump(whole))
    loaded = command.load_job(str(job), [])
    command._look(loaded, "pretrain")
    alone = command._alone(loaded.job, "finetune").finetune
    assert (alone.base, alone.sources) == ("tiny/pretrain", ())


@pytest.mark.slow
def test_two_workers_refuse_in_one_message(job: Path) -> None:
    done = torchrun(str(job), "pretrain", "--set", TOO_SMALL)
    assert done.returncode
    assert done.stderr.count("but the data needs 300") == 1, done.stderr[-3000:]
