"""Masks through the whole of training and evaluation: the same for any number of workers."""

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
from raymodel.testing.scenes import CLASSES, STEADY_SEGFORMER, write_masked
from raymodel.train.spec import FinetuneSpec
from raymodel.train.work import TrainWork

SPEC = {
    "task": {
        "name": "image_segmentation",
        "classes": CLASSES,
        "image": {"size": 16},
        "augment": {"crop": 0.5, "flip": True},
    },
    "model": {"architecture": "segformer", "config": STEADY_SEGFORMER},
    "sources": [{"path": "scenes", "format": "mask_folders"}],
    "global_batch": 7,
    "duration": "8 steps",
    # Adam makes steps of the rounding of biases before a batch norm, whose gradient is 0.
    "optimizer": {"name": "sgd", "learning_rate": 0.3, "weight_decay": 0.0},
    "precision": "fp32",
    "log_every": "1 step",
    "validate_every": "4 steps",
    "validate_rows": 8,
    "checkpoint": {"every": "2 steps"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("scenes")
    write_masked(folder / "scenes", 40, side=32)
    (folder / "scenes/masks/0039.png").write_bytes(b"\x89PNG and no more")
    source = SourceSpec(path=str(folder / "scenes"), format="mask_folders")
    spec = FinetuneSpec.model_validate(SPEC)
    return make_examples(folder / "dataset", spec, source, holdout=0.25)


def work_of(dataset, run: Path, **spec) -> TrainWork:
    return build_work(FinetuneSpec.model_validate(SPEC | spec), dataset, run)


def test_the_classes_are_those_of_the_job_and_the_images_of_each_are_counted(dataset):
    content = dataset.content
    assert content["labels"] == list(CLASSES), "in the order of their values"
    assert sum(content["left_out"].values()) == 1
    rows = {split: content["splits"][split]["rows"] for split in ("train", "holdout")}
    assert content["classes"]["train"]["ground"] == rows["train"]
    assert content["classes"]["holdout"]["ground"] == rows["holdout"]
    assert 0 < content["classes"]["train"]["seven"] < rows["train"]


@pytest.mark.slow
def test_any_number_of_workers_and_every_zero_stage_trains_the_same(dataset, tmp_path):
    works = {
        (workers, stage): work_of(dataset, tmp_path / f"{workers}{stage}", parallel={"zero": stage})
        for workers, stage in ((1, 0), (2, 3), (3, 2))
    }
    for (workers, _), work in works.items():
        run_distributed(train_here, workers, work, init=False)
    first, *others = works.values()
    assert losses(first)[-1] < 0.95 * losses(first)[0]
    for work in others:
        assert digests(work) == digests(first)
        np.testing.assert_allclose(losses(work), losses(first), rtol=2e-4)
        np.testing.assert_allclose(validation(work), validation(first), rtol=2e-4)
        expected = weights_of(first)
        for name, tensor in weights_of(work).items():
            torch.testing.assert_close(tensor, expected[name], rtol=2e-3, atol=2e-4, msg=name)


def test_a_run_that_dies_goes_on_with_the_same_batches_and_its_model_is_measured(dataset, tmp_path):
    unbroken, broken = (work_of(dataset, tmp_path / name) for name in ("unbroken", "broken"))
    run_distributed(train_here, 1, unbroken, init=False)
    run_distributed(train_until, 2, [broken], 5, init=False)
    moved = work_of(dataset, tmp_path / "broken", parallel={"zero": 2})
    run_distributed(train_here, 1, moved, init=False)
    assert digests(moved)[-4:] == digests(unbroken)[-4:]
    np.testing.assert_allclose(losses(moved)[-4:], losses(unbroken)[-4:], rtol=2e-4)

    held_out = {"examples": open_dataset(mixture_of(dataset), "holdout")}
    spec = EvaluateSpec(metrics=("mean_iou", "pixel_accuracy"))
    folder = Path((moved.run / "model").local_path)
    whole = measure_part(folder, moved.task, held_out, spec)
    found = combine("image_segmentation", [whole], held_out, spec)
    for name, value in found.metrics.items():
        low, high = found.intervals[name]
        assert 0 <= low <= value <= high <= 1
    assert found.metrics["pixel_accuracy"] > 0.3
    [table] = found.tables
    ious = {name: float(iou) for name, iou in table["rows"]}
    assert "ground" in ious
    assert found.metrics["mean_iou"] == pytest.approx(np.mean(list(ious.values())), abs=1e-4)
    assert 0 < len(found.samples) <= 5
    parts = [measure_part(folder, moved.task, held_out, spec, (i, 2)) for i in range(2)]
    assert combine("image_segmentation", parts, held_out, spec).metrics == found.metrics
