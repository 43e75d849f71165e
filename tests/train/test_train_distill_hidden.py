"""Matching of hidden states: one curve under every layout; in checkpoints, not in the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_train_distill as plainly
import torch
from test_train_distill import STOP, TRAINING, causal_lm, check_same, work_of
from tiny_runs import losses, train_all, train_until

from raymodel.data.columns import columns_of
from raymodel.data.mixture import mixture_of
from raymodel.data.shard import open_dataset
from raymodel.errors import SpecError
from raymodel.model.load import load_for_use
from raymodel.storage.artifact import Artifact
from raymodel.storage.uri import Location
from raymodel.testing.distributed import run_distributed
from raymodel.testing.tiny import ModelWeights, build_tiny_llama, outline_tiny_llama
from raymodel.train.checkpoint.export import CheckpointWeights
from raymodel.train.checkpoint.fragments import FragmentReader
from raymodel.train.checkpoint.index import load_index
from raymodel.train.checkpoint.state import checkpoint_location, committed_steps
from raymodel.train.distill.hidden import Hidden, matched, with_projections
from raymodel.train.distill.spec import DistillSpec
from raymodel.train.distill.teacher import Teacher
from raymodel.train.network import Network
from raymodel.train.spec import FinetuneSpec

dataset, teacher = plainly.dataset, plainly.teacher  # fixtures
HIDDEN = {"distill": {"teacher": "t", "student": {"layers": 2}, "hidden": 2.0}}


def network_of(model: Any) -> Network:
    weights = ModelWeights(model)
    return Network(module=model, weights=weights, plain=model, first=weights)


def test_any_layout_matches_to_one_curve_goes_on_and_leaves_the_matrices_behind(
    dataset: Artifact, teacher: Location, tmp_path: Path
) -> None:
    def work(name: str, zero: int, **more: Any) -> Any:
        return work_of(dataset, teacher, tmp_path / name, parallel={"zero": zero}, **HIDDEN, **more)

    alone = work("alone", 0)
    plain = work_of(dataset, teacher, tmp_path / "plain")
    run_distributed(train_all, 1, [alone, plain], init=False)
    two = [work(f"{zero}", zero, micro_batch=2) for zero in (0, 3)]
    broken = work("run", 3)
    run_distributed(train_all, 2, two, init=False)
    run_distributed(train_until, 2, [broken], STOP, init=False)
    for each in two:
        check_same(each, alone)
    assert losses(alone)[0] > losses(plain)[0] + 0.1, "something is added"
    assert losses(alone)[-1] < 0.9 * losses(alone)[0]

    spec = broken.spec.model_copy(update={"parallel": alone.spec.parallel})
    resumed = replace(broken, spec=spec, export=True)
    run_distributed(train_all, 1, [resumed], init=False)
    check_same(resumed, alone)
    place = checkpoint_location(resumed.run, max(committed_steps(resumed.run)))
    kept = load_index(place)
    matrices = [name for name in kept.parameters if name.startswith("distilled_hidden.")]
    assert matrices == ["distilled_hidden.0.weight", "distilled_hidden.1.weight"]
    learnt = CheckpointWeights(FragmentReader(place, kept)).read(matrices[0])
    assert not torch.equal(learnt, torch.eye(32))
    model, _ = load_for_use(resumed.run.local_path / "model", "causal_lm")
    assert not [name for name in model.state_dict() if "distilled" in name]


@pytest.mark.slow
def test_the_stages_between_match_to_the_same_curve(
    dataset: Artifact, teacher: Location, tmp_path: Path
) -> None:
    works = [
        work_of(dataset, teacher, tmp_path / f"{zero}", parallel={"zero": zero}, **HIDDEN)
        for zero in (0, 1, 2)
    ]
    run_distributed(train_all, 2, works, init=False)
    for each in works[1:]:
        check_same(each, works[0])


def test_what_is_added_is_the_share_of_the_teachers_size_that_states_are_away(
    dataset: Artifact, teacher: Location
) -> None:
    data = open_dataset(mixture_of(dataset), "train")
    task = causal_lm(teacher)
    model, _ = load_for_use(teacher.local_path, "causal_lm")
    student = build_tiny_llama(seed=5, hidden_size=16, num_attention_heads=2)
    network = with_projections(network_of(student), model, seed=3)
    for place in range(2):
        drawn = network.weights.read(f"distilled_hidden.{place}.weight")
        assert drawn.shape == (32, 16)
        student.distilled_hidden[place].weight = torch.nn.Parameter(drawn)
    batch = task.collate(columns_of(data.read(np.arange(4))))
    spec = DistillSpec(teacher="t", hidden=3.0)
    without = float(
        Teacher(model, task, spec.model_copy(update={"hidden": None})).loss(student, batch)
    )
    hidden = Hidden(student, model, task)
    loss = Teacher(model, task, spec, hidden=hidden).loss(student, batch)

    said = student(batch["input_ids"], output_hidden_states=True).hidden_states
    told = model(batch["input_ids"], output_hidden_states=True).hidden_states
    first = (student.distilled_hidden[0](said[1]) - told[2]).square().mean(-1)
    bears = batch["labels"] != task.no_target
    added = ((first / told[2].square().mean(-1)) * bears).sum()
    # The last states of `hidden_states` have been through the last norm: by the layers themselves.
    last = []
    hooks = [
        each.model.layers[-1].register_forward_hook(lambda m, i, out: last.append(out))
        for each in (student, model)
    ]
    student(batch["input_ids"])
    model(batch["input_ids"])
    for each in hooks:
        each.remove()
    own, other = (out[0] if isinstance(out, tuple) else out for out in last)
    away = (student.distilled_hidden[1](own) - other).square().mean(-1)
    added = (added + (away / other.square().mean(-1) * bears).sum()) / 2
    assert float(loss) == pytest.approx(without + 3.0 * float(added), rel=1e-4)
    loss.backward()
    assert float(student.distilled_hidden[0].weight.grad.abs().sum()) > 0
    assert all(weight.grad is None for weight in model.parameters())


def test_layers_are_matched_evenly_the_last_to_the_last() -> None:
    assert [matched(place, 3, 12) for place in range(3)] == [3, 7, 11]
    assert [matched(place, 4, 6) for place in range(4)] == [0, 2, 3, 5]
    assert [matched(place, 2, 2) for place in range(2)] == [0, 1]


def test_what_cannot_be_matched_is_refused() -> None:
    deep, shallow = outline_tiny_llama(num_hidden_layers=3), outline_tiny_llama()
    with pytest.raises(SpecError, match="has 3 layers, more than its teacher"):
        with_projections(network_of(deep), shallow, 0)
    fields = {"task": "causal_lm", "sources": [{"path": "x"}], **TRAINING, **HIDDEN}
    FinetuneSpec.model_validate(fields)
    for more, told in (
        ({"activation_checkpointing": True}, "with activation_checkpointing layers are not"),
        ({"compile": True}, "with compile layers are not"),
        ({"adapter": {"lora": {"rank": 4}}}, "an adapter leaves those as"),
    ):
        with pytest.raises(ValueError, match=told):
            FinetuneSpec.model_validate(fields | more)


def test_a_training_without_it_keeps_its_name() -> None:
    assert "hidden" not in DistillSpec(teacher="t").identity()
    assert DistillSpec(teacher="t", hidden=1.0).identity()["hidden"] == 1.0
