"""Where DeepSpeed keeps the state: an upgrade that moves something fails here, and loudly."""

import sys

import pytest
import torch
from tiny_engines import Case, build_module, engine_of, join_tiny_group, train_steps

from raymodel.errors import SpecError
from raymodel.testing.distributed import run_distributed
from raymodel.train.step import zero

OPTIMIZERS = {
    Case(0, "fp32"): "AdamW",
    Case(0, "bf16"): "FP16_UnfusedOptimizer",
    Case(0, "fp16"): "FP16_UnfusedOptimizer",
    Case(1, "fp32"): "DeepSpeedZeroOptimizer",
    Case(1, "bf16"): "DeepSpeedZeroOptimizer",
    Case(2, "fp32"): "DeepSpeedZeroOptimizer",
    Case(2, "bf16"): "DeepSpeedZeroOptimizer",
    Case(3, "fp32"): "DeepSpeedZeroOptimizer_Stage3",
    Case(3, "bf16"): "DeepSpeedZeroOptimizer_Stage3",
    Case(0, "fp32", optimizer="sgd"): "SGD",
    Case(0, "bf16", optimizer="sgd"): "FP16_UnfusedOptimizer",
    Case(1, "bf16", optimizer="adam"): "DeepSpeedZeroOptimizer",
    Case(1, "fp32", optimizer="sgd without momentum"): "DeepSpeedZeroOptimizer",
    Case(3, "bf16", optimizer="lion"): "DeepSpeedZeroOptimizer_Stage3",
}
MOMENTS = {
    "adamw": {"exp_avg", "exp_avg_sq"},
    "adam": {"exp_avg", "exp_avg_sq"},
    "sgd": {"momentum_buffer"},
    "sgd without momentum": set(),
    "lion": {"exp_avg"},
}
COUNTS = ("adamw", "adam")  # the others correct no bias


def owned_state(rank, world_size):
    """Of each case: the optimizer's class, and what this rank owns before and after updates."""
    join_tiny_group()
    found = {}
    for case in OPTIMIZERS:
        with engine_of(case) as engine:
            inner = engine.deepspeed
            fresh = _owned(inner)
            done_before = zero.updates_done(inner)
            train_steps(engine, range(2))
            found[case] = {
                "class": type(inner.optimizer).__name__,
                "fresh": fresh,
                "trained": _owned(inner),
                "updates": (done_before, zero.updates_done(inner)),
                "counters": zero.counters(inner),
            }
    return found


def imports_of_training(rank, world_size):
    join_tiny_group()
    with engine_of(Case(1)) as engine:
        train_steps(engine, range(2))
    from deepspeed.runtime.zero.muon import original_muon

    return "torch._inductor.compile_fx" in sys.modules, original_muon.compiler.compile().__module__


def _owned(inner):
    return [
        (
            part.name,
            part.shape,
            part.start,
            part.length,
            {key: view.clone() for key, view in zero.state_tensors(inner, part).items()},
        )
        for part in zero.owned_slices(inner)
    ]


def test_training_does_not_import_the_compiler_for_an_optimizer_that_is_not_used():
    """And what would compile it is as it was."""
    assert run_distributed(imports_of_training, 1, init=False) == [(False, "torch")]


@pytest.fixture(scope="module", params=[1, 3])
def ranks(request):
    return run_distributed(owned_state, request.param, init=False)


def test_the_optimizer_classes_are_those_whose_layout_is_known(ranks):
    plain = {"adamw": "AdamW", "sgd without momentum": "SGD"}  # of one worker in fp32
    for found in ranks:
        for case, expected in OPTIMIZERS.items():
            if len(ranks) == 1 and case.precision == "fp32":
                expected = plain.get(case.optimizer, expected)
            assert found[case]["class"] == expected, case


def test_the_ranks_own_each_element_of_each_trained_parameter_exactly_once(ranks):
    trained = {
        name: tuple(parameter.shape)
        for name, parameter in build_module(Case(0)).named_parameters()
        if parameter.requires_grad
    }
    assert (1,) in trained.values(), "fewer elements than ranks"
    for case in OPTIMIZERS:
        for moment in ("fresh", "trained"):
            owners = {name: torch.zeros(shape).view(-1) for name, shape in trained.items()}
            for found in ranks:
                for name, shape, start, length, views in found[case][moment]:
                    assert shape == trained[name]
                    assert all(view.shape == (length,) for view in views.values())
                    owners[name][start : start + length] += 1
            assert all(bool((count == 1).all()) for count in owners.values()), (case, owners)


def test_before_the_first_update_the_weights_are_those_of_the_module(ranks):
    weights = dict(build_module(Case(0)).named_parameters())
    for case in OPTIMIZERS:
        for found in ranks:
            for name, _, start, length, views in found[case]["fresh"]:
                assert set(views) == {"weight"}, "moments are made by the first update"
                expected = weights[name].detach().view(-1)[start : start + length]
                # The optimizer's fp32 copy is taken of the module after it was cast.
                dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(case.precision)
                rounded = expected.to(dtype).float() if dtype else expected
                assert torch.equal(views["weight"], rounded), (case, name)


def test_after_an_update_every_parameter_has_its_moments(ranks):
    for case in OPTIMIZERS:
        for found in ranks:
            assert found[case]["updates"] == (0, 2 if case.optimizer in COUNTS else 0)
            for name, _, _, _, views in found[case]["trained"]:
                assert set(views) == {"weight"} | MOMENTS[case.optimizer], (case, name)
                assert len(views) == 1 + case.spec().optimizer.moments
                assert all(view.dtype == torch.float32 for view in views.values())


def test_the_counters_are_there_and_the_loss_scale_where_it_moves(ranks):
    for case in OPTIMIZERS:
        counters = ranks[0][case]["counters"]
        assert counters["global_steps"] == 2
        assert counters["skipped_steps"] == 0
        if case.precision == "fp16":
            assert counters["cur_scale"] == 2.0**16


def build_in_fp16(rank, world_size):
    """The error on a machine without fp16 arithmetic."""
    join_tiny_group()
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: False
    try:
        with engine_of(Case(1, "fp16")):
            return None
    except SpecError as error:
        return str(error)


def test_a_precision_that_the_machine_lacks_is_the_users_error():
    (message,) = run_distributed(build_in_fp16, 1, init=False)
    assert "precision is fp16" in message
    assert "bf16 or fp32" in message
