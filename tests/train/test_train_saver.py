"""Checkpoints that are written beside training, on storage that is slow or refuses."""

import os
import signal
import threading
import time
from contextlib import suppress

import pytest
import torch
import torch.distributed as dist
from tiny_engines import Case, engine_of, join_tiny_group, save_now, saver_of, train_steps

from raymodel.errors import StorageUnavailableError
from raymodel.storage import retry
from raymodel.storage.uri import Location
from raymodel.testing.distributed import RankError, run_distributed
from raymodel.train.checkpoint import saver as saver_module
from raymodel.train.checkpoint.fragments import FragmentReader
from raymodel.train.checkpoint.index import load_index, rank_index
from raymodel.train.checkpoint.saver import Saver
from raymodel.train.checkpoint.state import (
    TrainState,
    checkpoint_location,
    committed_steps,
    discard_after,
    find_best_checkpoint,
    find_checkpoint,
)
from raymodel.train.step import zero


@pytest.fixture
def run(tmp_path):
    return Location.parse(str(tmp_path / "run"))


def _state(engine):
    """Everything that this rank holds, by (parameter, start, key)."""
    inner = engine.deepspeed
    return {
        (part.name, part.start, key): view.clone()
        for part in zero.owned_slices(inner)
        for key, view in zero.state_tensors(inner, part).items()
    }


def _saved(run, step, like):
    """The same runs of the same parameters, out of a checkpoint."""
    folder = checkpoint_location(run, step)
    reader = FragmentReader(folder, load_index(folder))
    found = {}
    for (name, start, key), view in like.items():
        found[name, start, key] = torch.empty_like(view)
        reader.read(name, key, start, found[name, start, key])
    return found


def _same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


# ---- the copy ------------------------------------------------------------------------------------


def update_during_the_copy(rank, world_size, run, waits):
    """Whether each checkpoint holds the state at `save`, with an update while it is copied."""
    join_tiny_group()
    copy, goes_on = Saver._copy_out, threading.Event()

    def copy_late(self, job):
        """Not before training waits for it, or has gone on without."""
        goes_on.wait()
        time.sleep(0.1 if waits else 0)  # for what does not wait to do harm
        return copy(self, job)

    Saver._copy_out = copy_late
    held = []
    for case in (Case(0, "fp32"), Case(0, "bf16"), Case(2, "bf16"), Case(3, "bf16")):
        with engine_of(case) as engine:
            train_steps(engine, range(2))
            at_save = _state(engine)
            place = run / str(case)
            saver = saver_of(place, engine)

            def wait(saver=saver):
                goes_on.set()
                saver.wait_for_copy()

            goes_on.clear()
            saver.save(TrainState(step=2))
            train_steps(engine, range(2, 4), before_update=wait if waits else lambda: None)
            goes_on.set()
            saver.close()
            assert not _same(at_save, _state(engine)), "training went on"
            held.append(_same(at_save, _saved(place, 2, at_save)))
    return held


def test_a_checkpoint_is_the_state_at_save_though_training_goes_on(run):
    assert run_distributed(update_during_the_copy, 1, run, True, init=False) == [[True] * 4]


def test_without_waiting_for_the_copy_the_update_would_get_into_it(run):
    assert run_distributed(update_during_the_copy, 1, run, False, init=False) == [[False] * 4]


# ---- time ----------------------------------------------------------------------------------------


def save_to_slow_storage(rank, world_size, run):
    """How many checkpoints were written after each call: two saves, and closing."""
    join_tiny_group()
    write, may_write, written, counts = Saver._write, threading.Semaphore(0), [], []

    def write_late(self, job, tensors):
        may_write.acquire()
        write(self, job, tensors)
        written.append(job)

    Saver._write = write_late
    with engine_of(Case(1)) as engine:
        train_steps(engine, range(1))
        saver = saver_of(run, engine)
        for step in (1, 2):
            saver.save(TrainState(step=step))
            saver.wait_for_copy()
            counts.append(len(written))
            threading.Timer(0.3, may_write.release).start()
        saver.close()
        counts.append(len(written))
    return counts


def test_training_waits_for_the_storage_only_when_the_next_checkpoint_comes(run):
    first, second, closed = run_distributed(save_to_slow_storage, 1, run, init=False)[0]
    assert first == 0, "writing goes on beside training"
    assert second == 1, "one checkpoint is under way at a time"
    assert closed == 2, "the last one is waited for"
    assert committed_steps(run) == [1, 2]


