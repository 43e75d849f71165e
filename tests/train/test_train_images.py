"""Images through the whole of training: batch norm, augmentation, workers that come and go."""

import io
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import RESNET, build_work, commit_dataset, losses, records, train_here, weights_of
from transformers import AutoModelForImageClassification

from raymodel.data.columns import columns_of
from raymodel.data.feed import DirectFeed
from raymodel.data.prepare import Recipe
from raymodel.data.rows import RowKind
from raymodel.data.shard import open_dataset
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.modality.image import ImageProcessor
from raymodel.tasks import make_task
from raymodel.tasks.spec.image import ImageClassificationSpec
from raymodel.testing.distributed import RankError, run_distributed
from raymodel.train import loop
from raymodel.train.checkpoint.state import committed_steps
from raymodel.train.session import TorchrunSession
from raymodel.train.spec import FinetuneSpec
from raymodel.train.step.batches import Collator, collated
from raymodel.train.work import TrainWork
from raymodel.train.worker import run_worker

TASK = {
    "name": "image_classification",
    "image": {"size": 8, "channels": 1},
    "augment": {"shift": 1, "rotate": 10, "mixup": 0.3, "cutmix": 0.2},
}
SPEC = {
    "task": TASK,
    "model": RESNET,
    "sources": [{"path": "images", "format": "class_folders"}],
    "global_batch": 7,
    "duration": "12 steps",
    "optimizer": {"learning_rate": 0.01},
    "precision": "fp32",
    "log_every": "1 step",
    "validate_every": "6 steps",
    "validate_rows": 8,
    "checkpoint": {"every": "4 steps"},
}


def write_images(folder: Path) -> None:
    """Bright and dark squares, and a file that is no image."""
    chance = np.random.default_rng(0)
    for label, base in (("bright", 150), ("dark", 20)):
        (folder / label).mkdir(parents=True)
        for index in range(30):
            pixels = chance.integers(base, base + 80, (8, 8), dtype=np.uint8)
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            (folder / label / f"{index}.png").write_bytes(stream.getvalue())
    (folder / "dark/broken.png").write_bytes(b"\x89PNG and no more")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "images")
    recipe = Recipe(
        sources=(SourceSpec(path=str(folder / "images"), format="class_folders"),),
        clean=CleanSpec(),
        holdout=0.2,
        seed=7,
        kind=RowKind(task=ImageClassificationSpec.model_validate(TASK), length=None),
        reads=ImageProcessor,
        processor=ImageProcessor(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,)),
    )
    return commit_dataset(recipe, folder / "dataset", fingerprint="1" * 16)


def work_of(dataset, run: Path, **spec) -> TrainWork:
    return build_work(FinetuneSpec.model_validate(SPEC | spec), dataset, run)


def test_a_broken_image_is_left_out_with_its_reason_and_the_rest_adds_up(dataset):
    content = dataset.content
    assert sum(content["left_out"].values()) == 1
    assert content["read"] == 61
    assert content["labels"] == ["bright", "dark"]
    assert content["processor"]["num_channels"] == 1


def batches_of(dataset, workers: int, steps: range) -> list[dict[str, torch.Tensor]]:
    """What each of these steps is trained on, the rows of all workers together."""
    data, spec = open_dataset(dataset, "train"), ImageClassificationSpec.model_validate(TASK)
    task = make_task(spec, labels=dataset.content["labels"]).reading_as(data.processor)
    order = data.order(3, 7, with_partners=spec.wants_partners)
    shares = [
        collated(
            DirectFeed(data, order, steps.start, steps.stop, rank, workers),
            Collator(task, accumulation=2, seed=3),
        )
        for rank in range(workers)
    ]
    made = []
    for step in zip(*shares, strict=True):
        pieces = [piece for _, batch in step for piece in batch.micro_batches if "share" in piece]
        made.append({name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]})
    return made


def test_mixed_batches_are_bit_for_bit_the_same_at_any_number_of_workers_and_from_any_step(dataset):
    whole = batches_of(dataset, 1, range(6))
    assert set(whole[0]) == {"pixel_values", "labels", "partner_labels", "share"}
    shares = torch.cat([batch["share"] for batch in whole])
    assert 0.2 < (shares < 1).float().mean() < 0.8
    for workers, first in ((2, 0), (3, 0), (3, 4), (1, 4)):
        found = batches_of(dataset, workers, range(first, 6))
        for mine, expected in zip(found, whole[first:], strict=True):
            assert all(torch.equal(mine[name], expected[name]) for name in expected)


