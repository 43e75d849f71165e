"""A plain module of a user's own through the whole of training, on any layout of its state."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_images import SPEC, dataset, work_of  # noqa: F401  (a fixture)
from tiny_runs import losses, train_all, train_until, validation, weights_of

from raymodel.data.columns import columns_of
from raymodel.data.shard import open_dataset
from raymodel.model.load import load_for_use
from raymodel.model.own import OwnModel
from raymodel.tasks.base import Limits
from raymodel.testing.distributed import run_distributed
from raymodel.train.work import TrainWork

TEMPLATES = Path(__file__).parents[2] / "docs/own"
MODEL = {"module": "networks:SmallCNN", "config": {"width": 4, "dropout": 0.0}}


def own_work(dataset, run: Path, zero: int, **spec) -> TrainWork:  # noqa: F811
    parallel = {"zero": zero}
    return work_of(dataset, run, model=MODEL, global_batch=8, parallel=parallel, **spec)


def test_a_plain_module_trains_alike_at_every_stage_of_zero_and_answers(
    dataset,  # noqa: F811
    tmp_path,
    own_folder,
):
    own_folder(TEMPLATES)  # in which the ranks start too
    alone = own_work(dataset, tmp_path / "alone", 0)
    run_distributed(train_all, 1, [alone], init=False)
    works = [own_work(dataset, tmp_path / str(zero), zero) for zero in range(4)]
    run_distributed(train_all, 2, works, init=False)
    expected = weights_of(alone)
    assert {"features.0.weight", "features.1.running_mean"} <= set(expected)
    for work in works:
        np.testing.assert_allclose(losses(work), losses(alone), rtol=2e-4)
        for name, tensor in weights_of(work).items():
            torch.testing.assert_close(tensor, expected[name], rtol=2e-3, atol=2e-4, msg=name)
    assert losses(alone)[-1] < 0.6 * losses(alone)[0]
    _check_answers(works[3])


def _check_answers(work: TrainWork) -> None:
    """What was exported gives the loss that training measured, and the right answers."""
    model, task = load_for_use(work.run.local_path / "model", "image_classification")
    assert isinstance(model, OwnModel)
    data = open_dataset(work.dataset, "holdout")
    total = min(work.spec.validate_rows, data.num_rows)
    rows = columns_of(data.read(np.arange(total) * data.num_rows // total))
    with torch.no_grad():
        batch = task.collate(rows)
        loss = float(task.loss(model, batch)) / task.num_targets(batch)
    assert loss == pytest.approx(validation(work)[-1], rel=1e-4)
    labelled = type(task)(task.spec, labels=work.labels, processor=task.processor)
    answers = task.predict(model, rows, Limits())
    assert [answer["label"] for answer in answers] == labelled.references(rows)


@pytest.mark.slow
def test_a_run_that_dies_goes_on_under_another_stage(dataset, tmp_path, own_folder):  # noqa: F811
    own_folder(TEMPLATES)
    whole = own_work(dataset, tmp_path / "whole", 1)
    begun = own_work(dataset, tmp_path / "begun", 1)
    moved = own_work(dataset, tmp_path / "begun", 2)
    run_distributed(train_all, 1, [whole], init=False)
    run_distributed(train_until, 1, [begun], 6, init=False)
    run_distributed(train_all, 2, [moved], init=False)
    np.testing.assert_allclose(losses(moved)[-1], losses(whole)[-1], rtol=2e-4)
    for name, tensor in weights_of(moved).items():
        torch.testing.assert_close(tensor, weights_of(whole)[name], rtol=2e-3, atol=2e-4, msg=name)
