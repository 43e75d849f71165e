"""Workers that share matrices (tensor) or rows (sequence) train as if they did not."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tiny_engines import Case, engine_of, join_tiny_group, save_now, train_steps
from tiny_runs import (
    MODEL,
    STEPS,
    digests,
    held_out_loss,
    largest_difference,
    losses,
    make_dataset,
    make_work,
    records,
    train_all,
    train_until,
    validation,
)
from transformers import AutoModelForCausalLM

from raymodel.storage.artifact import Artifact
from raymodel.storage.uri import Location
from raymodel.testing.distributed import RankError, run_distributed
from raymodel.train.checkpoint.index import load_index
from raymodel.train.checkpoint.resume import load_checkpoint
from raymodel.train.checkpoint.state import find_checkpoint
from raymodel.train.forecast.support import SEQUENCE, TENSOR
from raymodel.train.step import zero
from raymodel.train.step.engine import Engine
from raymodel.train.work import TrainWork

# As in test_train_loop.py: a layout changes the order in which the same numbers are added, some
# 2^-24 = 6e-8 of the loss in fp32. Tensor parallelism adds up each product of a shared matrix in
# parts, which in bf16 rounds each activation once more, 2^-9 = 2e-3 of it; over the activations of
# the layers and the rows of a batch the signs cancel to less than 1e-3 of the loss.
TOLERANCE = {"fp32": 2e-6, "bf16": 1e-3}


class Spread(NamedTuple):
    """A layout of a worker group."""

    workers: int
    zero: int
    tensor: int = 1
    sequence: int = 1

    @property
    def name(self) -> str:
        return "-".join(str(number) for number in self)

    def work(self, dataset: Artifact, folder: Path, **spec: Any) -> TrainWork:
        parallel = {"zero": self.zero, "tensor": self.tensor, "sequence": self.sequence}
        return make_work(dataset, folder / self.name, parallel=parallel, **spec)


PLAIN = Spread(workers=1, zero=1)
SOME = [
    Spread(4, zero=3, tensor=2),
    Spread(4, zero=2, sequence=2),
    Spread(4, zero=1, tensor=2, sequence=2),
]
SHAPES = [(2, 1), (1, 2), (2, 2), (1, 4)]
EVERY = [Spread(4, zero, *shape) for zero, shape in product(range(4), SHAPES)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def train(works: dict[Spread, TrainWork]) -> None:
    """Whole runs; those of one tensor size in the same processes, as DeepSpeed's groups are."""
    for workers, tensor in {(spread.workers, spread.tensor) for spread in works}:
        alike = [w for s, w in works.items() if (s.workers, s.tensor) == (workers, tensor)]
        run_distributed(train_all, workers, alike, init=False)


def norms(work: TrainWork) -> list[float]:
    return [record["grad_norm"] for record in records(work, "metrics") if "loss" in record]


def assert_same_run(work: TrainWork, plain: TrainWork, tolerance: float) -> None:
    assert digests(work) == digests(plain), "other rows"
    assert largest_difference(losses(work), losses(plain)) <= tolerance
    assert largest_difference(validation(work), validation(plain)) <= tolerance
    if work.spec.parallel.zero or work.spec.precision != "fp32":
        # DeepSpeed keeps no norm at stage 0 in fp32. It clips by it, so a wrong one is a wrong run
        # even where Adam hides the scale of a gradient.
        assert largest_difference(norms(work), norms(plain)) <= 100 * tolerance
    last = [record for record in records(work, "metrics") if "loss" in record][-1]
    expected = [record for record in records(plain, "metrics") if "loss" in record][-1]
    for counted in ("rows", "targets", "tokens"):
        assert last[counted] == expected[counted], counted


# ---- one curve -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(dataset: Artifact, folder: Path) -> TrainWork:
    """One worker that has everything."""
    work = replace(PLAIN.work(dataset, folder), export=True)
    train({PLAIN: work})
    return work


