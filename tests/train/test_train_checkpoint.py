"""Checkpoints of every layout, loaded into every layout: 1 to 4 workers, ZeRO 0 to 3."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny_engines import Case, engine_of, join_tiny_group, save_now, train_steps

from raymodel.storage.uri import Location
from raymodel.testing.distributed import run_distributed
from raymodel.train.checkpoint.index import load_index, statistic_name
from raymodel.train.checkpoint.resume import load_checkpoint, rng_states
from raymodel.train.step import zero

WORLDS = (1, 2, 3, 4)
STEP, END = 3, 6  # saved after 3 steps, then trained for 3 more
PLAIN = [Case(z, precision) for precision, z in product(("fp32", "bf16"), range(4))]
SPECIAL = [
    *(Case(z, "fp16") for z in range(4)),
    *(Case(z, "fp16", loss_scale=2.0**60) for z in (0, 2)),  # every step so far was skipped
    *(Case(z, "bf16", micro_batch=6) for z in (0, 1, 3)),  # gradients are accumulated
    *(Case(z, "fp32", dropout=0.3) for z in (0, 2)),
    *(Case(z, "bf16", model="lora", dropout=0.1) for z in (1, 3)),
]
SPECIAL_WORLD = 2
# At each stage, and where DeepSpeed keeps the fp32 weights of a 16-bit model in another class.
ELEMENTWISE = [
    Case(stage, precision, optimizer=name)
    for name in ("adam", "sgd", "sgd without momentum", "lion")
    for stage, precision in (*((z, "fp32") for z in range(4)), (0, "bf16"), (1, "bf16"))
]
# Its layers are numbered, so that it has hidden matrices.
OF_MATRICES = [
    Case(0, precision, model="llama", optimizer=name)
    for name, precision in product(("adafactor", "muon"), ("fp32", "bf16"))
]

# Another layout adds the same numbers in another order. Before the first update after the load the
# weights are the same bit for bit, and only the fp32 sum of the loss differs: some 2^-24 = 6e-8.
# Then each update may differ by the rounding of the gradient, 6e-8 of it in fp32 and 2^-9 = 2e-3
# in bf16, and Adam moves a weight by up to the rate (1e-3) times that: in fp32 that stays below the
# loss's own rounding. In bf16 a weight may besides round to the other neighbour, 2^-9 away; over
# the thousands of weights of this model the signs of that cancel to some 1e-4 of the loss. Unbroken
# runs of different layouts differ as much from each other; wrong moments show as 8e-3 and more.
FIRST_TOLERANCE = 1e-6
TOLERANCE = {"fp32": 2e-6, "bf16": 2e-4}
CONTROL = 4e-3
# Of optimizers that take the direction of a moment only, or its sums over rows and columns.
DIRECTION_CONTROL = 1e-5


def place(folder: Path, world_size: int, case: Case) -> Location:
    return Location.parse(str(folder / f"{world_size}" / str(case)))


def save_cases(rank, world_size, folder, cases):
    """Saves each case in the middle; what the unbroken run did afterwards."""
    join_tiny_group()
    unbroken = {}
    for case in _stage_3_last(cases, key=lambda case: case):
        torch.manual_seed(rank)
        with engine_of(case) as engine:
            train_steps(engine, range(STEP))
            save_now(place(folder, world_size, case), engine, STEP)
            unbroken[case] = _go_on(engine)
    return unbroken


def load_cases(rank, world_size, folder, loads):
    """Loads (source workers, source case, case) into an engine of other weights, and goes on."""
    join_tiny_group()
    resumed = {}
    for source_world, source, case in _stage_3_last(loads, key=lambda load: load[2]):
        torch.manual_seed(1000 + rank)
        with engine_of(case, perturbed=True) as engine:
            _load(engine, place(folder, source_world, source))
            resumed[source_world, source, case] = _go_on(engine)
    return resumed


def _stage_3_last(items, key):
    """A ZeRO-3 engine replaces torch's linear function, which then rounds otherwise, for good."""
    return sorted(items, key=lambda item: key(item).zero)


