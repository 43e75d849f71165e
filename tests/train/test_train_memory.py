"""The plan of a worker's memory: its arithmetic, and its truth."""

from dataclasses import replace

import pytest

from raymodel.model.shape import ModelShape
from raymodel.tasks import loss
from raymodel.testing.peak import MODEL, MemoryCase
from raymodel.train.forecast.buckets import BUCKET_ELEMENTS
from raymodel.train.forecast.memory import LOSS_CHUNK_ELEMENTS, Setup, plan_memory
from raymodel.train.spec import ParallelSpec, PretrainSpec

SHAPE = ModelShape.of("llama", MODEL)
N = SHAPE.trained
SETUP = Setup(workers=4, global_batch=8, micro_batch=2)


def plan(shape=SHAPE, row_tokens=1, checkpoints=False, **changes):
    return plan_memory(
        shape, replace(SETUP, **changes), row_tokens=row_tokens, checkpoints=checkpoints
    )


def between_steps(**changes):
    """Bytes of each trained parameter that are always there: what all moments share."""
    moments = plan(**changes).moments
    names = ("weights", "fp32 weights", "moments", "checkpoint copies")
    assert all(m.parts.get(name) == moments[0].parts.get(name) for m in moments for name in names)
    return sum(moments[0].parts.get(name, 0.0) for name in names) / N


@pytest.mark.parametrize(
    ("zero", "precision", "expected"),
    [
        # arXiv:1910.02054, figure 1, without gradients: 2 for the weight, 12 for the optimizer.
        (0, "bf16", 14),
        (1, "bf16", 2 + 12 / 4),
        (2, "bf16", 2 + 12 / 4),
        (3, "bf16", 14 / 4),
        (0, "fp32", 12),  # torch's optimizer works on the model's own weights
        (1, "fp32", 4 + 12 / 4),
    ],
)
def test_state_is_that_of_the_zero_paper(zero, precision, expected):
    assert between_steps(zero=zero, precision=precision) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [
        ({"name": "adam"}, 2),
        ({"name": "lion"}, 1),
        ({"name": "sgd"}, 1),
        ({"name": "sgd", "momentum": 0.0}, 0),
        ({"name": "adafactor"}, SHAPE.sides / N),
        ({"name": "muon"}, 2 - SHAPE.hidden / N),
    ],
)
def test_the_state_is_that_of_the_optimizer(optimizer, numbers):
    spec = PretrainSpec.model_validate(
        {
            "model": {"preset": "llama-tiny"},
            "global_batch": 8,
            "duration": "1 step",
            "optimizer": optimizer,
            "parallel": {"zero": 0},
        }
    )
    setup = Setup.of(spec, 4, on_gpu=False)
    changes = {"optimizer": setup.optimizer, "moments": setup.moments, "zero": 0}
    assert between_steps(**changes) == pytest.approx(2 + 4 + 4 * numbers)
    more = between_steps(**changes, checkpoints=True) - between_steps(**changes)
    assert more == pytest.approx((4 + 4 * numbers) / 4)


def test_copies_for_a_checkpoint_are_shared_out_at_every_stage():
    for zero in range(4):
        more = between_steps(zero=zero, checkpoints=True) - between_steps(zero=zero)
        assert more == pytest.approx(12 / 4)


def test_on_a_gpu_copies_and_an_offloaded_optimizer_lie_in_the_memory_of_the_machine():
    there = plan(on_gpu=True, checkpoints=True)
    assert there.host == {"checkpoint copies": 12 * N / 4}
    offloaded = plan(on_gpu=True, offload=True, checkpoints=True)
    assert {"fp32 weights", "moments"} <= set(offloaded.host)
    assert not {"fp32 weights", "moments"} & set(offloaded.peak.parts)
    assert plan(checkpoints=True).host == {}, "a CPU worker has one memory"


def test_activations_grow_with_the_micro_batch_and_shrink_with_recomputation_and_sequence():
    def activations(**changes):
        return plan(row_tokens=512, **changes).moments[0].parts["activations"]

    assert activations(micro_batch=2) == pytest.approx(2 * activations(micro_batch=1))
    assert activations(sequence=2) == pytest.approx(activations() / 2)
    assert activations(activation_checkpointing=True) < activations() / 10


def test_gradients_of_earlier_micro_batches_stay_unless_stage_2_shares_them_out():
    def kept(zero, micro_batch):
        parts = plan(zero=zero, micro_batch=micro_batch).moments[0].parts
        of_head = 2 * SHAPE.head_gradient(1)  # the first that the backward pass makes
        return (parts["gradients"] - of_head) / N

    assert kept(zero=1, micro_batch=2) == 0, "one micro batch a step: there are none"
    assert kept(zero=1, micro_batch=1) == pytest.approx(2)
    assert kept(zero=2, micro_batch=1) == pytest.approx(2 / 4)
    assert kept(zero=3, micro_batch=1) == kept(zero=3, micro_batch=2) == pytest.approx(2 / 4)


