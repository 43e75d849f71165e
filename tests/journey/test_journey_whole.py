"""One short job through all stages, and a second run of it."""

import json
import time
from pathlib import Path

import pytest
import torch
from journeys import JobRunner, tiny_job  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.mark.slow
def test_a_job_goes_from_raw_text_to_an_answer_and_is_skipped_when_complete(
    runner: JobRunner, corpus: Path
) -> None:
    job = runner.write(tiny_job(corpus))
    output = runner.run("run", str(job))
    for stage in ("prepare", "pretrain", "examples", "finetune", "evaluate", "serve"):
        assert f"{stage} " in output

    manifest = json.loads((runner.artifact("pretrain") / "manifest.json").read_text())
    assert manifest["content"]["loss"] < manifest["content"]["first_loss"] - 0.5
    records = (runner.artifact("pretrain") / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in records if "tokens_per_s" in line]
    assert steps == list(range(1, 31))
    for stage in ("pretrain", "finetune"):
        folder = runner.artifact(stage) / "model"
        model = AutoModelForCausalLM.from_pretrained(folder)
        ids = AutoTokenizer.from_pretrained(folder)("def f", return_tensors="pt").input_ids
        assert torch.isfinite(model(ids).logits).all()
    answer = json.loads((runner.artifact("serve") / "manifest.json").read_text())["content"]
    assert answer["question"]

    started = time.monotonic()
    again = runner.run("run", str(job))
    assert again.count("complete, skipped") == 6
    assert "Ray" not in again, "a finished job needs no Ray"
    assert time.monotonic() - started < 60, "skipping takes seconds; the benchmark holds 10"
    assert "promoted" in runner.run("status") or "best" in runner.run("status")


@pytest.mark.slow
def test_a_missed_gate_ends_with_code_3_and_leaves_best_alone(
    runner: JobRunner, corpus: Path
) -> None:
    job = tiny_job(corpus)
    del job["finetune"], job["serve"]
    job["pretrain"]["duration"] = "2 steps"
    job["evaluate"] = {"metrics": ["perplexity"], "gates": {"perplexity": "< 1.01"}}
    output = runner.run("run", str(runner.write(job)), code=3)
    assert "perplexity is" in output
    assert "the gate asks for < 1.01" in output
    assert not (runner.folder / "runs/tiny/best").exists()
