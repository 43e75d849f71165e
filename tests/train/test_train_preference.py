"""Pairs through the whole of training: any cut of a batch gives one curve, on weights and LoRA."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import build_work, commit_dataset, losses, records, train_here, validation

from raymodel.data.prepare import Recipe
from raymodel.data.references import AskedBase
from raymodel.data.rows import RowKind
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.storage.artifact import Artifact
from raymodel.storage.uri import Location
from raymodel.tasks.spec.language import PreferenceSpec
from raymodel.testing.distributed import run_distributed
from raymodel.testing.tiny import build_tiny_llama, train_tiny_tokenizer
from raymodel.train.spec import FinetuneSpec
from raymodel.train.work import TrainWork

WORDS = ["red", "blue", "green", "fish", "tree", "sea", "rose", "stone", "cloud", "river"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Location:
    folder = tmp_path_factory.mktemp("base")
    build_tiny_llama(seed=1).save_pretrained(folder)
    train_tiny_tokenizer([" ".join(WORDS)]).save_pretrained(folder)
    return Location.parse(str(folder))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, base: Location) -> Artifact:
    folder = tmp_path_factory.mktemp("pairs")
    pairs = [
        {"q": f"{i}?", "good": " ".join(WORDS[: 1 + i % 5]), "bad": " ".join(WORDS[-2 - i % 4 :])}
        for i in range(40)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    source = SourceSpec(
        path=str(folder / "pairs.jsonl"),
        format="jsonl",
        fields={"prompt": "{q}", "chosen": "{good}", "rejected": "{bad}"},
    )
    recipe = Recipe(
        sources=(source,),
        clean=CleanSpec(),
        holdout=0.2,
        seed=7,
        kind=RowKind(task=PreferenceSpec(), length=64),
        processor=base,
        base=AskedBase(folder=base, precision="fp32"),
    )
    return commit_dataset(recipe, folder / "dataset", fingerprint="1" * 16)


def work_of(dataset: Artifact, base: Location, run: Path, **spec: object) -> TrainWork:
    fields = {
        "task": {"name": "preference", "beta": 0.5},
        "sources": [{"path": "pairs.jsonl"}],
        "max_length": 64,
        "global_batch": 6,
        "duration": "8 steps",
        "optimizer": {"learning_rate": 3e-3},
        "precision": "fp32",
        "log_every": "1 step",
        "validate_every": "4 steps",
        "validate_rows": 5,
        "checkpoint": {"every": "4 steps"},
    }
    parsed = FinetuneSpec.model_validate(fields | spec)
    return build_work(parsed, dataset, run, base=base, export=False)


@pytest.mark.parametrize("extra", [{}, {"adapter": {"lora": {"rank": 4}}}], ids=["full", "lora"])
def test_pairs_train_the_same_on_any_workers_and_micro_batches(
    dataset: Artifact, base: Location, tmp_path: Path, extra: dict[str, object]
) -> None:
    one = work_of(dataset, base, tmp_path / "one", **extra)
    # A global batch of 6 on 2 workers in micro batches of 2: the second of each has a single pair.
    two = work_of(dataset, base, tmp_path / "two", micro_batch=2, parallel={"zero": 2}, **extra)
    run_distributed(train_here, 1, one, init=False)
    run_distributed(train_here, 2, two, init=False)
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
    np.testing.assert_allclose(validation(two), validation(one), rtol=1e-5)
    assert len(validation(one)) == 2
    # Before the first update the model is its base, whatever lies on top of it.
    assert losses(one)[0] == pytest.approx(np.log(2), rel=1e-4)
    assert losses(one)[-1] < 0.9 * losses(one)[0]
    last = records(one, "metrics")[-1]
    assert last["targets"] == last["rows"] == 8 * 6, "a pair is one of both"
    train = dataset.content["splits"]["train"]
    assert last["tokens"] == pytest.approx(8 * 6 * train["tokens"] / train["rows"], rel=0.1)