def _load(engine, run):
    index = load_index(run / f"checkpoints/step-{STEP:08d}")
    state = load_checkpoint(run, index, engine, dist.get_rank(), dist.get_world_size())
    assert (state.step, state.tokens, state.data_digest) == (STEP, STEP * 100, f"{STEP:016x}")


def _go_on(engine):
    losses = train_steps(engine, range(STEP, END))
    weights = {
        (part.name, part.start): zero.state_tensors(engine.deepspeed, part)["weight"].clone()
        for part in zero.owned_slices(engine.deepspeed)
    }
    return {
        "losses": losses,
        "weights": weights,
        "counters": zero.counters(engine.deepspeed),
        "random": rng_states()["cpu"],
    }


def cases_of(world_size):
    return PLAIN + (SPECIAL + ELEMENTWISE + OF_MATRICES if world_size == SPECIAL_WORLD else [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def unbroken(folder):
    """(workers, case) → per rank, what the run did after its checkpoint."""
    done = {}
    for world_size in WORLDS:
        ranks = run_distributed(save_cases, world_size, folder, cases_of(world_size), init=False)
        done |= {(world_size, case): [rank[case] for rank in ranks] for case in ranks[0]}
    return done


def assert_same(resumed, expected):
    for mine, theirs in zip(resumed, expected, strict=True):
        assert mine["losses"] == theirs["losses"]
        assert mine["counters"] == theirs["counters"]
        assert torch.equal(mine["random"], theirs["random"])
        assert mine["weights"].keys() == theirs["weights"].keys()
        assert all(torch.equal(mine["weights"][k], theirs["weights"][k]) for k in mine["weights"])


@pytest.mark.parametrize("world_size", WORLDS)
def test_the_same_layout_goes_on_bit_for_bit(folder, unbroken, world_size):
    loads = [(world_size, case, case) for case in cases_of(world_size)]
    ranks = run_distributed(load_cases, world_size, folder, loads, init=False)
    for load in loads:
        assert_same([rank[load] for rank in ranks], unbroken[world_size, load[1]])


def differences(losses, expected):
    return [abs(mine - wanted) / wanted for mine, wanted in zip(losses, expected, strict=True)]


def other_layouts(world_size, every):
    """Loads from other layouts: each layout is a source and a target; all pairs with `every` 1."""
    return [
        (source_world, Case(source_zero, case.precision), case)
        for case in PLAIN
        for source_world, source_zero in product(WORLDS, range(4))
        if (source_world, source_zero) != (world_size, case.zero)
        and (3 * source_world + source_zero + world_size + 2 * case.zero) % every == 0
    ]


def other_stages():
    """Loads of the other optimizers, each from one stage into the next but one where it has any."""
    elementwise = [(case, replace(case, zero=(case.zero + 2) % 4)) for case in ELEMENTWISE]
    pairs = [*elementwise, *((case, case) for case in OF_MATRICES)]
    return [(SPECIAL_WORLD, source, case) for source, case in pairs]


def assert_close_to_unbroken(folder, unbroken, world_size, loads):
    ranks = run_distributed(load_cases, world_size, folder, loads, init=False)
    for load in loads:
        source_world, source, case = load
        expected = unbroken[source_world, source][0]
        mine = ranks[0][load]
        assert mine["counters"]["global_steps"] == END
        first, *later = differences(mine["losses"], expected["losses"])
        assert first <= FIRST_TOLERANCE, load
        assert max(later) <= TOLERANCE[case.precision], load


@pytest.mark.parametrize("world_size", [1, 4])
def test_another_layout_goes_on_within_rounding(folder, unbroken, world_size):
    assert_close_to_unbroken(folder, unbroken, world_size, other_layouts(world_size, every=11))


@pytest.mark.parametrize("world_size", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_every_optimizer_goes_on_at_another_layout_within_rounding(folder, unbroken, world_size):
    assert_close_to_unbroken(folder, unbroken, world_size, other_stages())


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLDS)
def test_every_other_layout_goes_on_within_rounding(folder, unbroken, world_size):
    assert_close_to_unbroken(folder, unbroken, world_size, other_layouts(world_size, every=1))


ADAPTER = Case(3, "bf16", model="lora", dropout=0.1)


def test_an_adapter_loads_at_another_layout(folder, unbroken):
    """Without its dropout, which draws by rank: only the first loss can be compared."""
    case = replace(ADAPTER, zero=1, dropout=0.0)
    loads = [(SPECIAL_WORLD, ADAPTER, case), (SPECIAL_WORLD, ADAPTER, replace(case, zero=3))]
    ranks = run_distributed(load_cases, 1, folder, loads, init=False)
    at_stage_1, at_stage_3 = (ranks[0][load]["losses"] for load in loads)
    assert differences(at_stage_1, at_stage_3)[0] <= FIRST_TOLERANCE


def load_without(rank, world_size, folder, cases, key):
    """Like `load_cases`, but one moment is lost on the way."""
    join_tiny_group()
    losses = {}
    for case in cases:
        with engine_of(case, perturbed=True) as engine:
            _load(engine, place(folder, world_size, case))
            for part in zero.held_slices(engine.deepspeed):
                views = zero.state_tensors(engine.deepspeed, part)
                if part.name.endswith(statistic_name("", key)):
                    views["weight"].zero_()
                elif key in views:
                    views[key].zero_()
            losses[case] = _go_on(engine)["losses"]
    return losses


ADAM, LION, SGD = (Case(1, optimizer=name) for name in ("adam", "lion", "sgd"))
ADAFACTOR, MUON = (Case(0, model="llama", optimizer=name) for name in ("adafactor", "muon"))


@pytest.mark.parametrize(
    ("key", "cases", "control"),
    [
        ("exp_avg", [Case(1, "fp32"), Case(2, "bf16"), ADAM], CONTROL),
        ("exp_avg_sq", [Case(1, "fp32"), Case(2, "bf16"), ADAM, MUON], CONTROL),
        ("momentum_buffer", [SGD], CONTROL),
        ("momentum_buffer", [MUON], DIRECTION_CONTROL),
        ("exp_avg", [LION], DIRECTION_CONTROL),
        ("row_var", [ADAFACTOR], DIRECTION_CONTROL),
        ("col_var", [ADAFACTOR], DIRECTION_CONTROL),
    ],
)
def test_a_lost_moment_would_show(folder, unbroken, key, cases, control):
    """The tolerances above have power."""
    lost = run_distributed(load_without, 2, folder, cases, key, init=False)[0]
    for case in cases:
        later = differences(lost[case], unbroken[2, case][0]["losses"])[1:]
        assert min(later) > control, case


def go_back(rank, world_size, folder, cases):
    """Loads the checkpoint into the engine that wrote it, some steps later, as a rewind does."""
    join_tiny_group()
    went_back = {}
    for case in _stage_3_last(cases, key=lambda case: case):
        with engine_of(case) as engine:
            train_steps(engine, range(END + 2))
            _load(engine, place(folder, world_size, case))
            went_back[case] = _go_on(engine)
    return went_back


def test_an_engine_goes_back_to_its_own_checkpoint_bit_for_bit(folder, unbroken):
    cases = [*PLAIN, *(Case(z, "fp16", loss_scale=2.0**60) for z in (0, 2))]
    ranks = run_distributed(go_back, SPECIAL_WORLD, folder, cases, init=False)
    for case in cases:
        assert_same([rank[case] for rank in ranks], unbroken[SPECIAL_WORLD, case])


def save_a_million(rank, world_size, run):
    """The number of trained parameters of a model whose checkpoint was written."""
    join_tiny_group()
    with engine_of(Case(1, model="million")) as engine:
        train_steps(engine, range(1))
        save_now(run, engine, 1)
        return sum(p.numel() for p in engine.deepspeed.module.parameters())


def test_a_checkpoint_takes_twelve_bytes_for_a_trained_parameter(tmp_path):
    run = Location.parse(str(tmp_path))
    parameters = run_distributed(save_a_million, 2, run, init=False)[0]
    assert parameters >= 10**6
    written = sum(entry.bytes for entry in (run / "checkpoints").walk())
    assert 12 * parameters <= written <= 12 * parameters * 1.01
