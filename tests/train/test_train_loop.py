"""Whole runs under `TorchrunSession`: one curve, whatever the layout, interruption or cut."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import (
    STEPS,
    STOP,
    digests,
    fragments,
    held_out_loss,
    largest_difference,
    losses,
    make_dataset,
    make_work,
    records,
    train_all,
    train_here,
    train_until,
    validation,
)
from transformers import AutoTokenizer

from raymodel.data.mixture import WeightedArtifact
from raymodel.data.shard import open_dataset
from raymodel.storage.artifact import Artifact
from raymodel.storage.uri import Location
from raymodel.testing.distributed import run_distributed
from raymodel.train import worker
from raymodel.train.checkpoint.state import committed_steps
from raymodel.train.spec import FinetuneSpec
from raymodel.train.work import TrainWork, summary

# A worker by itself has stage 0 of any (`stage_to_run`).
LAYOUTS = [(1, 0), (1, 3), *((2, zero) for zero in range(4)), (3, 1), (3, 3)]

# Another number of workers changes the order in which a global batch's gradient is summed, and
# nothing else: some 2^-24 = 6e-8 of it in fp32, and as much again with each of the twelve updates
# at most. In bf16 the gradient of a micro batch is rounded, 2^-9 = 2e-3 of it, and a weight may
# round to the other neighbour; test_train_checkpoint.py says why that comes to some 1e-4 of the
# loss. The ZeRO stage alone changes no bit in bf16, where all stages reduce in the same format,
# but for the norm of the gradient.
TOLERANCE = {"fp32": 2e-6, "bf16": 2e-4}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


# ---- one curve -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(dataset: Artifact, folder: Path) -> dict[tuple[int, int], TrainWork]:
    """Unbroken runs in fp32 by (workers, ZeRO stage). Three workers share eight rows unevenly."""
    works = {}
    for world_size, zero in LAYOUTS:
        run = folder / f"whole-{world_size}-{zero}"
        works[world_size, zero] = make_work(dataset, run, parallel={"zero": zero})
    for world_size in (1, 2, 3):
        mine = [work for (size, _), work in works.items() if size == world_size]
        run_distributed(train_all, world_size, mine, init=False)
    return works


def test_every_layout_gives_the_same_curve(whole: dict[tuple[int, int], TrainWork]) -> None:
    curve, held_out = losses(whole[1, 0]), validation(whole[1, 0])
    assert len(curve) == STEPS
    assert curve[-1] < curve[0] - 0.1, "it learns"
    for layout, work in whole.items():
        assert largest_difference(losses(work), curve) <= TOLERANCE["fp32"], layout
        assert largest_difference(validation(work), held_out) <= TOLERANCE["fp32"], layout
    assert losses(whole[1, 3]) == curve, "nothing is shared out to one worker"


def test_every_layout_tells_the_norm_of_the_same_gradient(
    whole: dict[tuple[int, int], TrainWork],
) -> None:
    def norms(work: TrainWork) -> list[float]:
        return [r["grad_norm"] for r in records(work, "metrics") if "loss" in r]

    expected = norms(whole[2, 1])
    assert len(expected) == STEPS
    assert max(expected) > 1.0, "some are clipped"
    for layout, work in whole.items():
        assert norms(work) == pytest.approx(expected, rel=1e-4), layout


def test_every_layout_consumes_the_same_rows(whole: dict[tuple[int, int], TrainWork]) -> None:
    expected = digests(whole[1, 0])
    assert len(set(expected)) == STEPS
    for layout, work in whole.items():
        assert digests(work) == expected, layout
        last = [record for record in records(work, "metrics") if "loss" in record][-1]
        assert (last["rows"], last["bad_rows"]) == (STEPS * 8, 0)


def test_the_curve_does_not_see_how_a_batch_is_cut_into_micro_batches(
    dataset: Artifact, folder: Path, whole: dict[tuple[int, int], TrainWork]
) -> None:
    """Two workers cut four rows into pieces of two; three cut three and two rows into three, of
    which the last worker's third is blank."""
    for world_size, zero, micro_batch in ((2, 3, 2), (3, 2, 1)):
        work = make_work(
            dataset,
            folder / f"cut-{world_size}",
            parallel={"zero": zero},
            micro_batch=micro_batch,
        )
        run_distributed(train_all, world_size, [work], init=False)
        assert largest_difference(losses(work), losses(whole[1, 0])) <= TOLERANCE["fp32"]
        assert digests(work) == digests(whole[1, 0])