def save_many(rank, world_size, run, wait):
    join_tiny_group()
    committed = []
    with engine_of(Case(1)) as engine:
        saver = saver_of(run, engine, keep=2, wait=wait)
        for step in range(1, 5):
            train_steps(engine, range(step - 1, step))
            saver.save(TrainState(step=step))
            if wait and rank == 0:
                committed.append(committed_steps(run))
        saver.close()
    return committed


def test_the_newest_are_kept_and_the_others_deleted(run):
    run_distributed(save_many, 2, run, False, init=False)
    assert committed_steps(run) == [3, 4]
    folders = [entry.name for entry in (run / "checkpoints").list()]
    assert folders == ["step-00000003", "step-00000004"]


def save_with_losses(rank, world_size, run, losses):
    join_tiny_group()
    with engine_of(Case(1)) as engine:
        saver = saver_of(run, engine, keep=2, keep_best=True)
        for step, loss in enumerate(losses, start=1):
            saver.save(TrainState(step=step, validation_loss=loss))
        saver.close()


def test_the_best_stays_beside_the_newest(run):
    run_distributed(save_with_losses, 1, run, [3.0, 1.0, 2.0, 2.5, None], init=False)
    assert committed_steps(run) == [2, 4, 5]


def test_a_loss_that_is_not_finite_is_not_the_best_and_spoils_no_checkpoint(run):
    losses = [float("nan"), 3.0, float("-inf"), float("nan"), None]
    run_distributed(save_with_losses, 1, run, losses, init=False)
    assert committed_steps(run) == [2, 4, 5]
    assert find_best_checkpoint(run).step == 2
    assert find_checkpoint(run).step == 5


def test_with_wait_a_checkpoint_is_there_when_save_returns(run):
    committed = run_distributed(save_many, 2, run, True, init=False)[0]
    assert committed == [[1], [1, 2], [2, 3], [3, 4]]


# ---- storage that refuses ------------------------------------------------------------------------


def save_while_storage_refuses(rank, world_size, run, refusals):
    """Events, the error of closing, and the same after one more checkpoint on good storage.

    A checkpoint of step 1 is there before. `refusals` many calls fail from then on.
    """
    join_tiny_group()
    retry.FIRST_WAIT_S = 0.01
    make_dir, left, events = Location.make_dir, [refusals], []

    def sometimes(self):
        if left[0] > 0:
            left[0] -= 1
            raise OSError("503 slow down")
        make_dir(self)

    def close(saver):
        try:
            saver.close()
        except StorageUnavailableError as error:
            return error
        return None

    with engine_of(Case(1)) as engine:
        train_steps(engine, range(1))
        save_now(run, engine, 1)
        saver = saver_of(run, engine, on_event=events.append)
        Location.make_dir = sometimes
        saver.save(TrainState(step=2))
        error = close(saver)
        Location.make_dir = make_dir
        steps = committed_steps(run)
        saver.save(TrainState(step=3))
        return events, error, steps, close(saver)


def test_a_storage_that_refuses_for_a_while_is_tried_again(run):
    events, error, steps, _ = run_distributed(save_while_storage_refuses, 1, run, 3, init=False)[0]
    assert error is None
    assert steps == [1, 2]
    retries = [event for event in events if event["event"] == "checkpoint_retry"]
    assert [retry["wait_s"] for retry in retries] == [0.01, 0.02, 0.04]
    assert {(retry["step"], retry["cause"]) for retry in retries} == {(2, "503 slow down")}
    assert [e["step"] for e in events if e["event"] == "checkpoint"] == [2, 3]


def test_a_storage_that_refuses_for_ever_is_an_error_and_the_last_good_one_stays(run):
    events, error, steps, later_error = run_distributed(
        save_while_storage_refuses, 1, run, 10**6, init=False
    )[0]
    assert isinstance(error, StorageUnavailableError)
    assert "503 slow down" in str(error)
    assert steps == [1], "the one before is untouched"
    assert [e["step"] for e in events if e["event"] == "checkpoint_failed"] == [2]
    assert later_error is None, "a later one that was written makes up for it"
    assert find_checkpoint(run).step == 3


