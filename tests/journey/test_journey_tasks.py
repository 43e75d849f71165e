"""Every task goes the whole way from a fresh model: examples, training, evaluation, the server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from journeys import Workplace  # type: ignore[import-not-found]
from tiny_tasks import TINY, write_sources  # type: ignore[import-not-found]

from raymodel.tasks import get_task

FINETUNED = [name for name in TINY if name != "masked_image"]  # which pretrains only

OF_A_BASE = {"chosen_loss_change"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder)
    return folder


def job_of(name: str, sources: Path, port: int) -> dict[str, Any]:
    tiny = TINY[name]
    start = {"model": tiny.model} if tiny.model else {"base": str(sources / "whisper")}
    if tiny.source["format"] == "jsonl":
        start["tokenizer"] = {"vocab_size": 300, "tokens": tiny.tokens}
    return {
        "name": name,
        "seed": 7,
        "cluster": {"workers": 2},
        "finetune": {
            "task": {"name": name, **tiny.task},
            "sources": [tiny.source | {"path": f"{sources}/{tiny.source['path']}"}],
            "holdout": "20%",
            "global_batch": 4,
            "duration": "4 steps",
            "optimizer": {"name": "adamw", "learning_rate": 0.001},
            "precision": "fp32",
            **start,
        },
        "evaluate": {"metrics": list(get_task(name).measures), "max_new_tokens": 4},
        "serve": {"port": port, "max_tokens": 4},
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", FINETUNED)
def test_a_task_goes_the_whole_way_from_a_fresh_model(
    name: str, workplace: Workplace, sources: Path
) -> None:
    job = workplace.write(job_of(name, sources, workplace.ray.port))
    workplace.ray.run("check", job)
    workplace.ray.run("plan", job)
    said = workplace.ray.run("run", job)
    assert re.search(r"answered: +\S", said)
    [place] = (workplace.folder / "runs" / name / "evaluate").glob("*/report/metrics.json")
    measured = json.loads(place.read_text())["metrics"]
    assert get_task(name).measures.keys() - measured.keys() <= OF_A_BASE