def test_any_number_of_workers_trains_the_same_batches_and_statistics(dataset, tmp_path):
    works = {n: work_of(dataset, tmp_path / str(n)) for n in (1, 2, 3)}
    for workers, work in works.items():
        run_distributed(train_here, workers, work, init=False)
    expected = weights_of(works[1])
    assert "resnet.embedder.embedder.normalization.running_mean" in expected
    for workers in (2, 3):
        np.testing.assert_allclose(losses(works[workers]), losses(works[1]), rtol=2e-4)
        for name, tensor in weights_of(works[workers]).items():
            torch.testing.assert_close(tensor, expected[name], rtol=2e-3, atol=2e-4, msg=name)
    digests = {records(work, "metrics")[-1]["data_digest"] for work in works.values()}
    assert len(digests) == 1
    assert {r["unit"] for r in records(works[1], "metrics") if "loss" in r} == {"images"}
    assert records(works[1], "metrics")[-1]["tokens"] == 12 * 7, "an image counts as one"
    assert losses(works[1])[-1] < 0.5 * losses(works[1])[0]


def train_until_killed(rank: int, world_size: int, work: TrainWork, stop: int) -> None:
    """One rank ends as `kill -9` ends it, once a checkpoint is whole: nothing is said or closed."""
    check = loop._check_rows

    def check_or_die(t: loop.Training, rows: object) -> None:
        check(t, rows)
        if t.state.step == stop and rank == 1:
            while not committed_steps(work.run):
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)

    loop._check_rows = check_or_die
    run_worker(work, TorchrunSession())


def probabilities_of(work: TrainWork) -> tuple[torch.Tensor, float]:
    """What transformers makes of the model and all held-out rows, and how many it has right."""
    model = AutoModelForImageClassification.from_pretrained(work.run.local_path / "model")
    data = open_dataset(work.dataset, "holdout")
    task = make_task(work.task).reading_as(data.processor)
    batch = task.collate(columns_of(data.read(np.arange(data.num_rows))))
    with torch.no_grad():
        probs = model(pixel_values=batch["pixel_values"]).logits.softmax(-1)
    return probs, float((probs.argmax(-1) == batch["labels"]).float().mean())


# Another number of workers adds the same fp32 numbers in another order, and each step carries that
# on. Adam divides by the root of the second moment: where a gradient is near zero, a weight may
# move by much of its rate the other way.
OTHER_LAYOUT = {"rtol": 2e-3, "atol": 2e-4}
# The running statistics are means of hundreds of activations, in which single weights are lost. In
# a run of hundreds of steps they part all the same, when the loss is small and the rate still high.
OTHER_LAYOUT_STATISTICS = {"rtol": 2e-4, "atol": 2e-5}


def test_a_run_killed_with_9_ends_as_an_unbroken_one_here_and_at_other_workers_and_stage(
    dataset, tmp_path
):
    unbroken, broken = (work_of(dataset, tmp_path / name) for name in ("unbroken", "broken"))
    run_distributed(train_here, 2, unbroken, init=False)
    with pytest.raises(RankError, match=r"exit code -9|[Cc]onnection|closed"):
        run_distributed(train_until_killed, 2, broken, 6, init=False)
    assert committed_steps(broken.run) == [4]
    shutil.copytree(broken.run.local_path, tmp_path / "moved")
    expected, (probs, accuracy) = weights_of(unbroken), probabilities_of(unbroken)

    # The same workers add in the same order: bit for bit the same, statistics and all.
    run_distributed(train_here, 2, broken, init=False)
    assert losses(broken)[-6:] == losses(unbroken)[-6:]
    assert_same(weights_of(broken), expected)

    moved = work_of(dataset, tmp_path / "moved", parallel={"zero": 2})
    run_distributed(train_here, 3, moved, init=False)
    np.testing.assert_allclose(losses(moved)[-6:], losses(unbroken)[-6:], rtol=2e-4)
    for name, tensor in weights_of(moved).items():
        close = OTHER_LAYOUT_STATISTICS if "running" in name else OTHER_LAYOUT
        torch.testing.assert_close(tensor, expected[name], **close, msg=name)
    found, other_accuracy = probabilities_of(moved)
    torch.testing.assert_close(found, probs, **OTHER_LAYOUT)
    assert other_accuracy == accuracy
    tracked = [name for name in expected if name.endswith("num_batches_tracked")]
    assert {int(expected[name]) for name in tracked} == {12}


def assert_same(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected[name]), name


def test_a_batch_that_is_cut_within_a_worker_is_refused_with_the_reason(dataset, tmp_path):
    work = work_of(dataset, tmp_path / "cut", micro_batch=2)
    with pytest.raises(RankError, match="micro_batch"):
        run_distributed(train_here, 1, work, init=False)
    frozen = work_of(dataset, tmp_path / "frozen", micro_batch=2, batch_norm="frozen")
    run_distributed(train_here, 1, frozen, init=False)
    assert weights_of(frozen)["resnet.embedder.embedder.normalization.running_var"].eq(1).all()
