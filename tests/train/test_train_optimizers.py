"""Every optimizer that a job can name: its numbers, its curve, what it refuses."""

import itertools
import re
from dataclasses import replace

import pytest
import torch
from tiny_engines import (
    OPTIMIZERS,
    Case,
    build_module,
    engine_of,
    join_tiny_group,
    rows_of,
    train_steps,
)
from tiny_runs import STEPS as RUN_STEPS
from tiny_runs import (
    STOP,
    fragments,
    held_out_loss,
    losses,
    make_dataset,
    make_work,
    train_all,
    train_until,
    validation,
)
from torch.nn.utils import clip_grad_norm_

from raymodel.model.groups import parameter_groups
from raymodel.tasks import get_task
from raymodel.testing.distributed import run_distributed
from raymodel.train.spec import PretrainSpec
from raymodel.train.update.lion import CHUNK, Lion
from raymodel.train.update.optimizer_spec import DEFAULTS, WHOLE_MATRICES, OptimizerSpec
from raymodel.train.update.optimizers import find_maker

STEPS = 5
ELEMENTWISE = [name for name in OPTIMIZERS if name not in WHOLE_MATRICES]
CASES = [
    # Stage 3 comes last: it changes torch's linear.
    *(Case(0, model="llama", optimizer=name) for name in WHOLE_MATRICES),
    *(Case(z, optimizer=name) for z, name in itertools.product(range(4), ELEMENTWISE)),
]
# As in test_train_checkpoint.py: another order of the same sums, some 2^-24 = 6e-8 of the loss.
TOLERANCE = 2e-6


class PaperLion(torch.optim.Optimizer):
    """Algorithm 2 of arXiv:2302.06675, line by line. torch has none."""

    def __init__(self, params, **numbers):
        super().__init__(params, numbers)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                c = first * m + (1 - first) * p.grad
                p -= group["lr"] * (torch.sign(c) + group["weight_decay"] * p)
                m.copy_(second * m + (1 - second) * p.grad)


PLAIN = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95)),
    "adam": lambda groups: torch.optim.Adam(groups, lr=1e-3, betas=(0.9, 0.95)),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.03, momentum=0.9, nesterov=True),
    "sgd without momentum": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "lion": lambda groups: PaperLion(groups, lr=1e-3, betas=(0.9, 0.99)),
    "adafactor": lambda groups: torch.optim.Adafactor(groups, lr=1e-2),
    "muon": lambda groups: torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95)),
}


def plain_losses(case):
    """One process, torch's loop, and no DeepSpeed."""
    module, task = build_module(case), get_task("causal_lm")()
    groups = parameter_groups(module, case.spec().optimizer.numbers["weight_decay"])
    optimizers, found = [], []
    if case.optimizer == "muon":
        layers = [p for name, p in module.named_parameters() if "proj" in name]
        hidden = {id(p) for p in layers}
        muon = {"lr": 1e-3, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
        optimizers.append(torch.optim.Muon(layers, **muon))
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in hidden]
    optimizers.append(PLAIN[case.optimizer](groups))
    for step in range(STEPS):
        rows, targets = rows_of(step)
        loss = task.loss(module, rows) / targets
        loss.backward()
        clip_grad_norm_([p for p in module.parameters() if p.requires_grad], 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        found.append(float(loss))
    return found


def curves(rank, world_size):
    """Of each case: the losses of torch's loop, and those of an engine."""
    join_tiny_group()
    plain = {case: plain_losses(replace(case, zero=0)) for case in CASES}
    found = {}
    for case in CASES:
        with engine_of(case) as engine:
            found[case] = train_steps(engine, range(STEPS))
    return plain, found


def test_every_optimizer_has_the_curve_of_torchs_own_in_one_process():
    plain, found = run_distributed(curves, 2, init=False)[0]
    for case, curve in found.items():
        assert curve == pytest.approx(plain[case], rel=TOLERANCE), case
        assert curve[-1] < curve[0] * 0.995, f"{case} does not learn"
    assert len({tuple(curve) for curve in plain.values()}) == len(OPTIMIZERS)


def test_muon_takes_the_matrices_of_the_layers_and_shares_groups_and_state():
    model = build_module(Case(0, model="llama"))
    groups = parameter_groups(model, 0.1, apart=True)
    names = {id(p): name for name, p in model.named_parameters()}
    hidden = {names[id(p)].split(".")[-2] for p in groups[0]["params"]}
    assert hidden == {f"{m}_proj" for m in ("q", "k", "v", "o", "gate", "up", "down")}
    together = [id(p) for group in groups for p in group["params"]]
    assert sorted(together) == sorted(names)
    optimizer = find_maker(OptimizerSpec(name="muon"))(groups)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert len(optimizer.state) == len(before)
    keys = {names[id(p)]: set(state) for p, state in optimizer.state.items()}
    assert keys["model.layers.0.mlp.up_proj.weight"] == {"momentum_buffer"}
    assert keys["model.embed_tokens.weight"] == {"step", "exp_avg", "exp_avg_sq"}


def test_a_chunk_of_lion_is_as_the_whole():
    draw = torch.Generator().manual_seed(0)
    weights = torch.randn(CHUNK + 7, generator=draw)
    mine, theirs = (torch.nn.Parameter(weights.clone()) for _ in range(2))
    numbers = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.5}
    optimizers = Lion([mine], **numbers), PaperLion([theirs], **numbers)
    for _ in range(3):
        mine.grad = torch.randn(weights.shape, generator=draw)
        theirs.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-6)


