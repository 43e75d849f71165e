"""Two jobs prepare a dataset each, a third trains on both and is measured on both."""

import json
from pathlib import Path

import pytest
from journeys import JobRunner, tiny_job  # type: ignore[import-not-found]

from raymodel.testing.tiny import write_tiny_corpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_job_trains_on_the_datasets_of_two_others(
    runner: JobRunner, corpus: Path, tmp_path: Path
) -> None:
    spec = tiny_job(corpus)
    first = {name: spec[name] for name in ("seed", "cluster", "prepare")} | {"name": "first"}
    runner.run("run", str(runner.write(first)))

    write_tiny_corpus(tmp_path / "more", seed=1)
    tokenizer = runner.artifact("prepare", "first") / "data/processor"
    prepare = first["prepare"] | {
        "sources": [{"path": str(tmp_path / "more")}],
        "tokenizer": {"load": str(tokenizer)},
    }
    runner.run("run", str(runner.write(first | {"name": "second", "prepare": prepare})))

    data = [{"path": "first/prepare"}, {"path": "second/prepare", "weight": 2.0}]
    mixed = runner.write(
        {
            "name": "mixed",
            "seed": 7,
            "cluster": {"workers": 2},
            "pretrain": spec["pretrain"] | {"data": data},
            "evaluate": {"metrics": ["perplexity"]},
        }
    )
    output = runner.run("run", str(mixed))
    manifest = json.loads((runner.artifact("pretrain", "mixed") / "manifest.json").read_text())
    assert manifest["parents"] == {
        "data": runner.artifact("prepare", "first").name,
        "data-2": runner.artifact("prepare", "second").name,
    }
    assert manifest["content"]["loss"] < manifest["content"]["first_loss"]
    assert "perplexity" in output
    assert "complete, skipped" in runner.run("run", str(mixed))

    longer = prepare | {"sequence_length": 16}
    runner.run("run", str(runner.write(first | {"name": "second", "prepare": longer})))
    assert "differ in sequence_length (32 and 16)" in runner.run("run", str(mixed), code=2)
