"""Whole runs of embedding and ranking: records to a model, at any number of workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import build_work, commit_dataset, losses, train_all, validation

from raymodel.data.prepare import Recipe
from raymodel.data.rows import RowKind
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.modality.embedding import EmbeddingProcessor
from raymodel.model.load import load_for_use
from raymodel.storage.artifact import Artifact
from raymodel.storage.uri import Location
from raymodel.tasks.base import Example, Limits
from raymodel.tasks.spec.retrieval import EmbeddingSpec, RankingSpec
from raymodel.testing.distributed import run_distributed
from raymodel.testing.tiny import build_tiny_bert, train_pair_tokenizer
from raymodel.train.spec import FinetuneSpec
from raymodel.train.work import TrainWork

THINGS = ("file", "row", "word", "key", "table", "queue", "node")
TOLERANCE = 1e-4  # of six updates by AdamW


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    # Dropout is drawn by rank: without it the number of workers changes nothing.
    model = build_tiny_bert().bert
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    model.save_pretrained(folder)
    train_pair_tokenizer(["find the file in a table"]).save_pretrained(folder)
    return folder


def records() -> list[dict[str, Any]]:
    """Seventy good ones, and one of each bad kind."""
    good: list[dict[str, Any]] = [
        {"ask": f"find {thing} {n}", "text": f"{thing}s[{n}]", "wrong": ["nothing", f"no {n}"]}
        for n in range(10)
        for thing in THINGS
    ]
    bad = [
        {"ask": "empty", "text": " ", "wrong": ["a"]},
        {"ask": " ", "text": "a", "wrong": ["b"]},
        {"ask": "same", "text": "a", "wrong": ["a"]},
        {"ask": "hollow", "text": "a", "wrong": [""]},
        {"ask": "lacks", "wrong": ["a"]},
    ]
    return good + bad


def dataset_of(task: Any, role: str, folder: Path, base: Path) -> Artifact:
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, records())))
    fields = {"query": "{ask}", role: "{text}", "negatives": "wrong"}
    recipe = Recipe(
        sources=(SourceSpec(path=str(folder / "pairs.jsonl"), format="jsonl", fields=fields),),
        clean=CleanSpec(),
        holdout=0.2,
        seed=7,
        kind=RowKind(task=task, length=32),
        processor=Location.parse(str(base)),
    )
    return commit_dataset(recipe, folder / "dataset", fingerprint="a" * 16)


def work_of(task: Any, dataset: Artifact, run: Path, base: Path, stage: int) -> TrainWork:
    spec = FinetuneSpec.model_validate(
        {
            "task": task.to_dict(),
            "base": str(base),
            "sources": [{"path": "pairs.jsonl"}],
            "max_length": 32,
            "global_batch": 7,
            "duration": "6 steps",
            "precision": "fp32",
            "log_every": "1 step",
            "validate_every": "3 steps",
            "validate_rows": 12,
            "parallel": {"zero": stage},
        }
    )
    return build_work(spec, dataset, run, base=Location.parse(str(base)))


TASKS = {
    "positive": EmbeddingSpec(pooling="cls", negatives=1),
    "document": RankingSpec(negatives=1),
}
"""By the role of what a query looks for."""
LAYOUTS = ((1, 1), (2, 3), (3, 1))
"""Workers and ZeRO stage."""


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory, base: Path) -> dict[str, Artifact]:
    return {
        role: dataset_of(task, role, tmp_path_factory.mktemp(role), base)
        for role, task in TASKS.items()
    }


@pytest.fixture(scope="module")
def runs(
    datasets: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory, base: Path
) -> dict[str, list[TrainWork]]:
    """By role: a run of each of the layouts."""
    runs: dict[str, list[TrainWork]] = {role: [] for role in TASKS}
    for workers, stage in LAYOUTS:
        for role, task in TASKS.items():
            run = tmp_path_factory.mktemp("run")
            runs[role].append(work_of(task, datasets[role], run, base, stage))
        run_distributed(train_all, workers, [works[-1] for works in runs.values()], init=False)
    return runs


@pytest.mark.parametrize("role", TASKS)
def test_records_without_a_pair_are_counted_by_reason(
    datasets: dict[str, Artifact], role: str
) -> None:
    content = datasets[role].content
    assert content["read"] == 75
    assert content["left_out"] == {
        f"query without a {role}": 1,
        "record with an empty query": 1,
        f"{role} that is among its negatives": 1,
        "record with an empty negative": 1,
        "record without the field 'text'": 1,
    }


@pytest.mark.parametrize("role", TASKS)
def test_a_run_is_the_same_at_any_number_of_workers(
    runs: dict[str, list[TrainWork]], role: str
) -> None:
    first, *others = runs[role]
    assert len(losses(first)) == 6
    assert len(validation(first)) == 2
    for work in others:
        assert losses(work) == pytest.approx(losses(first), rel=TOLERANCE)
        assert validation(work) == pytest.approx(validation(first), rel=TOLERANCE)


@pytest.mark.parametrize("role", TASKS)
def test_the_model_that_comes_of_it_answers(runs: dict[str, list[TrainWork]], role: str) -> None:
    task, folder = TASKS[role], (runs[role][0].run / "model").local_path
    model, used = load_for_use(folder, task.name)
    values = {"query": "find row 3", "document": "rows[3]"}
    asked = used.features({name: values[name] for name in used.example_request()}, None)
    assert isinstance(asked, Example)
    rows = {name: [value] for name, value in asked.features.items()}
    [answer] = used.predict(model, rows, Limits())
    assert used.answer_text(answer)
    if task.name == "embedding":
        assert EmbeddingProcessor.load(Location.parse(str(folder))).pooling == "cls"