# ---- whole runs ----------------------------------------------------------------------------------

RUNS = {
    "adafactor": {"parallel": {"zero": 0}, "schedule": {"name": "inverse_sqrt"}},
    "muon": {"parallel": {"zero": 0}, "schedule": {"name": "wsd", "warmup": "2 steps"}},
    "lion": {"parallel": {"zero": 2}, "schedule": {"name": "wsd", "decay": "25%"}},
    "sgd": {"parallel": {"zero": 3}, "schedule": {"name": "linear", "warmup": "25%"}},
}


@pytest.mark.parametrize(
    "names",
    [("muon", "lion"), pytest.param(("adafactor", "sgd"), marks=pytest.mark.slow)],
    ids=" ".join,
)
def test_a_run_that_was_broken_off_is_bit_for_bit_the_unbroken_one(tmp_path, names):
    dataset = make_dataset(tmp_path / "data")

    def works(folder):
        made = {
            name: make_work(dataset, tmp_path / folder / name, optimizer={"name": name}, **spec)
            for name, spec in RUNS.items()
            if name in names
        }
        return {name: replace(work, export=True) for name, work in made.items()}

    whole, broken = works("whole"), works("broken")
    run_distributed(train_all, 2, list(whole.values()), init=False)
    run_distributed(train_until, 2, list(broken.values()), STOP, init=False)
    run_distributed(train_all, 2, list(broken.values()), init=False)
    for name, work in whole.items():
        assert losses(broken[name]) == losses(work), name
        assert fragments(broken[name], RUN_STEPS) == fragments(work, RUN_STEPS), name
        assert held_out_loss(work) == pytest.approx(validation(work)[-1], rel=1e-5), name


# ---- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_field_that_is_left_out_has_a_default_within_its_bounds(name):
    spec = OptimizerSpec(name=name)
    assert spec.numbers == DEFAULTS[name]
    given = OptimizerSpec(name=name, **DEFAULTS[name])
    assert given.identity() == spec.identity(), "a default that is written changes no name"
    assert OptimizerSpec(**spec.to_dict()) == spec
    assert set(spec.identity()) == {"name", "gradient_clip", *DEFAULTS[name]}


def test_the_identity_of_adamw_is_that_of_before_there_were_others():
    assert OptimizerSpec().identity() == {
        "name": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "betas": [0.9, 0.95],
        "eps": 1e-8,
        "gradient_clip": 1.0,
    }


def test_the_state_of_each_weight():
    counts = {name: OptimizerSpec(**section).moments for name, section in OPTIMIZERS.items()}
    assert counts == {"adamw": 2, "adam": 2, "sgd": 1, "sgd without momentum": 0, "lion": 1} | {
        "adafactor": 0,
        "muon": 1,
    }


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "sgd", "betas": [0.9, 0.9]}, "sgd does not take betas; leave out"),
        ({"name": "sgd", "betas": [0.9, 0.9], "eps": 1e-8}, "sgd does not take betas and eps"),
        ({"name": "lion", "eps": 1e-8}, "it takes learning_rate, weight_decay, betas, gradient_cl"),
        ({"momentum": 0.9}, "adamw does not take momentum"),
        ({"name": "adam", "nesterov": False}, "adam does not take nesterov"),
        ({"name": "sgd", "momentum": 0.0, "nesterov": True}, "nesterov is true and momentum is 0"),
    ],
)
def test_a_field_that_an_optimizer_does_not_take_is_refused_by_name(section, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        OptimizerSpec(**section)


@pytest.mark.parametrize(
    ("parallel", "message"),
    [
        ({}, "and parallel.zero is 1: ZeRO cuts matrices up; use parallel.zero: 0, or lion"),
        ({"zero": 3}, "and parallel.zero is 3: ZeRO cuts"),
        ({"zero": 0, "tensor": 2}, "parallel.tensor is 2: tensor parallelism cuts matrices up"),
        ({"zero": 1, "tensor": 2}, "use parallel.zero: 0 and tensor: 1, or lion"),
    ],
)
def test_what_needs_whole_matrices_is_refused_where_they_are_cut(parallel, message):
    fields = {"model": {"preset": "llama-tiny"}, "global_batch": 8, "duration": "1 step"}
    for name in WHOLE_MATRICES:
        section = {"optimizer": {"name": name}}
        PretrainSpec.model_validate(fields | section | {"parallel": {"zero": 0}})
        with pytest.raises(ValueError, match=re.escape(message)):
            PretrainSpec.model_validate(fields | section | {"parallel": parallel})


def test_offload_is_for_adamw():
    fields = {"model": {"preset": "llama-tiny"}, "global_batch": 8, "duration": "1 step"}
    for name in DEFAULTS:
        section = {"optimizer": {"name": name}, "parallel": {"zero": 1, "offload": "cpu"}}
        if name == "adamw":
            PretrainSpec.model_validate(fields | section)
        else:
            with pytest.raises(ValueError, match=rf"optimizer.name is {name}.*; use "):
                PretrainSpec.model_validate(fields | section)