def test_the_stages_agree_in_bf16(dataset: Artifact, folder: Path) -> None:
    def bf16(world_size: int, zero: int) -> TrainWork:
        run = folder / f"bf16-{world_size}-{zero}"
        # Without clipping: each stage sums the norm in an order of its own, and a last bit of the
        # norm is one of every weight.
        unclipped = {"gradient_clip": 0}
        return make_work(
            dataset, run, precision="bf16", parallel={"zero": zero}, optimizer=unclipped
        )

    works = [bf16(2, zero) for zero in range(4)]
    run_distributed(train_all, 2, works, init=False)
    for work in works[1:]:
        assert losses(work) == losses(works[0]), work.run
    alone = bf16(1, 1)
    run_distributed(train_all, 1, [alone], init=False)
    assert largest_difference(losses(alone), losses(works[0])) <= TOLERANCE["bf16"]


# ---- several datasets ----------------------------------------------------------------------------


def test_a_mixture_trains_alike_on_any_number_of_workers_and_when_interrupted(
    dataset: Artifact, folder: Path
) -> None:
    other = make_dataset(folder / "other", seed=1, tokenizer=dataset.location / "data/processor")
    mixture = (WeightedArtifact(dataset), WeightedArtifact(other, 3.0))
    # The interrupted run goes on from step 4, in the first stage, with other workers.
    first, last = (open_dataset(each, "train").parts[0].content.source for each in (dataset, other))
    stages = [{"until": "5 steps", "weights": {last: 9}}, {"weights": {first: 4}}]
    mix = {"temperature": 2.0, "stages": stages}
    alone, paired, broken = (
        make_work(mixture, folder / f"mixed-{name}", mixture=mix)
        for name in ("alone", "paired", "broken")
    )
    run_distributed(train_all, 1, [alone], init=False)
    run_distributed(train_all, 2, [paired], init=False)
    run_distributed(train_until, 1, [broken], STOP, init=False)
    run_distributed(train_all, 2, [broken], init=False)
    assert digests(alone) == digests(paired) == digests(broken)
    assert largest_difference(losses(paired), losses(alone)) <= TOLERANCE["fp32"]
    assert largest_difference(losses(broken), losses(alone)) <= TOLERANCE["fp32"]
    assert losses(alone)[-1] < losses(alone)[0] - 0.1, "it learns"
    expected = open_dataset(mixture, "holdout").spread(8)
    assert (expected >= open_dataset(dataset, "holdout").num_rows).sum() in (5, 6, 7), "by weight"
    single = make_work(dataset, folder / "mixed-not", duration="2 steps")
    run_distributed(train_all, 1, [single], init=False)
    assert digests(single)[-1] != digests(alone)[1]


# ---- interruption --------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    dataset: Artifact, folder: Path, whole: dict[tuple[int, int], TrainWork]
) -> None:
    """Bit for bit at the same layout."""
    works = [
        make_work(dataset, folder / f"broken-{zero}", parallel={"zero": zero}) for zero in range(4)
    ]
    run_distributed(train_until, 2, works, STOP, init=False)
    assert [record["step"] for record in records(works[0], "metrics")][-1] == STOP
    run_distributed(train_all, 2, works, init=False)
    for zero, work in enumerate(works):
        unbroken = whole[2, zero]
        assert losses(work) == losses(unbroken)
        assert validation(work) == validation(unbroken)
        assert digests(work) == digests(unbroken)
        assert fragments(work, STEPS) == fragments(unbroken, STEPS)


def test_a_run_goes_on_with_other_workers_and_another_stage(
    dataset: Artifact, folder: Path, whole: dict[tuple[int, int], TrainWork]
) -> None:
    broken = make_work(dataset, folder / "resized", parallel={"zero": 3})
    run_distributed(train_until, 2, [broken], STOP, init=False)
    resized = make_work(dataset, folder / "resized", parallel={"zero": 1})
    run_distributed(train_all, 3, [resized], init=False)
    steps = [record["step"] for record in records(resized, "metrics") if "loss" in record]
    assert steps == list(range(1, STEPS + 1)), "no step is missing or twice"
    assert digests(resized) == digests(whole[1, 0])
    assert largest_difference(losses(resized), losses(whole[1, 0])) <= TOLERANCE["fp32"]