def save_on_a_full_disk(rank, world_size, run, full_ranks, steps):
    """Checkpoints of these steps, of which these ranks can write none but the first and the last.

    Returns the folders after each.
    """
    join_tiny_group()
    retry.TRIES = 1
    save_file, folders = saver_module.save_file, []

    def fill_the_disk(tensors, path):
        path.write_bytes(b"as much as fits")
        # The others are done: one that begins while its folder goes away would have to try again.
        written = [path.parent.parent / rank_index(each) for each in {0, 1} - set(full_ranks)]
        while not all(file.exists() for file in written):
            time.sleep(0.01)
        raise OSError(28, "No space left on device")

    with engine_of(Case(2)) as engine:
        saver = saver_of(run, engine, keep=9)
        for step in steps:
            fails = step not in (steps[0], steps[-1])
            saver_module.save_file = fill_the_disk if fails and rank in full_ranks else save_file
            saver_module.COMMIT_TIMEOUT_S = 1 if fails else 60  # for the part of the other
            saver.save(TrainState(step=step))
            with suppress(StorageUnavailableError):
                saver.close()
            dist.barrier()
            folders.append([entry.name for entry in (run / "checkpoints").list()])
            dist.barrier()
    return folders


@pytest.mark.parametrize(
    ("full_ranks", "between"),
    [((0, 1), []), ((1,), []), ((0,), ["step-00000002"])],
    ids=["both", "not the one that commits", "the one that commits"],
)
def test_a_full_disk_leaves_no_folder_of_what_could_not_be_written(run, full_ranks, between):
    folders = run_distributed(save_on_a_full_disk, 2, run, full_ranks, [1, 2, 3], init=False)[0]
    assert folders[0] == ["step-00000001"]
    assert folders[1] == ["step-00000001", *between]
    assert folders[2] == ["step-00000001", "step-00000003"]


def save_without_rank_1(rank, world_size, run):
    join_tiny_group()
    saver_module.COMMIT_TIMEOUT_S = 0.5
    wait, awaited = Saver._wait_for_index, []
    Saver._wait_for_index = lambda *given: awaited.append(given[-1]) or wait(*given)
    with engine_of(Case(1)) as engine:
        saver = saver_of(run, engine)
        if rank == 0:
            saver.save(TrainState(step=1))
        try:
            saver.close()
        except StorageUnavailableError as error:
            return str(error), awaited
    return None


def test_a_part_that_never_comes_is_waited_for_once(run):
    (message, awaited), other = run_distributed(save_without_rank_1, 2, run, init=False)
    assert "rank 1 did not write its part" in message
    assert awaited == [0, 1]
    assert other is None
    assert committed_steps(run) == []


def fail_to_prune(rank, world_size, run):
    join_tiny_group()
    events = []

    def refuse(folder):
        raise OSError("busy")

    saver_module.discard = refuse
    with engine_of(Case(1)) as engine:
        saver = saver_of(run, engine, keep=1, on_event=events.append)
        for step in (1, 2):
            saver.save(TrainState(step=step))
        saver.close()
    return [event["event"] for event in events]


def test_old_checkpoints_that_cannot_be_deleted_do_not_spoil_the_new_one(run):
    events = run_distributed(fail_to_prune, 1, run, init=False)[0]
    assert events == ["checkpoint", "prune_failed", "checkpoint"]
    assert find_checkpoint(run).step == 2


# ---- a process that dies -------------------------------------------------------------------------


def die_in_the_middle_of_writing(rank, world_size, run):
    join_tiny_group()
    save_file = saver_module.save_file

    def save_half(tensors, path):
        save_file(tensors, path)
        if rank == 1:
            path.write_bytes(path.read_bytes()[:1000])
            os.kill(os.getpid(), signal.SIGKILL)

    with engine_of(Case(1)) as engine:
        train_steps(engine, range(1))
        save_now(run, engine, 1)
        saver_module.save_file = save_half
        saver_of(run, engine).save(TrainState(step=2))
        time.sleep(60)


def test_kill_9_in_the_middle_of_writing_leaves_nothing_that_counts(run):
    with pytest.raises(RankError, match="exit code -9"):
        run_distributed(die_in_the_middle_of_writing, 2, run, init=False)
    torn = checkpoint_location(run, 2)
    assert any(".part-" in entry.name for entry in torn.walk()), "it died while it wrote"
    index = find_checkpoint(run)
    assert index.step == 1
    discard_after(run, index.step)
    assert [entry.name for entry in (run / "checkpoints").list()] == ["step-00000001"]
