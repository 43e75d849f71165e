"""Batch norm over a whole step: torch's on one worker, and the same however the rows are cut."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from tiny_engines import join_tiny_group
from tiny_images import (
    ROWS,
    Images,
    buffers_of,
    build_net,
    build_resnet,
    image_engine,
    image_spec,
    loss_of,
    own_rows,
    rows_of,
    train_images,
)
from torch import nn

from raymodel.errors import SpecError
from raymodel.testing.distributed import run_distributed
from raymodel.train import loop
from raymodel.train.plan import plan_batch
from raymodel.train.step.batch_norm import StepBatchNorm, StepNorms
from raymodel.train.step.norms import replace_batch_norms

# One worker or several add the same fp32 numbers in another order: 2^-24 = 6e-8 of the largest sum,
# and as much again in each of some ten operations after it. Rows that do not see each other are off
# by a tenth and more.
TOLERANCE = {"rtol": 1e-5, "atol": 2e-6}
CONTROL = 1e-2
# Each of a few updates carries that on, and a norm over seven rows enlarges it.
CURVE_TOLERANCE = 2e-5
# The gradient of each worker is rounded, to 2^-9 of it in bf16, and a weight may round to the other
# neighbour.
IN_16_BITS_TOLERANCE = 2**-8


# ---- one process: torch's layer ------------------------------------------------------------------

LAYERS = {
    "rows": (nn.BatchNorm1d(3), (5, 3)),
    "sequences": (nn.BatchNorm1d(3, eps=1e-3), (5, 3, 7)),
    "images": (nn.BatchNorm2d(3, momentum=0.4), (5, 3, 7, 6)),
    "volumes": (nn.BatchNorm3d(3), (2, 3, 4, 5, 6)),
    "mean of all steps": (nn.BatchNorm2d(3, momentum=None), (5, 3, 7, 6)),
    "no weights": (nn.BatchNorm2d(3, affine=False), (5, 3, 7, 6)),
    "far from zero": (nn.BatchNorm2d(3), (5, 3, 7, 6)),
}


def layer_of(case):
    layer, shape = LAYERS[case]
    layer = copy.deepcopy(layer)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += torch.randn(parameter.shape, generator=draw)
    shift = 1000.0 if case == "far from zero" else 1.0
    inputs = [shift + (1 + n) * torch.randn(shape, generator=draw) for n in range(3)]
    return layer, inputs, torch.randn(shape, generator=draw)


@pytest.mark.parametrize("case", LAYERS)
def test_on_one_worker_it_is_batch_norm(case):
    theirs, inputs, weights = layer_of(case)
    ours = StepBatchNorm(copy.deepcopy(theirs), is_frozen=False)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    # What fp32 keeps of a value of 1000 is 6e-5, and torch's own layer is as far off as that.
    close = {"rtol": 1e-3, "atol": 1e-3} if case == "far from zero" else TOLERANCE
    for x in inputs:
        results = []
        for layer in (ours, theirs):
            own = x.clone().requires_grad_()
            y = layer(own)
            (y * weights).sum().backward()
            results.append((y, own.grad, *(p.grad for p in layer.parameters())))
        ours.settle(is_applied=True)
        torch.testing.assert_close(*results, **close)
        torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()))
    torch.testing.assert_close(ours.eval()(inputs[0]), theirs.eval()(inputs[0]))


def test_its_gradient_is_that_of_finite_differences():
    layer = StepBatchNorm(nn.BatchNorm1d(3), is_frozen=False)
    draw = torch.Generator().manual_seed(2)

    def normalise(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    inputs = [
        torch.randn(shape, dtype=torch.float64, generator=draw, requires_grad=True)
        for shape in ((4, 3, 2), (3,), (3,))
    ]
    assert torch.autograd.gradcheck(normalise, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_in_16_bits_it_computes_in_fp32_and_its_statistics_stay_so(dtype, is_frozen):
    plain, (x, *_), weights = layer_of("images")
    if is_frozen:
        plain.eval()
    half = StepBatchNorm(copy.deepcopy(plain).to(dtype), is_frozen=is_frozen)
    half.train()
    expected = copy.deepcopy(plain)
    with torch.no_grad():
        for mine, theirs in zip(half.parameters(), expected.parameters(), strict=True):
            theirs.copy_(mine)
    own, other = (x.to(dtype).to(kind).requires_grad_() for kind in (dtype, torch.float32))
    y, wanted = half(own), expected(other)
    (y.float() * weights).sum().backward()
    (wanted * weights).sum().backward()
    half.settle(is_applied=True)
    assert y.dtype == own.grad.dtype == half.weight.grad.dtype == dtype
    assert half.running_mean.dtype == half.running_var.dtype == torch.float32
    torch.testing.assert_close(y, wanted.to(dtype))  # rounded once
    torch.testing.assert_close(half.running_mean, expected.running_mean)
    torch.testing.assert_close(half.running_var, expected.running_var)


def test_frozen_it_uses_the_running_statistics_and_keeps_them():
    plain, inputs, weights = layer_of("images")
    plain(inputs[1])
    frozen = StepBatchNorm(copy.deepcopy(plain), is_frozen=True).train()
    plain.eval()
    for layer in (frozen, plain):
        layer.zero_grad()
        (layer(inputs[0]) * weights).sum().backward()
    frozen.settle(is_applied=True)
    torch.testing.assert_close(frozen(inputs[0]), plain(inputs[0]))
    for mine, theirs in zip(frozen.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
        assert mine.grad.abs().min() > 0
    for mine, theirs in zip(frozen.buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_step_that_is_left_out_leaves_the_running_statistics():
    plain, inputs, _ = layer_of("images")
    layer = StepBatchNorm(plain, is_frozen=False)
    before = [buffer.clone() for buffer in layer.buffers()]
    layer(inputs[0] * float("nan"))
    layer.settle(is_applied=False)
    assert all(torch.equal(*pair) for pair in zip(before, layer.buffers(), strict=True))
    layer(inputs[0])
    layer.settle(is_applied=True)
    assert not any(torch.equal(*pair) for pair in zip(before, layer.buffers(), strict=True))
    assert layer.running_mean.isfinite().all()


def test_a_step_without_any_row_changes_nothing_and_stays_finite():
    plain, inputs, _ = layer_of("images")
    layer = StepBatchNorm(plain, is_frozen=False)
    before = [buffer.clone() for buffer in layer.buffers()]
    layer.is_blank = True
    assert layer(inputs[0]).isfinite().all()
    layer.settle(is_applied=True)
    assert all(torch.equal(*pair) for pair in zip(before, layer.buffers(), strict=True))


# ---- several workers: the layer alone ------------------------------------------------------------


def pass_of(rank, world_size, is_replaced=True, counts_blank=False):
    """Two forward and backward passes over this worker's rows; the gradients over all workers."""
    net = build_net()
    if is_replaced:
        replace_batch_norms(net, image_spec(), plan_batch(ROWS, None, world_size))
    norms, results = StepNorms(net), {}
    for step in range(2):
        own, is_blank = own_rows(step, rank, world_size)
        own["pixel_values"].requires_grad_()
        norms.begin(is_blank=is_blank and not counts_blank)
        logits = net(own["pixel_values"]).logits
        loss_of(logits, own["labels"]).backward()
        norms.end(is_applied=True)
        shown = slice(0, 0) if is_blank else slice(None)
        results[f"logits {step}"] = logits.detach()[shown]
        results[f"pixels {step}"] = own["pixel_values"].grad[shown]
    for name, parameter in net.named_parameters():
        if dist.is_initialized():
            dist.all_reduce(parameter.grad)
        results[name] = parameter.grad
    return results, {name: buffer.clone() for name, buffer in net.named_buffers()}


