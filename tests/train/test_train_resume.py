"""Where a group of workers goes on when checkpoints are torn, stale or foreign."""

import os
import time

import pytest
import torch.distributed as dist
from tiny_engines import Case, engine_of, join_tiny_group, save_now, saver_of, train_steps

from raymodel.errors import CheckpointError, DamagedCheckpointError, TrainingError
from raymodel.storage.uri import Location
from raymodel.testing.distributed import run_distributed
from raymodel.testing.s3 import s3_bucket
from raymodel.train.checkpoint import fragments
from raymodel.train.checkpoint.index import INDEX, load_index, rank_file, rank_index, save_index
from raymodel.train.checkpoint.resume import resume
from raymodel.train.checkpoint.state import TrainState, checkpoint_location, committed_steps

GOOD, TORN = 2, 4
WORKERS = 2


@pytest.fixture
def run(tmp_path):
    return Location.parse(str(tmp_path / "run"))


def write_two(rank, world_size, run, case):
    """Checkpoints at steps GOOD and TORN; the losses after each."""
    join_tiny_group()
    with engine_of(case) as engine:
        train_steps(engine, range(GOOD))
        save_now(run, engine, GOOD)
        after_good = train_steps(engine, range(GOOD, TORN))
        save_now(run, engine, TORN)
        return {GOOD: after_good, TORN: train_steps(engine, range(TORN, TORN + 2))}


def go_on(rank, world_size, run, case):
    """Resumes; the step gone on from, what was passed over, and the next losses."""
    join_tiny_group()
    torn = []
    with engine_of(case, perturbed=True) as engine:
        step = resume(run, engine, rank, world_size, torn.append).step
        return step, [str(error) for error in torn], train_steps(engine, range(step, step + 2))


def resume_error(rank, world_size, run, case):
    """The error of a run that cannot be resumed."""
    join_tiny_group()
    with engine_of(case) as engine:
        try:
            resume(run, engine, rank, world_size, lambda error: None)
        except Exception as error:  # noqa: BLE001 (its class is the result)
            return error
    return None


def drop_index(folder):
    (folder / INDEX).delete_file()


def cut_a_rank_file(folder):
    file = folder / rank_file(1)
    file.write_bytes(file.read_bytes()[:-100])


def drop_a_rank_file(folder):
    (folder / rank_file(1)).delete_file()


def cut_the_index(folder):
    (folder / INDEX).write_bytes((folder / INDEX).read_bytes()[:-1])


def flip_a_byte(folder):
    file = folder / rank_file(1)
    content = bytearray(file.read_bytes())
    parameters = load_index(folder).parameters
    (offset, _), *_ = (
        places["exp_avg"]
        for parameter in parameters.values()
        for name, _, _, places in parameter["fragments"]
        if name == rank_file(1)
    )
    content[offset] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "told", "zero"),
    [
        (drop_index, None, 2),  # it was never committed: nothing to tell
        pytest.param(cut_the_index, "cut short", 1, marks=pytest.mark.slow),
        (cut_a_rank_file, "bytes where", 3),
        (drop_a_rank_file, "no bytes where", 0),
        pytest.param(flip_a_byte, "damaged", 1, marks=pytest.mark.slow),
        (flip_a_byte, "damaged", 3),
    ],
)
def test_the_checkpoint_before_a_torn_one_is_used(run, damage, told, zero):
    case = Case(zero, "fp32")
    unbroken = run_distributed(write_two, WORKERS, run, case, init=False)[0]
    damage(checkpoint_location(run, TORN))
    ranks = run_distributed(go_on, WORKERS, run, case, init=False)
    for step, _, losses in ranks:
        assert step == GOOD
        assert losses == unbroken[GOOD], "nothing of the torn one is left"
    messages = ranks[0][1]
    assert [told in message for message in messages] == ([True] if told else [])
    assert committed_steps(run) == [GOOD]
    assert not checkpoint_location(run, TORN).exists(), "the step can be written again"


