"""A stage under the real `torchrun`, without Ray."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_runs import MODEL, make_dataset

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
