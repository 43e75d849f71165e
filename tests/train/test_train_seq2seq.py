"""An encoder–decoder through the whole of training: spans that are drawn, workers that change."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import (
    build_work,
    commit_dataset,
    losses,
    train_all,
    train_here,
    train_until,
    validation,
)

from raymodel.data.prepare import Recipe
from raymodel.data.rows import RowKind
from raymodel.data.spec import CleanSpec, SourceSpec, TokenizerSpec
from raymodel.model.load import load_for_use
from raymodel.tasks.base import Limits
from raymodel.tasks.spec.language import Seq2SeqLMSpec
from raymodel.testing.distributed import run_distributed
from raymodel.testing.tiny import write_tiny_corpus
from raymodel.train.spec import FinetuneSpec, PretrainSpec
from raymodel.train.work import TrainWork

MODEL = {
    "architecture": "t5",
    "config": {
        **{"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        "dropout_rate": 0.0,
    },
}
RUN = {
    "global_batch": 7,
    "duration": "12 steps",
    "optimizer": {"learning_rate": 0.01},
    "precision": "fp32",
    "log_every": "1 step",
    "validate_every": "6 steps",
    "validate_rows": 8,
    "checkpoint": {"every": "4 steps"},
}
PAIRS = SourceSpec(path="?", format="jsonl", fields={"source": "{en}", "target": "{fr}"})


def recipe(source: SourceSpec, kind: RowKind, processor) -> Recipe:
    return Recipe(
        sources=(source,), clean=CleanSpec(), holdout=0.2, seed=7, kind=kind, processor=processor
    )


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory):
    """Packed rows."""
    folder = tmp_path_factory.mktemp("texts")
    write_tiny_corpus(folder / "corpus")
    tokenizer = TokenizerSpec(vocab_size=320, sentinels=4)
    source = SourceSpec(path=str(folder / "corpus"))
    made = recipe(source, RowKind(length=24), tokenizer)
    return commit_dataset(made, folder / "dataset", fingerprint="2" * 16)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, texts):
    """Examples, and two records that are none."""
    folder = tmp_path_factory.mktemp("pairs")
    records = [{"en": f"read {i} lines", "fr": f"lis {i} lignes"} for i in range(60)]
    records += [{"en": "a dog", "fr": ""}, {"en": "a cat"}]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "pairs.jsonl").write_text(lines, encoding="utf-8")
    source = PAIRS.model_copy(update={"path": str(folder / "pairs.jsonl")})
    kind = RowKind(task=Seq2SeqLMSpec(), length=32)
    processor = texts.location / "data/processor"
    return commit_dataset(recipe(source, kind, processor), folder / "dataset", "3" * 16)


def work_of(dataset, run: Path, spec=PretrainSpec, **fields) -> TrainWork:
    own = {"objective": "seq2seq_lm"} if spec is PretrainSpec else {"task": "seq2seq_lm"}
    if spec is FinetuneSpec:
        own["sources"] = [{"path": "x", "fields": {"source": "{en}", "target": "{fr}"}}]
    return build_work(spec.model_validate({**RUN, **own, "model": MODEL, **fields}), dataset, run)


def test_pairs_without_one_side_are_counted_and_rows_count_both_texts(pairs):
    content = pairs.content
    assert content["left_out"] == {"empty target": 1, "record without the field 'fr'": 1}
    assert content["read"] == 62
    split = content["splits"]["train"]
    assert split["tokens"] > 10 * split["rows"], "of source and target"


def test_a_run_that_moves_from_two_workers_to_one_draws_the_same_spans(texts, tmp_path):
    whole, moved = (work_of(texts, tmp_path / name) for name in ("whole", "moved"))
    run_distributed(train_here, 1, whole, init=False)
    run_distributed(train_until, 2, [moved], 6, init=False)
    run_distributed(train_here, 1, moved, init=False)
    np.testing.assert_allclose(losses(moved), losses(whole), rtol=2e-4)
    np.testing.assert_allclose(validation(moved), validation(whole), rtol=2e-4)
    assert losses(whole)[-1] < losses(whole)[0]


def test_every_zero_stage_trains_pairs_alike_and_exports_a_model_that_answers(pairs, tmp_path):
    works = [
        work_of(pairs, tmp_path / str(zero), FinetuneSpec, max_length=32, parallel={"zero": zero})
        for zero in range(4)
    ]
    run_distributed(train_all, 2, works, init=False)
    for work in works[1:]:
        np.testing.assert_allclose(losses(work), losses(works[0]), rtol=2e-4)
    for work in works:
        model, task = load_for_use((work.run / "model").local_path, "seq2seq_lm")
        ids = task.features({"source": "read 3 lines"}, None).features["input_ids"]
        [answer] = task.predict(model, {"input_ids": [ids]}, Limits(max_new_tokens=4))
        assert isinstance(answer["text"], str)