@pytest.fixture(scope="module")
def some(dataset: Artifact, folder: Path) -> dict[Spread, TrainWork]:
    works = {s: replace(s.work(dataset, folder), export=True) for s in SOME}
    train(works)
    return works


@pytest.mark.parametrize("spread", SOME, ids=lambda spread: spread.name)
def test_shared_matrices_and_rows_give_the_curve_of_plain_data_parallelism(
    some: dict[Spread, TrainWork], plain: TrainWork, spread: Spread
) -> None:
    assert losses(plain)[-1] < losses(plain)[0] - 0.1, "it learns"
    assert_same_run(some[spread], plain, TOLERANCE["fp32"])


@pytest.mark.parametrize("spread", SOME, ids=lambda spread: spread.name)
def test_the_model_of_every_layout_has_the_same_logits_in_transformers(
    some: dict[Spread, TrainWork], plain: TrainWork, spread: Spread
) -> None:
    work, ids = some[spread], torch.arange(300).view(-1, 15)
    mine, theirs = (
        AutoModelForCausalLM.from_pretrained(w.run.local_path / "model")(ids).logits
        for w in (work, plain)
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    measured = validation(work)[-1]
    assert abs(held_out_loss(work) - measured) / measured <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_layout_gives_the_curve(dataset: Artifact, tmp_path: Path, precision: str) -> None:
    every = [s for s in EVERY if precision == "fp32" or s.zero > 0 or s.tensor == 1]
    works = {s: s.work(dataset, tmp_path, precision=precision) for s in [PLAIN, *every]}
    train(works)
    for spread in every:
        assert_same_run(works[spread], works[PLAIN], TOLERANCE[precision])


def test_uneven_micro_batches_of_shared_rows_give_the_curve(
    dataset: Artifact, tmp_path: Path, plain: TrainWork
) -> None:
    """Eight rows in pieces of three, three and two; DeepSpeed's attention fixes their number."""
    spread = Spread(2, zero=1, sequence=2)
    work = spread.work(dataset, tmp_path, micro_batch=3)
    train({spread: work})
    assert_same_run(work, plain, TOLERANCE["fp32"])


# ---- the traps -----------------------------------------------------------------------------------


def test_a_tied_output_head_and_odd_sizes_are_trained_whole(
    dataset: Artifact, tmp_path: Path
) -> None:
    """AutoTP would give the loss the logits of a part of the vocabulary."""
    odd = {"intermediate_size": 67, "vocab_size": 301, "tie_word_embeddings": True}
    model = MODEL | {"config": MODEL["config"] | odd}
    spreads = (PLAIN, Spread(2, 1, tensor=2), Spread(2, 1, sequence=2))
    works = {
        spread: replace(
            spread.work(dataset, tmp_path, model=model, duration="4 steps"), export=True
        )
        for spread in spreads
    }
    train(works)
    for work in works.values():
        assert_same_run(work, works[PLAIN], TOLERANCE["fp32"])
        measured = validation(work)[-1]
        assert abs(held_out_loss(work) - measured) / measured <= 1e-5


def test_dropout_is_the_same_for_workers_that_share_a_matrix(
    dataset: Artifact, tmp_path: Path
) -> None:
    """Else they would add up parts of different activations, and replicated weights drift apart."""
    dropout = MODEL | {"config": MODEL["config"] | {"attention_dropout": 0.2}}
    spread = Spread(2, 1, tensor=2)
    work = spread.work(dataset, tmp_path, model=dropout, duration="2 steps")
    train({spread: work})
    states = run_distributed(random_states, 2, [work], init=False)
    assert states[0] == states[1]


def random_states(rank: int, world_size: int, works: list[TrainWork]) -> list[int]:
    """What a rank would draw after the end of its run."""
    train_all(rank, world_size, works)
    return torch.get_rng_state().tolist()


# ---- checkpoints ---------------------------------------------------------------------------------

CHAIN = [Spread(4, zero=2, tensor=2), Spread(2, zero=3, sequence=2), Spread(4, 1, 2, 2)]


def test_a_run_goes_from_layout_to_layout(
    dataset: Artifact, tmp_path: Path, plain: TrainWork
) -> None:
    """Interrupted twice, each time resumed by other workers that hold other parts of everything."""
    works = [replace(s.work(dataset, tmp_path), run=plain.run.parent / "chain") for s in CHAIN]
    for spread, work, stop in zip(CHAIN, works, (6, 10, None), strict=True):
        arguments = [train_all, spread.workers, [work]]
        if stop:
            arguments = [train_until, spread.workers, [work], stop]
        run_distributed(*arguments, init=False)
    steps = [record["step"] for record in records(works[-1], "metrics") if "loss" in record]
    assert steps == list(range(1, STEPS + 1)), "no step is missing or twice"
    assert digests(works[-1]) == digests(plain)
    assert largest_difference(losses(works[-1]), losses(plain)) <= TOLERANCE["fp32"]


@pytest.mark.parametrize("spread", SOME, ids=lambda spread: spread.name)
def test_a_checkpoint_holds_each_element_of_the_whole_parameters_once(
    some: dict[Spread, TrainWork], plain: TrainWork, spread: Spread
) -> None:
    mine, whole = (
        load_index(work.run / "checkpoints" / f"step-{STEPS:08d}") for work in (some[spread], plain)
    )
    assert mine.parameters.keys() == whole.parameters.keys()
    for name in whole.parameters:
        assert mine.shape(name) == whole.shape(name)
        held = sum(length for _, _, length, *_ in mine.parameters[name]["fragments"])
        assert held == torch.Size(whole.shape(name)).numel(), name
    few = spread.workers * len(whole.parameters)
    assert sum(len(entry["fragments"]) for entry in mine.parameters.values()) <= few


MATRIX = [
    Case(zero, model="llama", tensor=tensor, sequence=sequence)
    for zero, (tensor, sequence) in product(range(4), [(1, 1), (2, 1), (1, 2), (2, 2)])
]
SAVED, END = 3, 6
CONTROL = 1e-4  # a checkpoint without its first moments shows as much and more


def place(folder: Path, case: Case) -> Location:
    return Location.parse(str(folder / str(case)))


def save_cases(rank: int, world_size: int, folder: Path, cases: list[Case]) -> dict[Case, Any]:
    """Saves in the middle; what each went on to do."""
    join_tiny_group()
    losses = {}
    for case in cases:
        with engine_of(case) as engine:
            train_steps(engine, range(SAVED))
            save_now(place(folder, case), engine, SAVED)
            losses[case] = train_steps(engine, range(SAVED, END))
    return losses


def load_cases(
    rank: int, world_size: int, folder: Path, loads: list[tuple[Case, Case]], forget: bool = False
) -> dict[tuple[Case, Case], Any]:
    """Loads what one layout saved into an engine of another, with other weights, and goes on."""
    join_tiny_group()
    losses = {}
    for source, case in loads:
        with engine_of(case, perturbed=True) as engine:
            run = place(folder, source)
            load_checkpoint(run, find_checkpoint(run), engine, rank, world_size)
            for part in zero.held_slices(engine.deepspeed) if forget else ():
                zero.state_tensors(engine.deepspeed, part)["exp_avg"].zero_()
            losses[source, case] = train_steps(engine, range(SAVED, END))
    return losses


def of_tensor(tensor: int) -> list[Case]:
    return sorted((case for case in MATRIX if case.tensor == tensor), key=lambda case: case.zero)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_layout_loads_what_every_layout_saved(tmp_path: Path) -> None:
    unbroken = {}
    for tensor in (1, 2):
        cases = of_tensor(tensor)
        unbroken |= run_distributed(save_cases, 4, tmp_path, cases, init=False)[0]
    for tensor in (1, 2):
        loads = [(source, case) for case in of_tensor(tensor) for source in MATRIX]
        found = run_distributed(load_cases, 4, tmp_path, loads, init=False, timeout_s=700.0)[0]
        for (source, case), losses_after in found.items():
            if source == case:
                assert losses_after == unbroken[source], source
            difference = largest_difference(losses_after, unbroken[source])
            assert difference <= TOLERANCE["fp32"], (source, case)
    pair = (Case(1, model="llama", tensor=2), Case(2, model="llama", sequence=2))
    lost = run_distributed(load_cases, 4, tmp_path, [pair], True, init=False)[0][pair]
    assert largest_difference(lost, unbroken[pair[0]]) > CONTROL, "the tolerance has power"


def step_with_a_bad_gradient(rank: int, world_size: int) -> dict[int, tuple[bool, bool, bool]]:
    """A gradient that is not finite in one worker's part of one matrix."""
    join_tiny_group()
    found = {}
    for stage in range(4):
        with engine_of(Case(stage, model="llama", tensor=2)) as engine:
            train_steps(engine, range(1))
            matrix = engine.deepspeed.module.model.layers[0].mlp.down_proj.weight
            hook = matrix.register_hook(lambda grad: grad * torch.nan if rank == 1 else grad)
            before = state_of(engine)
            train_steps(engine, range(1, 2))
            left_out, unchanged = engine.left_out_update, before == state_of(engine)
            hook.remove()
            train_steps(engine, range(2, 3))
            found[stage] = left_out, unchanged, before != state_of(engine)
    return found


def state_of(engine: Engine) -> list[Any]:
    return [
        (part.name, key, view.tolist())
        for part in zero.held_slices(engine.deepspeed)
        for key, view in zero.state_tensors(engine.deepspeed, part).items()
    ]


def test_a_bad_gradient_in_one_part_of_a_matrix_is_left_out_by_all() -> None:
    for found in run_distributed(step_with_a_bad_gradient, 2, init=False):
        assert found == dict.fromkeys(range(4), (True, True, True))


# ---- other models --------------------------------------------------------------------------------


CONFIGS = {
    "gemma": MODEL["config"] | {"head_dim": 8},
    "gemma2": MODEL["config"] | {"head_dim": 8},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "dropout": 0.0,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "parallel"),
    [*((name, {"tensor": 2}) for name in TENSOR), *((name, {"sequence": 2}) for name in SEQUENCE)],
)
def test_every_architecture_of_the_table_gives_its_curve(
    dataset: Artifact, tmp_path: Path, architecture: str, parallel: dict[str, int]
) -> None:
    config = CONFIGS.get(architecture, MODEL["config"])
    model = {"architecture": architecture, "config": config}
    spread = Spread(2, 1, **parallel)
    works = {
        s: replace(s.work(dataset, tmp_path, model=model), export=True) for s in (PLAIN, spread)
    }
    train(works)
    assert_same_run(works[spread], works[PLAIN], TOLERANCE["fp32"])
    measured = validation(works[spread])[-1]
    assert abs(held_out_loss(works[spread]) - measured) / measured <= 1e-5
    index = load_index(works[spread].run / "checkpoints" / f"step-{STEPS:08d}")
    blocks = [
        fragment
        for entry in index.parameters.values()
        for fragment in entry["fragments"]
        if len(fragment) == 5
    ]
    assert bool(blocks) == (spread.tensor > 1), "AutoTP left the matrices whole"


def test_workers_that_cannot_be_cut_into_replicas_are_refused(
    dataset: Artifact, tmp_path: Path
) -> None:
    work = Spread(3, 1, tensor=2).work(dataset, tmp_path)
    with pytest.raises(RankError, match="a multiple of tensor x sequence = 2 x 1 = 2 workers"):
        run_distributed(train_all, 3, [work], init=False)
