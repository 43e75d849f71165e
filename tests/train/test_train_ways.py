"""Every task in every way of training that it has: the table in the README is told by `WAYS`."""

from __future__ import annotations

import gc
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import losses, weights_of
from tiny_tasks import TINY, make_rows, spec_of, work_of, write_sources

from raymodel.storage.artifact import Artifact
from raymodel.tasks import TASKS
from raymodel.testing.distributed import run_distributed
from raymodel.train.forecast.support import Trained, find_unsupported
from raymodel.train.session import TorchrunSession
from raymodel.train.work import TrainWork
from raymodel.train.worker import run_worker

WAYS = {
    "LoRA": (
        "causal_lm",
        "chat",
        "preference",
        "chat_preference",
        "masked_lm",
        "seq2seq_lm",
        "text_classification",
        "multi_label_classification",
        "text_regression",
        "token_classification",
        "question_answering",
        "image_classification",
        "image_segmentation",
        "object_detection",
        "audio_classification",
        "speech_recognition",
        "speech_ctc",
        "ranking",
        "embedding",
    ),
    "ZeRO-3": (
        "causal_lm",
        "chat",
        "preference",
        "chat_preference",
        "masked_lm",
        "seq2seq_lm",
        "text_classification",
        "multi_label_classification",
        "text_regression",
        "token_classification",
        "question_answering",
        "image_classification",
        "masked_image",
        "image_segmentation",
        "object_detection",
        "audio_classification",
        "speech_recognition",
        "speech_ctc",
        "ranking",
        "embedding",
    ),
    "tensor": (
        "causal_lm",
        "chat",
        "preference",
        "chat_preference",
        "text_classification",
        "multi_label_classification",
        "text_regression",
    ),
    "sequence": ("causal_lm", "chat"),
}
"""Way → the tasks that are trained so below. `docs/table_of_tasks.py` reads it, so it is plain."""
FIELDS: dict[str, dict[str, Any]] = {
    "ZeRO-3": {"parallel": {"zero": 3}},
    "tensor": {"parallel": {"tensor": 2}},
    "sequence": {"parallel": {"sequence": 2}},
}
ADAPTED = {"adapter": {"lora": {"rank": 2}}, "optimizer": {"learning_rate": 0.01}}


def train_many(rank: int, world_size: int, works: dict[str, TrainWork]) -> dict[str, str]:
    """Trains each; returns what ended one, by its name."""
    errors = {}
    for name, work in works.items():
        try:
            run_worker(work, TorchrunSession())
        except Exception:  # noqa: BLE001 (one task must not end the others)
            errors[name] = traceback.format_exc()
        gc.collect()
    return errors


class Runs:
    """All tasks in one way are trained by the same processes, when the first of them is asked."""

    def __init__(self, folder: Path, names: set[str]) -> None:
        self._folder, self._names = folder, names
        self._rows: dict[str, Artifact] = {}
        self._done: dict[str, tuple[dict[str, TrainWork], dict[str, str]]] = {}

    def of(self, way: str, name: str) -> TrainWork:
        if way not in self._done:
            self._done[way] = self._train(way)
        works, errors = self._done[way]
        assert name not in errors, errors[name]
        return works[name]

    def _train(self, way: str) -> tuple[dict[str, TrainWork], dict[str, str]]:
        names = [name for name in WAYS.get(way, TASKS) if name in self._names]
        works = {name: self._work(way, name) for name in names}
        workers = 1 if way == "plain" else 2
        errors = run_distributed(train_many, workers, works, init=False, timeout_s=900)
        return works, errors[0]

    def _work(self, way: str, name: str) -> TrainWork:
        if name not in self._rows:
            if not self._rows:
                write_sources(self._folder)
            self._rows[name] = make_rows(name, self._folder)
        run, rows = self._folder / way / name, self._rows[name]
        if way != "LoRA":
            return work_of(name, rows, self._folder, run, **FIELDS.get(way, {}))
        base = self.of("plain", name).run / "model"
        return work_of(name, rows, self._folder, run, base=base, **ADAPTED)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Of the tasks that were asked for on the command line."""
    own = [item for item in request.session.items if item.path == request.path]
    asked = {item.callspec.params["name"] for item in own if hasattr(item, "callspec")}
    return Runs(tmp_path_factory.mktemp("ways"), asked)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("way", "name"), [(way, name) for way in WAYS if way != "LoRA" for name in WAYS[way]]
)
def test_two_workers_train_a_task_so_to_the_curve_of_one(runs: Runs, way: str, name: str) -> None:
    plain, spread = runs.of("plain", name), runs.of(way, name)
    assert losses(plain)[-1] != losses(plain)[0]
    np.testing.assert_allclose(losses(spread), losses(plain), rtol=5e-4)
    expected = weights_of(plain)
    for weight, tensor in weights_of(spread).items():
        torch.testing.assert_close(tensor, expected[weight], rtol=5e-3, atol=1e-3, msg=weight)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", WAYS["LoRA"])
def test_an_adapter_trains_a_task_and_is_merged(runs: Runs, name: str) -> None:
    work, before = runs.of("LoRA", name), weights_of(runs.of("plain", name))
    found = losses(work)
    assert len(found) == 4
    assert np.isfinite(found).all()
    after = load_file((work.run / "model/model.safetensors").local_path)
    assert set(after) == set(before), "merged: the model is of the same tensors"
    changed = {weight for weight in after if not torch.equal(after[weight], before[weight])}
    assert changed, "the adapter learnt something"
    assert set(after) - changed, "and most of the model is frozen"


@pytest.mark.parametrize(
    ("way", "name"),
    [(way, name) for way in ("tensor", "sequence") for name in TASKS if name not in WAYS[way]],
)
def test_what_the_table_lacks_is_refused(way: str, name: str, tmp_path: Path) -> None:
    spec = spec_of(name, tmp_path, **FIELDS[way])
    model = TINY[name].model or {"architecture": "whisper", "config": {}}
    trained = Trained(
        architecture=model["architecture"],
        config=model["config"],
        cuts_rows=TASKS[name].cuts_rows,
        row_tokens=48,
    )
    fields = [field for field, _ in find_unsupported(spec, trained)]
    assert f"parallel.{way}" in fields


def test_every_task_is_trained_with_its_states_cut_up() -> None:
    assert set(TINY) == set(TASKS) == set(WAYS["ZeRO-3"])
