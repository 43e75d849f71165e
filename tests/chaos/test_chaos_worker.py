"""A real Ray Train run loses workers and checkpoints; it ends as if nothing had been.

test_chaos_schedule.py has the long schedule, with nodes and the command itself.
"""

import random
import time
from functools import partial
from io import StringIO
from typing import Any

import pytest
from faults import at_step, check_same_end
from schedule import cut_newest_checkpoint
from tiny_runs import events, records

from raymodel.cluster.spec import ClusterSpec
from raymodel.observe.story import Story
from raymodel.train.run import train_on_ray
from raymodel.train.work import TrainWork, read_ledger

FAULTS = {27: cut_newest_checkpoint}  # which ends a worker too


class Training:
    """What the faults of a schedule ask of a run."""

    def __init__(self, work: TrainWork) -> None:
        self.work, self.run = work, work.run

    def records(self, name: str) -> list[dict[str, Any]]:
        return records(self.work, name)


@pytest.mark.slow
def test_a_short_schedule_changes_nothing_but_the_time(
    cluster: None, work: TrainWork, whole: TrainWork
) -> None:
    draw, training = random.Random(0), Training(work)
    threads = [
        at_step(work, step, partial(fault, training, draw)) for step, fault in FAULTS.items()
    ]
    said, started = StringIO(), time.time()
    train_on_ray(work, ClusterSpec(workers=2), Story(said))
    wall_s = time.time() - started
    for thread in threads:
        thread.join()
    check_same_end(work, whole)
    assert events(work, "torn_checkpoint"), "the cut one was passed over"

    failures = records(work, "failures")
    for failure in failures:
        assert (failure["kind"], failure["is_retried"]) == ("infrastructure", True)
        assert failure["cause"].endswith("died or was cut off from the others")
        assert failure["cause"] in said.getvalue()
    attempts = events(work, "attempt")
    assert [attempt["step"] % 10 for attempt in attempts] == [0, 0]

    books = read_ledger(work.run).books()
    assert books.total_s <= wall_s
    # Before the first book lies the making of the trainer, after the last the end of the workers.
    assert books.total_s == pytest.approx(wall_s, rel=0.1, abs=8.0)
    assert books.seconds["lost_work"] > 0
    assert books.seconds["restart"] > books.seconds["detection"] > 0
    assert [loss.cause for loss in books.losses] == [failure["cause"] for failure in failures]
