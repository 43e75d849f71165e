"""Heads over pairs of texts through the whole of training: any number of workers, any stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import build_work, commit_dataset, losses, records, train_here

from raymodel.data.prepare import Recipe
from raymodel.data.rows import RowKind
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.modality.text import TextProcessor
from raymodel.model.load import load_for_use
from raymodel.storage.uri import Location
from raymodel.tasks.spec import default_spec
from raymodel.testing.distributed import run_distributed
from raymodel.testing.tiny import build_tiny_bert, train_pair_tokenizer
from raymodel.train.spec import FinetuneSpec
from raymodel.train.work import TrainWork


def answer_of(name: str, first: int, second: int) -> Any:
    if name == "text_regression":
        return float(first - second)
    return [label for label, is_so in (("more", first > second), ("even", first % 2 == 0)) if is_so]


def make_work(name: str, folder: Path) -> TrainWork:
    """Pairs of numbers, and what is to be said of them, for a tiny BERT."""
    pairs = [(i, j) for i in range(8) for j in range(8)]
    lines = [{"a": f"{i}", "b": f"{j}", "label": answer_of(name, i, j)} for i, j in pairs]
    folder.mkdir()
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    fields = {"text": "{a}", "text_pair": "{b}"}
    source = SourceSpec(path=str(folder / "d.jsonl"), format="jsonl", fields=fields)
    base = Location.parse(str(folder / "base"))
    tokenizer = train_pair_tokenizer(["0 1 2 3 4 5 6 7"])
    model = build_tiny_bert(vocab_size=len(tokenizer))
    # What is dropped depends on the worker.
    model.config.update({"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    model.save_pretrained(folder / "base")
    TextProcessor(tokenizer).save(base)
    recipe = Recipe(
        sources=(source,),
        clean=CleanSpec(),
        holdout=0.2,
        seed=7,
        kind=RowKind(task=default_spec(name), length=16),
        processor=base,
    )
    dataset = commit_dataset(recipe, folder / "dataset", fingerprint="1" * 16)
    spec = {
        "task": name,
        "base": str(base),
        "sources": [source.model_dump()],
        "global_batch": 7,
        "duration": "12 steps",
        "optimizer": {"learning_rate": 3e-3},
        "precision": "fp32",
        "log_every": "1 step",
        "validate_every": "6 steps",
        "validate_rows": 3,
    }
    parsed = FinetuneSpec.model_validate(spec)
    return build_work(parsed, dataset, folder / "run", base=base)


@pytest.mark.parametrize(
    "name",
    ["text_regression", pytest.param("multi_label_classification", marks=pytest.mark.slow)],
)
def test_two_workers_of_stage_three_train_as_one_does(name: str, tmp_path: Path) -> None:
    """Three rows to validate on are two and one, and seven are four and three."""
    alone, both = make_work(name, tmp_path / "alone"), make_work(name, tmp_path / "both")
    spec = both.spec.model_copy(
        update={"parallel": both.spec.parallel.model_copy(update={"zero": 3})}
    )
    both = TrainWork(**{**vars(both), "spec": spec})
    run_distributed(train_here, 1, alone, init=False)
    run_distributed(train_here, 2, both, init=False)
    np.testing.assert_allclose(losses(both), losses(alone), rtol=2e-4)
    found = [
        [r["validation_loss"] for r in records(work, "metrics") if r.get("validation_loss")]
        for work in (alone, both)
    ]
    assert found[0]
    np.testing.assert_allclose(found[0], found[1], rtol=2e-4)
    assert losses(alone)[-1] < losses(alone)[0]
    model, task = load_for_use(f"{both.run.local_path}/model", name)
    assert model.config.problem_type == task.problem_type
