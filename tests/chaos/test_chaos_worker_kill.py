"""A worker is killed in the middle of a real Ray Train run; the run ends as if nothing had been."""

import signal
import time
from io import StringIO

import pytest
from faults import at_step, check_same_end, signal_worker
from tiny_runs import events, records

from raymodel.cluster.spec import ClusterSpec
from raymodel.observe.story import Story
from raymodel.train.run import train_on_ray
from raymodel.train.work import TrainWork, read_ledger


def test_a_killed_worker_changes_nothing_but_the_time(
    cluster: None, work: TrainWork, whole: TrainWork
) -> None:
    killer = at_step(work, 15, lambda: signal_worker(work, 1, signal.SIGKILL))
    said, started = StringIO(), time.time()
    train_on_ray(work, ClusterSpec(workers=2), Story(said))
    wall_s = time.time() - started
    killer.join()
    check_same_end(work, whole)

    (failure,) = records(work, "failures")
    assert (failure["kind"], failure["is_retried"]) == ("infrastructure", True)
    assert failure["cause"] == "worker 1 died or was cut off from the others"
    assert failure["cause"] in said.getvalue()

    books = read_ledger(work.run).books()
    assert books.total_s <= wall_s
    # Before the first book lies the making of the trainer, after the last the end of the workers.
    assert books.total_s == pytest.approx(wall_s, rel=0.1, abs=8.0)
    assert books.seconds["lost_work"] > 0
    assert books.seconds["restart"] > books.seconds["detection"] > 0
    assert [loss.cause for loss in books.losses] == [failure["cause"]]
    first, second = events(work, "attempt")
    assert (first["step"], second["attempt"], second["step"] % 10) == (0, 2, 0)