def pass_on_workers(world_size, **options):
    """(per row or summed, buffers of each rank)"""
    ranks = run_distributed(pass_with, world_size, options)
    return joined([results for results, _ in ranks]), [buffers for _, buffers in ranks]


def pass_with(rank, world_size, options):
    return pass_of(rank, world_size, **options)


def joined(ranks):
    is_by_row = ("logits", "pixels")
    return {
        name: torch.cat([r[name] for r in ranks]) if name.startswith(is_by_row) else value
        for name, value in ranks[0].items()
    }


@pytest.fixture(scope="module")
def torchs():
    """torch's own layers, over all rows in one process."""
    return pass_of(0, 1, is_replaced=False)


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_with_uneven_rows_and_with_none_do_what_torch_does_with_all(torchs, world_size):
    results, buffers = pass_on_workers(world_size)
    torch.testing.assert_close(results, torchs[0], **TOLERANCE)
    for each in buffers:
        torch.testing.assert_close(each, torchs[1], **TOLERANCE)
        assert all(torch.equal(each[name], buffers[0][name]) for name in each)


def largest_difference(results, expected):
    return max(float((results[name] - expected[name]).abs().max()) for name in expected)


@pytest.mark.parametrize(
    ("world_size", "options"), [(2, {"is_replaced": False}), (3, {"counts_blank": True})]
)
def test_rows_that_do_not_see_each_other_or_do_not_count_would_show(torchs, world_size, options):
    results, _ = pass_on_workers(world_size, **options)
    assert largest_difference(results, torchs[0]) > CONTROL


