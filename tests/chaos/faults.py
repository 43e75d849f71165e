"""Breaking a run at a known step, and comparing what came of it."""

import os
import threading
import time
from collections.abc import Callable

from tiny_runs import events, fragments, losses, records

from raymodel.train.work import TrainWork


def at_step(work: TrainWork, step: int, action: Callable[[], None]) -> threading.Thread:
    """Does something once the run has logged this step."""

    def wait() -> None:
        while max((record["step"] for record in records(work, "metrics")), default=0) < step:
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def signal_worker(work: TrainWork, rank: int, number: int) -> None:
    os.kill(events(work, "attempt")[-1]["pids"][rank], number)


def check_same_end(broken: TrainWork, whole: TrainWork) -> None:
    """The loss of each step, the weights, moments and random states, and the rows: bit for bit."""
    assert losses(broken) == losses(whole)
    assert fragments(broken, 60) == fragments(whole, 60)
    digests = [records(work, "metrics")[-1]["data_digest"] for work in (broken, whole)]
    assert digests[0] == digests[1]