def test_no_bucket_takes_more_than_the_trained_parameters_of_a_cpu():
    small = ModelShape.of("llama", MODEL | {"num_hidden_layers": 1, "vocab_size": 512})
    assert small.trained < BUCKET_ELEMENTS
    reduction = plan(small, zero=2).moments[2]
    assert reduction.parts["buckets"] == pytest.approx(2 * 2 * small.trained)
    on_gpu = plan(small, zero=2, on_gpu=True).moments[2]
    assert on_gpu.parts["buckets"] == pytest.approx(2 * (BUCKET_ELEMENTS + small.trained))


def test_the_peak_falls_with_the_stage_and_with_more_workers():
    large = ModelShape.of("llama", MODEL | {"hidden_size": 2048, "intermediate_size": 8192})
    peaks = [plan(large, zero=zero, workers=8).peak.total for zero in range(4)]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == 4
    for zero in (1, 2, 3):
        by_workers = [plan(large, zero=zero, workers=w).peak.total for w in (2, 4, 8)]
        assert by_workers == sorted(by_workers, reverse=True)


def test_a_teacher_lies_whole_on_each_worker_and_is_shared_out_at_stage_3():
    """Its logits stand beside those of its student; it has no gradient, no moment, no copy."""
    half = ModelShape.of("llama", MODEL | {"num_hidden_layers": 1})
    spec = PretrainSpec.model_validate(
        {"model": {"preset": "llama-tiny"}, "global_batch": 8, "duration": "2 steps"}
    )
    for zero, share in ((0, 1), (1, 1), (2, 1), (3, 4)):
        changed = spec.model_copy(update={"parallel": ParallelSpec(zero=zero)})
        setup = Setup.of(changed, 4, on_gpu=False, teacher=SHAPE, row_tokens=16)
        beside = plan_memory(half, setup, row_tokens=16)
        alone = plan_memory(half, Setup.of(changed, 4, on_gpu=False), row_tokens=16)
        moments = {moment.name: moment.parts for moment in beside.moments}
        assert {parts["teacher"] for parts in moments.values()} == {2 * N / share}
        own = {moment.name: moment.parts for moment in alone.moments}
        logits = moments["forward"]["teacher's logits"]
        assert logits == own["forward"]["logits"] == moments["teacher"]["teacher's logits"]
        added = {"teacher", "teacher's logits"} | ({"gathered weights"} if zero == 3 else set())
        assert {
            name for name, size in moments["forward"].items() if size != own["forward"].get(name)
        } == added
        assert moments["update"].keys() - own["update"].keys() == {"teacher"}


def test_the_chunk_of_the_loss_is_the_one_that_the_loss_takes():
    assert LOSS_CHUNK_ELEMENTS == loss._CHUNK_ELEMENTS_GPU


# ---- the truth -----------------------------------------------------------------------------------


def check(case):
    predicted, measured = case.plan().peak.total, case.measure()
    assert predicted == pytest.approx(measured, rel=0.15)


def test_the_predicted_peak_is_the_measured_one_within_15_percent():
    check(MemoryCase(zero=2, tokens=32))


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 3])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_every_stage_takes_what_the_plan_says(zero, precision):
    check(MemoryCase(zero=zero, precision=precision, tokens=32))


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_tensor_parallelism_takes_what_the_plan_says(zero):
    precision = "bf16" if zero else "fp32"  # the only one that stage 0 takes with it
    check(MemoryCase(zero=zero, tensor=2, workers=4, tokens=32, precision=precision))


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_activations_beside_earlier_gradients_take_what_the_plan_says(zero):
    case = MemoryCase(zero=zero, rows=2, tokens=256, accumulation=2)
    assert case.plan().peak.name == "forward"
    check(case)


@pytest.mark.slow
def test_recomputed_activations_take_what_the_plan_says():
    check(MemoryCase(zero=1, rows=2, tokens=512, recomputes=True))


@pytest.mark.slow
def test_copies_for_a_checkpoint_take_what_the_plan_says():
    check(MemoryCase(zero=1, tokens=32, saves=True))


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 3])
def test_a_teacher_takes_what_the_plan_says(zero):
    check(MemoryCase(zero=zero, tokens=32, has_teacher=True))
    # Where activations and both logits are the most.
    check(MemoryCase(zero=zero, rows=2, tokens=512, has_teacher=True))
