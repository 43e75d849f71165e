"""One set of images in four formats: the same rows, the same split, the same training."""

from pathlib import Path

import numpy as np
import pytest
from images import Images, binary_batch, digits, pickled_batch, write_idx
from tiny_runs import RESNET, build_work, commit_dataset, losses, train_all

from raymodel.data.prepare import Recipe
from raymodel.data.readers.png import encode_png
from raymodel.data.rows import RowKind
from raymodel.data.shard import open_dataset
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.evaluate.measure import combine, measure_part
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.modality.image import ImageProcessor
from raymodel.storage.artifact import Artifact
from raymodel.tasks.spec.image import ImageClassificationSpec
from raymodel.testing.distributed import run_distributed
from raymodel.train.spec import FinetuneSpec
from raymodel.train.work import TrainWork

STEPS = 40
SPEC = {
    "task": {
        "name": "image_classification",
        "image": {"size": 16, "channels": 1},
        "augment": {"shift": 1},
    },
    "model": RESNET | {"config": RESNET["config"] | {"embedding_size": 8, "hidden_sizes": [8, 16]}},
    "sources": [{"path": "digits", "format": "idx"}],
    "global_batch": 32,
    "duration": f"{STEPS} steps",
    "optimizer": {"learning_rate": 0.01},
    "precision": "fp32",
    "log_every": "1 step",
    "validate_rows": 32,
}


def write_formats(folder: Path, images: Images) -> dict[str, SourceSpec]:
    """The images as they come in each format; class folders are read class by class."""
    write_idx(folder, images)
    (folder / "data_batch_1.bin").write_bytes(binary_batch(images))
    (folder / "data_batch_1").write_bytes(pickled_batch(images))
    for index, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        place = folder / "folders" / str(label) / f"{index:04d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encode_png(pixels))
    return {
        "binary": SourceSpec(path=str(folder / "data_batch_1.bin"), format="cifar"),
        "pickled": SourceSpec(path=str(folder / "data_batch_1"), format="cifar"),
        "idx": SourceSpec(path=str(folder / "train-images-idx3-ubyte"), format="idx"),
        "folders": SourceSpec(path=str(folder / "folders"), format="class_folders"),
    }


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """All 1,797 digits, class by class, which is the order of folders."""
    folder, found = tmp_path_factory.mktemp("digits"), digits(1797)
    by_class = np.argsort(found.labels, kind="stable")
    images = Images(found.pixels[by_class], [found.labels[index] for index in by_class])
    task = ImageClassificationSpec.model_validate(SPEC["task"])
    return {
        name: commit_dataset(
            Recipe(
                sources=(source,),
                clean=CleanSpec(),
                holdout=0.2,
                seed=7,
                kind=RowKind(task=task, length=None),
                reads=ImageProcessor,
                processor=ImageProcessor(size=(16, 16), channels=1, mean=(0.5,), std=(0.5,)),
            ),
            folder / name,
            fingerprint=f"{number:016x}",
        )
        for number, (name, source) in enumerate(write_formats(folder, images).items())
    }


def test_all_formats_give_the_same_rows_on_the_same_sides(datasets: dict[str, Artifact]) -> None:
    first, *others = datasets.values()
    assert first.content["read"] == 1797
    for split in ("train", "holdout"):
        opened = open_dataset(first, split)
        expected = opened.read(np.arange(opened.num_rows))
        assert expected.num_rows > 300
        for other in others:
            found = open_dataset(other, split)
            assert found.labels == opened.labels == tuple("0123456789")
            assert found.read(np.arange(found.num_rows)).equals(expected)


def accuracy_of(work: TrainWork) -> float | None:
    spec = EvaluateSpec(metrics=("accuracy",), max_rows=1000)
    held_out = {"examples": open_dataset(work.dataset, "holdout")}
    part = measure_part((work.run / "model").local_path, work.task, held_out, spec)
    return combine(work.task.name, [part], held_out, spec).metrics["accuracy"]


@pytest.mark.slow
def test_all_formats_train_one_model_of_one_accuracy(
    datasets: dict[str, Artifact], tmp_path: Path
) -> None:
    spec = FinetuneSpec.model_validate(SPEC)
    works = [build_work(spec, dataset, tmp_path / name) for name, dataset in datasets.items()]
    run_distributed(train_all, 1, works, init=False)
    assert len(losses(works[0])) == STEPS
    assert all(losses(work) == losses(works[0]) for work in works)
    accuracies = [accuracy_of(work) for work in works]
    assert len({*accuracies}) == 1
    assert accuracies[0] is not None
    assert accuracies[0] > 0.6