# ---- the engine ----------------------------------------------------------------------------------

STEPS = 4


def train_cases(rank, world_size, cases):
    """Case → losses, buffers, and the loss in evaluation."""
    join_tiny_group()
    done = {}
    for name, zero, precision in cases:
        module = build_resnet() if name == "resnet" else None
        with image_engine(image_spec(zero, precision), module) as engine:
            losses = train_images(engine, range(STEPS))
            held_out = engine.forward(rows_of(99))
            done[name, zero, precision] = losses, buffers_of(engine), float(held_out)
    return done


FP32 = [("net", zero, "fp32") for zero in range(4)]
RESNET = [("resnet", 1, "fp32"), ("resnet", 3, "fp32")]
IN_16_BITS = [("net", 0, "bf16"), ("net", 2, "bf16"), ("net", 3, "bf16"), ("net", 1, "fp16")]


@pytest.fixture(scope="module")
def alone():
    return run_distributed(train_cases, 1, [*FP32, *RESNET, *IN_16_BITS], init=False)[0]


def test_the_engine_trains_torchs_batch_norm(alone):
    net = build_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(STEPS):
        loss = Images().loss(net, rows_of(step)) / ROWS
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    mine, buffers, held_out = alone["net", 0, "fp32"]
    assert mine == pytest.approx(losses, rel=CURVE_TOLERANCE)
    assert abs(losses[-1] - losses[0]) > 0.01
    torch.testing.assert_close(buffers, dict(net.named_buffers()), rtol=1e-4, atol=1e-5)
    loss = Images().loss(net.eval(), rows_of(99))
    assert held_out == pytest.approx(loss.item(), rel=CURVE_TOLERANCE)


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_stage_at_every_number_of_workers_gives_one_curve(alone, world_size):
    ranks = run_distributed(train_cases, world_size, [*FP32, *RESNET, *IN_16_BITS], init=False)
    for case in [*FP32, *RESNET]:
        losses, buffers, held_out = alone[case[0], 1, "fp32"]
        for rank in ranks:
            mine = rank[case]
            assert mine[0] == pytest.approx(losses, rel=CURVE_TOLERANCE), case
            assert mine[2] == pytest.approx(held_out, rel=CURVE_TOLERANCE), case
            torch.testing.assert_close(mine[1], buffers, rtol=1e-4, atol=1e-5)
            assert all(torch.equal(mine[1][n], ranks[0][case][1][n]) for n in buffers), case
    for case in IN_16_BITS:
        losses, buffers, _ = ranks[0][case]
        assert losses == pytest.approx(alone[case][0], rel=IN_16_BITS_TOLERANCE), case
        assert {b.dtype for b in buffers.values()} == {torch.float32, torch.int64}, case


def leave_a_step_out(rank, world_size):
    join_tiny_group()
    with image_engine(image_spec(1)) as engine:
        train_images(engine, range(1))
        before = buffers_of(engine)
        train_images(engine, range(1, 2), leave_out=True)
        after = buffers_of(engine)
        train_images(engine, range(2, 3))
        return before, after, buffers_of(engine)