# ---- the model -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "zero"), [("fp32", 2), ("bf16", 0), ("bf16", 3)])
def test_the_exported_model_has_the_loss_that_the_run_measured(
    dataset: Artifact, folder: Path, precision: str, zero: int
) -> None:
    work = make_work(
        dataset, folder / f"export-{precision}-{zero}", precision=precision, parallel={"zero": zero}
    )
    leftover = work.run / ".part-killed" / "model"
    (leftover / "config.json").write_bytes(b"half")
    run_distributed(train_all, 2, [replace(work, export=True)], init=False)
    # The same weights in the same format: only the batches are cut otherwise.
    measured = validation(work)[-1]
    assert abs(held_out_loss(work) - measured) / measured <= 1e-5
    assert len(AutoTokenizer.from_pretrained(work.run.local_path / "model")) == 300
    assert not leftover.exists()
    names = {entry.name for entry in work.run.list()}
    assert not [name for name in names if name.startswith(".part-")]


def test_the_best_checkpoint_stays_and_becomes_the_model(dataset: Artifact, folder: Path) -> None:
    """A rate that is far too high: after some good steps the loss goes up again."""
    work = make_work(
        dataset,
        folder / "best",
        export="best",
        optimizer={"learning_rate": 2.0},
        schedule={"name": "constant", "warmup": "100%"},
        checkpoint={"every": "2 steps", "keep": 1},
    )
    run_distributed(train_all, 2, [replace(work, export=True)], init=False)
    measured = {
        record["step"]: record["validation_loss"]
        for record in records(work, "metrics")
        if "validation_loss" in record
    }
    assert set(measured) == {2, 4, 6, 8, 10, 12}, "each checkpoint is measured"
    best = min(measured, key=lambda step: measured[step])
    assert best != STEPS, "the run got worse again"
    assert committed_steps(work.run) == [best, STEPS]
    assert summary(work.run, work.spec)["exported_step"] == best
    assert held_out_loss(work) == pytest.approx(measured[best], rel=1e-5)


def test_an_adapter_is_merged_into_the_model_that_is_exported(
    dataset: Artifact, folder: Path
) -> None:
    start = replace(make_work(dataset, folder / "start", duration="2 steps"), export=True)
    run_distributed(train_all, 1, [start], init=False)
    fields = start.spec.to_dict() | {"task": "causal_lm", "sources": [{"path": "not read"}]}
    del fields["objective"], fields["model"], fields["data"]
    spec = FinetuneSpec.model_validate(
        fields
        | {
            "adapter": {"lora": {"rank": 2}},
            "duration": "8 steps",
            "parallel": {"zero": 3},
            "optimizer": {"learning_rate": 1e-2},
        }
    )
    run = Location.parse(str(folder / "adapted"))
    work = replace(start, stage="finetune", spec=spec, run=run, base=start.run / "model")
    run_distributed(train_all, 2, [work], init=False)
    measured = validation(work)[-1]
    assert measured < validation(start)[-1] - 0.01, "the adapter learnt something"
    assert abs(held_out_loss(work) - measured) / measured <= 1e-5


def test_more_workers_than_held_out_rows_still_validate(
    dataset: Artifact, folder: Path, whole: dict[tuple[int, int], TrainWork]
) -> None:
    works = [
        make_work(dataset, folder / f"few-{world_size}", validate_rows=2, duration="2 steps")
        for world_size in (1, 3)
    ]
    for world_size, work in zip((1, 3), works, strict=True):
        run_distributed(train_all, world_size, [work], init=False)
    assert largest_difference(validation(works[1]), validation(works[0])) <= TOLERANCE["fp32"]


def note_heap(rank: int, world_size: int, work: TrainWork) -> list[str]:
    """What happens in a run, in order."""
    noted: list[str] = []
    calls = {name: getattr(worker, name) for name in ("build_engine", "keep_freed_memory", "train")}

    def note(name: str, *arguments: Any) -> Any:
        noted.append(name)
        return calls[name](*arguments)

    for name in calls:
        setattr(worker, name, partial(note, name))
    train_here(rank, world_size, work)
    return noted


def test_a_run_on_a_cpu_keeps_its_memory_once_the_model_is_made(
    dataset: Artifact, tmp_path: Path
) -> None:
    (noted,) = run_distributed(note_heap, 1, make_work(dataset, tmp_path), init=False)
    assert noted == ["build_engine", "keep_freed_memory", "train"]
