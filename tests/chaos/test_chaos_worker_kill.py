"""A worker is killed in the middle of a real Ray Train run; the run ends as if nothing had been."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"  # a Ray of this test alone; set before ray is imported

import pytest
import ray

from raymodel.cluster.spec import ClusterSpec
from raymodel.observe.story import Story
from raymodel.storage.artifact import Artifact
from raymodel.testing.distributed import run_distributed
from raymodel.train.journal import read_ledger
from raymodel.train.run import train_on_ray
from raymodel.train.worker import TrainWork

sys.path.append(str(Path(__file__).parents[1] / "train"))
from tiny_runs import events, fragments, losses, make_dataset, make_work, records, train_here

CLUSTER = ClusterSpec(workers=2)
STEPS = 60  # of which a process trains some ten in a second


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=200_000_000,
        logging_level="ERROR",
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_dataset(tmp_path_factory.mktemp("data"))


def work_in(dataset: Artifact, run: Path) -> TrainWork:
    return make_work(
        dataset,
        run,
        duration=f"{STEPS} steps",
        checkpoint={"every": "10 steps"},
        validate_every=f"{STEPS} steps",
    )


def at_step(work: TrainWork, step: int, action: Callable[[], None]) -> threading.Thread:
    """Does something once the run has logged this step."""

    def wait() -> None:
        while max((record["step"] for record in records(work, "metrics")), default=0) < step:
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_killed_worker_changes_nothing_but_the_time(
    cluster: None, dataset: Artifact, tmp_path: Path
) -> None:
    whole, broken = (work_in(dataset, tmp_path / name) for name in ("whole", "broken"))
    run_distributed(train_here, 2, whole, init=False)

    def kill() -> None:
        os.kill(events(broken, "attempt")[0]["pids"][1], signal.SIGKILL)

    killer, said, started = at_step(broken, 15, kill), StringIO(), time.time()
    content = train_on_ray(broken, CLUSTER, Story(said))
    wall_s = time.time() - started
    killer.join()

    assert losses(broken) == losses(whole)
    assert fragments(broken, STEPS) == fragments(whole, STEPS)
    assert content["data_digest"] == records(whole, "metrics")[-1]["data_digest"]

    (failure,) = records(broken, "failures")
    assert (failure["kind"], failure["is_retried"]) == ("infrastructure", True)
    assert failure["cause"] == "worker 1 died or was cut off from the others"
    assert failure["cause"] in said.getvalue()

    books = read_ledger(broken.run).books()
    assert books.total_s == pytest.approx(wall_s, abs=8.0)  # Ray ends the workers after the books
    assert books.seconds["lost_work"] > 0
    assert books.seconds["restart"] > books.seconds["detection"] > 0
    assert [loss.cause for loss in books.losses] == [failure["cause"]]
    first, second = events(broken, "attempt")
    assert (first["step"], second["attempt"], second["step"] % 10) == (0, 2, 0)