def test_a_step_whose_update_is_left_out_leaves_the_statistics_of_the_engine():
    for before, after, later in run_distributed(leave_a_step_out, 2, init=False):
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not any(torch.equal(before[name], later[name]) for name in before)


class Told:
    """An engine that only remembers what it is told."""

    device = torch.device("cpu")

    def __init__(self):
        self.is_blank = []

    def forward_backward(self, micro_batch, targets, *, is_blank=False):
        self.is_blank.append(is_blank)
        return torch.zeros(())

    def update(self, learning_rate, leave_out=False):
        pass


@pytest.mark.parametrize(("rows", "is_blank"), [(0, True), (3, False)])
def test_the_loop_tells_the_engine_of_a_worker_without_rows(rows, is_blank):
    training = SimpleNamespace(
        spec=image_spec(),
        plan=SimpleNamespace(total_steps=10),
        state=SimpleNamespace(step=0),
        engine=Told(),
        clock=SimpleNamespace(during=lambda activity: nullcontext()),
        saver=SimpleNamespace(wait_for_copy=lambda: None),
    )
    agreed = SimpleNamespace(targets=torch.tensor(7.0), mean=float)
    batch = SimpleNamespace(micro_batches=[{}, {}], rows=rows)
    loop._forward_backward_update(training, batch, agreed)
    assert training.engine.is_blank == [is_blank, is_blank]


# ---- what is refused -----------------------------------------------------------------------------


class Strange(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"micro_batch": 2}, r"norm is the first.* micro_batch is 2, .* 2 passes.* use 4 workers"),
        ({"activation_checkpointing": True}, r"activation_checkpointing is true.* frozen"),
        ({"parallel": {"tensor": 2}}, r"parallel.tensor is 2, .* leave it out, or .* frozen"),
        ({"parallel": {"sequence": 2}}, r"parallel.sequence is 2, .*frozen"),
    ],
)
def test_what_does_not_go_with_statistics_of_a_step_is_refused(fields, message):
    spec = image_spec(**fields)
    batch = plan_batch(ROWS, spec.micro_batch, 2)
    with pytest.raises(SpecError, match=message):
        replace_batch_norms(build_net(), spec, batch)
    frozen, net = spec.model_copy(update={"batch_norm": "frozen"}), build_net()
    replace_batch_norms(net, frozen, batch)
    assert net.norm.is_frozen
    other = nn.Sequential(nn.Linear(2, 2), nn.InstanceNorm1d(2))  # looks at one row only
    replace_batch_norms(other, spec, batch)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm2d(3, track_running_stats=False), "0.norm is a BatchNorm2d without running"),
        (nn.InstanceNorm2d(3, track_running_stats=True), "0.norm is a InstanceNorm2d, whose"),
        (Strange(3), "0.norm is a Strange, whose .* only BatchNorm1d, .* whole step"),
    ],
)
@pytest.mark.parametrize("batch_norm", ["synchronised", "frozen"])
def test_a_norm_whose_statistics_would_be_of_one_worker_is_refused(layer, message, batch_norm):
    net = nn.Sequential(nn.Module())
    net[0].norm = layer
    with pytest.raises(SpecError, match=message):
        replace_batch_norms(net, image_spec(batch_norm=batch_norm), plan_batch(ROWS, None, 2))


def test_names_ties_and_modes_stay():
    net = build_net()
    net.again = net.norm
    net.pooled.eval()
    net.head = nn.InstanceNorm2d(3)  # keeps no statistics
    before = {name: id(p) for name, p in net.named_parameters()}
    names = list(net.state_dict())
    replace_batch_norms(net, image_spec(), plan_batch(ROWS, None, 2))
    assert list(net.state_dict()) == names
    assert {name: id(p) for name, p in net.named_parameters()} == before
    assert net.again is net.norm
    assert (net.norm.training, net.pooled.training) == (True, False)
    assert sum(isinstance(m, StepBatchNorm) for m in net.modules()) == 3
