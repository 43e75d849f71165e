"""A private model on the Hub is fine-tuned, measured and served at one commit, and fetched once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from journeys import JobRunner, tiny_job  # type: ignore[import-not-found]

from raymodel.testing.hub import hub
from raymodel.testing.s3 import Fault
from raymodel.testing.tiny import build_tiny_llama, train_tiny_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_model_on_the_hub_is_tuned_measured_and_served(
    runner: JobRunner, corpus: Path, tmp_path: Path
) -> None:
    tokenizer = train_tiny_tokenizer([path.read_text() for path in corpus.iterdir()])
    for seed, name in enumerate(("first", "second")):
        build_tiny_llama(vocab_size=len(tokenizer), seed=seed).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    whole = tiny_job(corpus)
    job = {
        **{name: whole[name] for name in ("name", "seed", "cluster", "serve")},
        "finetune": whole["finetune"] | {"base": "hf://owner/tiny"},
        "evaluate": {"metrics": ["perplexity"], "gates": {"perplexity": "< 1000"}},
    }
    path = str(runner.write(job))
    with hub() as server:
        commit = server.push_model("owner/tiny", tmp_path / "first", **{"model.bin": b"pickled"})
        server.tokens["owner/tiny"] = "hf_right"
        runner.environment |= {name: os.environ[name] for name in os.environ if "HF_" in name}
        runner.environment["HF_TOKEN"] = "hf_right"
        server.fail(Fault(does="reset", where="resolve", every=7))
        output = runner.run("run", path)
        assert "answers as 'tiny'" in output
        assert f"hf://owner/tiny@{commit} is " in " ".join(output.split())
        made = runner.artifact("finetune")
        assert json.loads((made / "manifest.json").read_text())["content"]["base"] == (
            f"hf://owner/tiny@{commit}"
        )
        assert f"- Base: hf://owner/tiny@{commit}" in (made / "model/README.md").read_text()
        whole_files = [each for each in server.requests if each.startswith("HEAD")]
        assert len([each for each in whole_files if "model.safetensors" in each]) <= 2, "and retry"
        assert "model.bin" not in server.contents()

        moved = server.push_model("owner/tiny", tmp_path / "second")
        again = " ".join(runner.run("run", path).split())
        assert f"stays with {commit[:10]}" in again
        assert again.count("complete, skipped") == 4
        serving = {
            **job,
            "name": "served",
            "serve": whole["serve"] | {"model": job["finetune"]["base"]},
        }
        del serving["finetune"], serving["evaluate"]
        output = runner.run("run", str(runner.write(serving)))
        assert f"hf://owner/tiny@{moved}" in " ".join(output.split())
        assert "answers as 'served'" in output
        told = json.loads((runner.artifact("serve", "served") / "manifest.json").read_text())
        assert told["content"]["model"] == f"hf://owner/tiny@{moved}"
    written = [file for file in (runner.folder / "runs").rglob("*") if file.is_file()]
    assert "hf_right" not in "".join(file.read_text("utf-8", "ignore") for file in written)
