"""Objects through the whole of training and evaluation: the same for any number of workers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import (
    build_work,
    digests,
    losses,
    make_examples,
    train_here,
    train_until,
    validation,
    weights_of,
)

from raymodel.data.mixture import mixture_of
from raymodel.data.shard import open_dataset
from raymodel.data.spec import SourceSpec
from raymodel.evaluate.measure import combine, measure_part
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.testing.distributed import run_distributed
from raymodel.testing.scenes import NAMES, SMALL_DETR, write_coco
from raymodel.train.spec import FinetuneSpec
from raymodel.train.work import TrainWork

SPEC = {
    "task": {
        "name": "object_detection",
        "image": {"size": 16},
        "augment": {"crop": 0.3, "flip": True},
    },
    "model": {"architecture": "detr", "config": SMALL_DETR},
    "sources": [{"path": "scenes", "format": "coco"}],
    "global_batch": 7,
    "duration": "8 steps",
    # Adam makes steps of rounding where a gradient is next to nothing.
    "optimizer": {"name": "sgd", "learning_rate": 0.02, "weight_decay": 0.0},
    "precision": "fp32",
    "log_every": "1 step",
    "validate_every": "4 steps",
    "validate_rows": 8,
    "checkpoint": {"every": "2 steps"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("scenes")
    write_coco(folder / "scenes", 40, side=32)
    (folder / "scenes/images/0039.png").unlink()
    source = SourceSpec(path=str(folder / "scenes"), format="coco")
    spec = FinetuneSpec.model_validate(SPEC)
    return make_examples(folder / "dataset", spec, source, holdout=0.25)


def work_of(dataset, run: Path, **spec) -> TrainWork:
    return build_work(FinetuneSpec.model_validate(SPEC | spec), dataset, run)


def test_the_classes_are_those_of_the_objects_and_a_missing_image_is_counted(dataset):
    content = dataset.content
    assert content["labels"] == sorted(NAMES)
    assert content["left_out"] == {"file that does not exist in 'image'": 1}
    assert content["read"] == 40
    assert content["classes"]["train"]["seven"] > 2


def test_any_cut_of_a_step_and_every_zero_stage_trains_the_same(dataset, tmp_path):
    """Images have one to three objects, some lose all to a crop, and no share is even."""
    works = {
        (workers, stage): work_of(
            dataset, tmp_path / f"{workers}{stage}", parallel={"zero": stage}, micro_batch=rows
        )
        for workers, stage, rows in ((1, 0, 7), (2, 3, 2), (3, 2, 1))
    }
    for (workers, _), work in works.items():
        run_distributed(train_here, workers, work, init=False)
    first, *others = works.values()
    assert losses(first)[-1] < losses(first)[0]
    for work in others:
        assert digests(work) == digests(first)
        np.testing.assert_allclose(losses(work), losses(first), rtol=2e-4)
        np.testing.assert_allclose(validation(work), validation(first), rtol=2e-4)
        expected = weights_of(first)
        for name, tensor in weights_of(work).items():
            torch.testing.assert_close(tensor, expected[name], rtol=2e-3, atol=3e-4, msg=name)


def test_a_run_that_dies_goes_on_with_the_same_batches_and_its_model_is_measured(dataset, tmp_path):
    unbroken, broken = (work_of(dataset, tmp_path / name) for name in ("unbroken", "broken"))
    run_distributed(train_here, 1, unbroken, init=False)
    run_distributed(train_until, 2, [broken], 5, init=False)
    moved = work_of(dataset, tmp_path / "broken", parallel={"zero": 2})
    run_distributed(train_here, 1, moved, init=False)
    assert digests(moved)[-4:] == digests(unbroken)[-4:]
    np.testing.assert_allclose(losses(moved)[-4:], losses(unbroken)[-4:], rtol=2e-4)

    held_out = {"examples": open_dataset(mixture_of(dataset), "holdout")}
    spec = EvaluateSpec(metrics=("map", "ap50"))
    folder = Path((moved.run / "model").local_path)
    found = combine(
        "object_detection", [measure_part(folder, moved.task, held_out, spec)], held_out, spec
    )
    assert 0 <= found.metrics["map"] <= found.metrics["ap50"] <= 1
    assert not found.intervals, "the order of all boxes decides: no image counts by itself"
    assert found.samples[0]["request"]["image"]
