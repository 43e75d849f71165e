"""A small model is pretrained, learns to chat by a template of the job, and answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from journeys import JobRunner, tiny_job  # type: ignore[import-not-found]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_pretrained_model_learns_to_chat_by_the_template_of_the_job(
    runner: JobRunner, corpus: Path
) -> None:
    whole = tiny_job(corpus)
    stages = {name: whole[name] for name in ("seed", "cluster", "prepare", "pretrain")}
    answer = {"from": "gpt", "value": "x"}
    asked = [{"from": "human", "value": f"read line {n}"} for n in range(60)]
    chats = [{"conversations": [question, answer]} for question in asked]
    (runner.folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    (runner.folder / "own.jinja").write_text(
        "{%- for m in messages %}{{- '<|' + m.role + '|>' + m.content + '<|end|>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
    )
    finetune = {
        "task": {"name": "chat", "chat_template": "own.jinja"},
        "sources": [{"path": "chats.jsonl", "format": "jsonl"}],
        "holdout": "20%",
        "max_length": 32,
        "global_batch": 4,
        "duration": "20 steps",
        "optimizer": {"learning_rate": 0.01},
    }
    evaluate = {"metrics": ["perplexity", "chrf"], "generate_rows": 4, "max_new_tokens": 8}
    job = {"name": "tiny", **stages, "finetune": finetune, "evaluate": evaluate}
    path = runner.write(job | {"serve": whole["serve"]})
    output = runner.run("run", str(path))
    assert "60 conversations, turns in 'conversations', as ShareGPT writes them" in output
    assert "asked:    user: read line" in output
    model = runner.artifact("finetune") / "model"
    assert "'<|end|>'" in (model / "chat_template.jinja").read_text()
    manifest = json.loads((runner.artifact("finetune") / "manifest.json").read_text())
    assert manifest["content"]["loss"] < manifest["content"]["first_loss"]

    (runner.folder / "own.jinja").write_text("{{- eos_token }}" * 3)
    assert "chat template" in runner.run("run", str(path), code=2)