def test_whole_checkpoints_are_resumed_from_the_newest(run):
    unbroken = run_distributed(write_two, WORKERS, run, Case(2), init=False)[0]
    for step, torn, losses in run_distributed(go_on, WORKERS, run, Case(2), init=False):
        assert (step, torn, losses) == (TORN, [], unbroken[TORN])


def in_a_bucket(rank, world_size, environment, fn, *args):
    os.environ.update(environment)
    return fn(rank, world_size, *args)


def test_a_bucket_holds_checkpoints_as_a_disk_does():
    with s3_bucket() as bucket:
        run = bucket / "run"
        aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        unbroken = run_distributed(in_a_bucket, WORKERS, aws, write_two, run, Case(2), init=False)[
            0
        ]
        assert committed_steps(run) == [GOOD, TORN]
        flip_a_byte(checkpoint_location(run, TORN))
        ranks = run_distributed(in_a_bucket, WORKERS, aws, go_on, run, Case(2), init=False)
        assert [(step, losses) for step, _, losses in ranks] == [(GOOD, unbroken[GOOD])] * WORKERS
        assert not any("step-00000004" in entry.name for entry in (run / "checkpoints").walk())


def test_without_a_checkpoint_training_starts_at_step_0(run):
    step, torn, _ = run_distributed(go_on, 1, run, Case(0), init=False)[0]
    assert (step, torn) == (0, [])


def test_when_every_checkpoint_is_damaged_the_attempt_fails_and_the_next_starts_anew(run):
    """The engine that found the damage holds a mixture, so it must not train on."""
    run_distributed(write_two, WORKERS, run, Case(1), init=False)
    for step in (GOOD, TORN):
        flip_a_byte(checkpoint_location(run, step))
    for error in run_distributed(resume_error, WORKERS, run, Case(1), init=False):
        assert isinstance(error, TrainingError)
        assert "run again to start anew" in str(error)
    assert run_distributed(go_on, 1, run, Case(1), init=False)[0][0] == 0


def test_a_checkpoint_of_another_model_is_an_error_and_stays(run):
    run_distributed(write_two, 1, run, Case(1), init=False)
    foreign = Case(1, model="million")
    (error,) = run_distributed(resume_error, 1, run, foreign, init=False)
    assert isinstance(error, CheckpointError)
    assert not isinstance(error, DamagedCheckpointError)
    assert "written for another model" in str(error)
    assert committed_steps(run) == [GOOD, TORN]


def test_a_checkpoint_of_a_newer_raymodel_is_an_error_and_stays(run):
    run_distributed(write_two, 1, run, Case(1), init=False)
    folder = checkpoint_location(run, TORN)
    save_index(folder, fragments.Index(**vars(load_index(folder)) | {"format_version": 99}))
    (error,) = run_distributed(resume_error, 1, run, Case(1), init=False)
    assert "format_version 99" in str(error)
    assert committed_steps(run) == [GOOD, TORN]


def save_late_on_rank_1(rank, world_size, run):
    """A checkpoint whose second part comes a second after the first."""
    join_tiny_group()
    with engine_of(Case(1)) as engine:
        train_steps(engine, range(TORN))
        saver = saver_of(run, engine, token="new")
        time.sleep(rank * 1.0)
        saver.save(TrainState(step=TORN))
        saver.close()
        dist.barrier()
        return train_steps(engine, range(TORN, TORN + 2))


def test_files_of_an_earlier_attempt_are_not_taken_for_this_ones(run):
    """Three workers died while they wrote the same step; rank 0 must wait for the new rank 1."""
    run_distributed(write_two, 3, run, Case(1), init=False)
    folder = checkpoint_location(run, TORN)
    drop_index(folder)
    stale = (folder / rank_index(1)).read_bytes()
    unbroken = run_distributed(save_late_on_rank_1, WORKERS, run, init=False)[0]
    assert (folder / rank_index(1)).read_bytes() != stale
    assert load_index(folder).world_size == WORKERS
    assert set(load_index(folder).files) == {rank_file(0), rank_file(1)}
    step, torn, losses = run_distributed(go_on, WORKERS, run, Case(1), init=False)[0]
    assert (step, torn, losses) == (TORN, [], unbroken)
