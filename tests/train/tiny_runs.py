"""A training of a two-layer model on a hundred short documents: whole runs in seconds."""

import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from raymodel.data.columns import columns_of
from raymodel.data.mixture import Mixture, mixture_of
from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.rows import RowKind
from raymodel.data.shard import open_dataset
from raymodel.data.spec import CleanSpec, SourceSpec, TokenizerSpec
from raymodel.data.step import Step, complete_item, missing_items
from raymodel.observe.records import Record, read_records
from raymodel.storage.artifact import Artifact, open_artifact
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.uri import Location
from raymodel.tasks import make_task
from raymodel.testing.tiny import TINY_LLAMA, write_tiny_corpus
from raymodel.train import loop
from raymodel.train.base import BaseModel
from raymodel.train.session import TorchrunSession
from raymodel.train.spec import FinetuneSpec, PretrainSpec, TrainSpec
from raymodel.train.work import TrainWork
from raymodel.train.worker import run_worker

STEPS, STOP = 12, 6  # as in `make_work`; where a test interrupts it, after a checkpoint at 4

MODEL: dict[str, Any] = TINY_LLAMA


RESNET: dict[str, Any] = {
    "architecture": "resnet",
    "config": {
        "embedding_size": 4,
        "hidden_sizes": [4, 8],
        "depths": [1, 1],
        "layer_type": "basic",
        "downsample_in_first_stage": False,
    },
}

TOKENIZER = TokenizerSpec(vocab_size=300)


def make_dataset(
    folder: Path, seed: int = 0, tokenizer: TokenizerSpec | Location = TOKENIZER
) -> Artifact:
    """Prepared rows of a tiny corpus, as an artifact.

    Args:
        seed: of the corpus; another one is another dataset.
        tokenizer: one to train, or the folder of another dataset's.
    """
    clean = CleanSpec()
    write_tiny_corpus(folder / "corpus", seed=seed)
    recipe = Recipe(
        sources=(SourceSpec(path=str(folder / "corpus")),),
        clean=clean,
        holdout=0.1,
        seed=7,
        kind=RowKind(length=16),
        processor=tokenizer,
    )

    return commit_dataset(recipe, folder / "dataset", fingerprint=f"{seed:016x}")


def make_examples(
    folder: Path, spec: FinetuneSpec, source: SourceSpec, *, holdout: float
) -> Artifact:
    """Examples of a task whose fresh model says how its files are read, as an artifact."""
    task = make_task(spec.task)
    recipe = Recipe(
        sources=(source,),
        clean=CleanSpec(),
        holdout=holdout,
        seed=7,
        kind=RowKind(task=spec.task, length=None),
        reads=task.processor_class(),
        processor=task.fresh_processor(),
    )
    return commit_dataset(recipe, folder, fingerprint="1" * 16)


def weights_of(work: TrainWork) -> dict[str, torch.Tensor]:
    """Those of the model that a training made."""
    return load_file((work.run / "model/model.safetensors").local_path)


def commit_dataset(recipe: Recipe, folder: Path, fingerprint: str) -> Artifact:
    """Makes a dataset in this process, as an artifact."""

    def execute(step: Step) -> None:
        for item in missing_items(step):
            complete_item(step, item)

    place = Location.parse(str(folder))
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    commit_manifest(
        place,
        job_name="tiny",
        stage="prepare",
        fingerprint=fingerprint,
        parents={},
        content=content,
    )
    return open_artifact(place)


def make_work(dataset: Artifact | Mixture, run: Path | Location, **spec: Any) -> TrainWork:
    """What the workers are told: twelve steps, a checkpoint each four, unless `spec` differs."""
    fields = {
        "model": MODEL,
        "global_batch": 8,
        "duration": "12 steps",
        "precision": "fp32",
        "log_every": "1 step",
        "validate_every": "6 steps",
        "validate_rows": 8,
        "checkpoint": {"every": "4 steps"},
    }
    return build_work(PretrainSpec.model_validate(fields | spec), dataset, run, export=False)


def build_work(
    spec: TrainSpec,
    dataset: Artifact | Mixture,
    run: Path | Location,
    *,
    base: Location | None = None,
    teacher: Location | None = None,
    export: bool = True,
) -> TrainWork:
    """What the workers of any training are told."""
    mixture = mixture_of(dataset) if isinstance(dataset, Artifact) else dataset
    if isinstance(spec, FinetuneSpec):
        stage, task = "finetune", spec.task
    else:
        assert isinstance(spec, PretrainSpec), "there are two kinds of training"
        stage, task = "pretrain", spec.objective
    return TrainWork(
        job_name="tiny",
        stage=stage,
        spec=spec,
        task=task,
        labels=tuple(mixture[0].artifact.content.get("labels", ())),
        seed=3,
        run=Location.parse(str(run)),
        dataset=mixture,
        base=base,
        teacher=None if teacher is None else BaseModel(location=teacher),
        threads=1,
        export=export,
    )


def train_here(rank: int, world_size: int, work: TrainWork) -> None:
    """One rank of a whole run, in a process of `run_distributed`."""
    run_worker(work, TorchrunSession())


def records(work: TrainWork, name: str) -> list[Record]:
    return read_records(work.run / f"{name}.jsonl")


def events(work: TrainWork, kind: str) -> list[Record]:
    return [event for event in records(work, "events") if event["event"] == kind]


def losses(work: TrainWork) -> list[float | None]:
    return [record["loss"] for record in records(work, "metrics") if "loss" in record]


def fragments(work: TrainWork, step: int) -> dict[str, bytes]:
    """The files of a checkpoint that hold weights, moments and random states."""
    folder = work.run / "checkpoints" / f"step-{step:08d}"
    names = [entry.name for entry in folder.list() if entry.name.endswith(".safetensors")]
    return {name: (folder / name).read_bytes() for name in names}


def train_all(rank: int, world_size: int, works: list[TrainWork]) -> None:
    """Several whole runs in one process; ZeRO-3 last, since it replaces functions of torch."""
    for work in sorted(works, key=lambda work: work.spec.parallel.zero):
        run_worker(work, TorchrunSession())
        gc.collect()


def train_until(rank: int, world_size: int, works: list[TrainWork], stop: int) -> None:
    """Runs that break off on all ranks, some steps after a checkpoint."""
    check = loop._check_rows

    def check_or_stop(t: loop.Training, rows: object) -> None:
        check(t, rows)
        if t.state.step == stop:
            raise KeyboardInterrupt

    loop._check_rows = check_or_stop
    for work in sorted(works, key=lambda work: work.spec.parallel.zero):
        with pytest.raises(KeyboardInterrupt):
            run_worker(work, TorchrunSession())
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()
        gc.collect()


def digests(work: TrainWork) -> list[str]:
    return [record["data_digest"] for record in records(work, "metrics") if "loss" in record]


def validation(work: TrainWork) -> list[float]:
    found = [record.get("validation_loss") for record in records(work, "metrics")]
    return [loss for loss in found if loss is not None]


def largest_difference(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) / b for a, b in zip(one, other, strict=True))


def held_out_loss(work: TrainWork) -> float:
    """What transformers makes of the exported model, over the rows that the run validated on. It
    makes a mask itself of the positions that begin anew in each document."""
    path = work.run.local_path / "model"
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
    task = make_task(work.task).for_model(model.config)
    data = open_dataset(work.dataset, "holdout")
    total = min(work.spec.validate_rows, data.num_rows)
    rows = columns_of(data.read(np.arange(total) * data.num_rows // total))
    batch = task.collate(rows)
    with torch.no_grad():
        return float(task.loss(model, batch)) / task.num_targets(batch)
