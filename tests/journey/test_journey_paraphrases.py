"""A classifier learns from texts and their paraphrases, which a server made before."""

import json
from pathlib import Path

import pytest
from journeys import JobRunner  # type: ignore[import-not-found]

from raymodel.testing.tiny import build_tiny_bert, train_tiny_tokenizer
from raymodel.testing.translator import stub_translator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_job_asks_a_server_while_it_makes_examples_and_never_again(
    runner: JobRunner, tmp_path: Path
) -> None:
    texts = [f"{i} red blue {'fish' if i % 2 else 'tree'} sea {i * 7 % 10}" for i in range(200)]
    lines = [{"text": text, "label": ("no", "yes")[i % 2]} for i, text in enumerate(texts)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    build_tiny_bert().save_pretrained(tmp_path / "base")
    train_tiny_tokenizer(texts).save_pretrained(tmp_path / "base")
    job = {
        "name": "tiny",
        "cluster": {"workers": 2},
        "finetune": {
            "base": str(tmp_path / "base"),
            "sources": [
                {"path": str(tmp_path / "d.jsonl"), "format": "jsonl", "fields": {"label": "label"}}
            ],
            "holdout": "20%",
            "max_length": 32,
            "global_batch": 16,
            "duration": "10 steps",
            "optimizer": {"learning_rate": 0.01},
        },
        "evaluate": {"metrics": ["accuracy"]},
    }
    with stub_translator() as server:
        augment = {"back_translation": server.spec | {"concurrency": 3}, "drop": 0.1}
        job["finetune"]["task"] = {"name": "text_classification", "augment": augment}  # type: ignore[index]
        server.says = lambda prompt: 400 if prompt.endswith(" 3") else None
        output = runner.run("run", str(runner.write(job)))
        content = json.loads((runner.artifact("examples", "tiny") / "manifest.json").read_text())
        told, trained = content["content"]["paraphrases"], content["content"]["splits"]["train"]
        assert told["made"] > 100
        assert told["without"] == {"there: refused by the server": trained["rows"] - told["made"]}
        assert f"{told['made']} examples have a paraphrase" in output
        assert server.most_at_once <= 3
    job["finetune"]["duration"] = "20 steps"  # type: ignore[index]
    job["finetune"]["task"]["augment"]["back_translation"]["probability"] = 0.9  # type: ignore[index]
    output = runner.run("run", str(runner.write(job)))
    assert "examples  complete, skipped" in output
    model = json.loads((runner.artifact("finetune", "tiny") / "manifest.json").read_text())
    assert model["content"]["loss"] < model["content"]["first_loss"]
