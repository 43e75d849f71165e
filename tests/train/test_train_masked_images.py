"""Images without labels through the whole of training, and a classifier that goes on from there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_images import SPEC as OF_CLASSES
from test_train_images import write_images
from tiny_runs import (
    commit_dataset,
    losses,
    records,
    train_here,
    train_until,
    validation,
    weights_of,
)

from raymodel.data.mixture import mixture_of
from raymodel.data.prepare import Recipe
from raymodel.data.rows import RowKind
from raymodel.data.shard import open_dataset
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.evaluate.measure import choose_held_out, combine, measure_part
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.modality.image import ImageProcessor
from raymodel.model.load import load_for_use
from raymodel.storage.uri import Location
from raymodel.tasks.masked_image import MaskedImage
from raymodel.tasks.spec.image import ImageClassificationSpec
from raymodel.testing.distributed import run_distributed
from raymodel.train.spec import FinetuneSpec, PretrainSpec
from raymodel.train.work import TrainWork

SPEC = {
    "objective": {"name": "masked_image", "augment": {"flip": True, "shift": 1}},
    "model": {
        "architecture": "vit_mae",
        "config": {
            "patch_size": 4,
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "decoder_hidden_size": 8,
            "decoder_intermediate_size": 16,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "mask_ratio": 0.5,
            "norm_pix_loss": True,
        },
    },
    "global_batch": 7,
    "duration": "8 steps",
    "optimizer": {"learning_rate": 0.01},
    "precision": "fp32",
    "log_every": "1 step",
    "validate_every": "4 steps",
    "validate_rows": 100,
    "checkpoint": {"every": "4 steps"},
}
STOP = 5


def prepared(folder: Path, kind: RowKind, mark: str):
    recipe = Recipe(
        sources=(SourceSpec(path=str(folder / "images"), format="class_folders"),),
        clean=CleanSpec(),
        holdout=0.2,
        seed=7,
        kind=kind,
        reads=ImageProcessor,
        processor=ImageProcessor(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,)),
    )
    return commit_dataset(recipe, folder / mark, fingerprint=mark * 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    place = tmp_path_factory.mktemp("masked")
    write_images(place / "images")
    return place


@pytest.fixture(scope="module")
def dataset(folder):
    return prepared(folder, RowKind(modality="image", length=None), "1")


def work_of(dataset, run: Path, **spec) -> TrainWork:
    parsed = PretrainSpec.model_validate(SPEC | spec)
    return TrainWork(
        job_name="tiny",
        stage="pretrain",
        spec=parsed,
        task=parsed.objective,
        labels=(),
        seed=3,
        run=Location.parse(str(run)),
        dataset=mixture_of(dataset),
        base=None,
        threads=1,
    )


def reconstruction_error(work: TrainWork) -> float | None:
    """As the evaluation finds it on all that was held out."""
    held_out = {"data": open_dataset(work.dataset, "holdout")}
    spec = EvaluateSpec(metrics=("reconstruction_error",))
    part = measure_part(work.run.local_path / "model", work.task, held_out, spec)
    measured = combine("masked_image", [part], choose_held_out(MaskedImage(), held_out), spec)
    return measured.metrics["reconstruction_error"]


def assert_same(work: TrainWork, expected: TrainWork, steps: int) -> None:
    np.testing.assert_allclose(losses(work)[-steps:], losses(expected)[-steps:], rtol=2e-4)
    weights = weights_of(expected)
    for name, tensor in weights_of(work).items():
        torch.testing.assert_close(tensor, weights[name], rtol=2e-3, atol=2e-4, msg=name)


def test_plain_images_are_a_dataset_whose_account_adds_up(dataset):
    content = dataset.content
    assert content["task"] is None
    assert content["sequence_length"] is None
    assert content["processor"]["modality"] == "image"
    assert content["read"] == 61
    assert sum(content["left_out"].values()) == 1, "what is no image is left out with its reason"
    assert sum(split["rows"] for split in content["splits"].values()) == 60


def test_any_number_of_workers_hides_and_learns_the_same(dataset, tmp_path):
    alone = work_of(dataset, tmp_path / "1")
    run_distributed(train_here, 1, alone, init=False)
    assert records(alone, "metrics")[-1]["tokens"] == 8 * 7, "an image counts as one"
    frozen = weights_of(alone)["vit.embeddings.position_embeddings"]
    assert len({tuple(row) for row in frozen[0].tolist()}) == 5, "positions are not lost"
    assert reconstruction_error(alone) == pytest.approx(validation(alone)[-1], rel=1e-4)
    shared = work_of(dataset, tmp_path / "2", micro_batch=2, parallel={"zero": 3})
    run_distributed(train_here, 2, shared, init=False)
    assert_same(shared, alone, 8)
    np.testing.assert_allclose(validation(shared), validation(alone), rtol=2e-4)


@pytest.mark.slow
def test_a_run_that_is_broken_off_goes_on_at_other_workers_and_stage(dataset, tmp_path):
    unbroken = work_of(dataset, tmp_path / "unbroken", parallel={"zero": 0})
    run_distributed(train_here, 1, unbroken, init=False)
    run_distributed(
        train_until, 2, [work_of(dataset, tmp_path / "broken", parallel={"zero": 2})], STOP,
        init=False,
    )  # fmt: skip
    moved = work_of(dataset, tmp_path / "broken")
    run_distributed(train_here, 3, moved, init=False)
    assert_same(moved, unbroken, 8 - STOP)


def test_a_classifier_is_a_vit_that_starts_from_the_encoder(folder, dataset, tmp_path):
    before = work_of(dataset, tmp_path / "before", duration="2 steps")
    run_distributed(train_here, 1, before, init=False)
    task = {"name": "image_classification"}
    kind = RowKind(task=ImageClassificationSpec.model_validate(task), length=None)
    examples = prepared(folder, kind, "2")
    said = {name: value for name, value in OF_CLASSES.items() if name != "model"}
    parsed = FinetuneSpec.model_validate(
        said | {"task": task, "duration": "2 steps", "optimizer": {"learning_rate": 1e-9}}
    )
    tuned = replace(
        work_of(examples, tmp_path / "tuned"),
        stage="finetune",
        spec=parsed,
        task=parsed.task,
        labels=tuple(examples.content["labels"]),
        base=before.run / "model",
    )
    run_distributed(train_here, 1, tuned, init=False)
    model, found = load_for_use(tuned.run.local_path / "model", "image_classification")
    assert type(model).__name__ == "ViTForImageClassification"
    assert found.processor.size == (8, 8)
    started, ended = weights_of(before), weights_of(tuned)
    assert {name for name in ended if name not in started} == {
        "classifier.bias",
        "classifier.weight",
    }
    for name in started.keys() & ended.keys():
        torch.testing.assert_close(ended[name], started[name], rtol=0, atol=1e-6, msg=name)
