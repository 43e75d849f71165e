"""A run on Ray whose data, checkpoints and books are in a bucket that misbehaves."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from local_ray import local_ray
from tiny_runs import events, losses, records

from raymodel.cluster.spec import ClusterSpec
from raymodel.data.mixture import mixture_of
from raymodel.observe.records import read_records
from raymodel.storage.artifact import Artifact, open_artifact
from raymodel.storage.uri import Location
from raymodel.testing.s3 import Fault, Faults
from raymodel.train.work import FAILURES_FILE, TrainWork

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def remote(dataset: Artifact, server: tuple[Location, Faults]) -> Artifact:
    target = server[0] / "dataset"
    for entry in dataset.location.walk():
        (target / entry.name).write_bytes((dataset.location / entry.name).read_bytes())
    return open_artifact(target)


@pytest.fixture(scope="module")
def cluster_of_bucket(server: tuple[Location, Faults]) -> Iterator[None]:
    """A Ray that is started after the bucket, so that its workers know the way there."""
    with local_ray(4):
        yield


def when(condition: Callable[[], bool], action: Callable[[], object]) -> None:
    """Calls `action`, in a thread, once `condition` holds."""

    def wait() -> None:
        deadline = time.monotonic() + 600
        while not condition():
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.2)
        action()

    threading.Thread(target=wait, daemon=True).start()


def test_a_run_in_a_bucket_ends_as_on_a_disk(
    cluster_of_bucket: None,
    server: tuple[Location, Faults],
    remote: Artifact,
    work: TrainWork,
    whole: TrainWork,
    tmp_path: Path,
) -> None:
    """The bucket refuses everything for seven seconds, is slow, breaks connections off; shards
    cannot be read for a while; and a worker is killed."""
    from raymodel.train.run import fit

    bucket, faults = server
    there = replace(work, dataset=mixture_of(remote), run=bucket / "run")

    def has(step: int) -> Callable[[], bool]:
        return lambda: any(event["step"] == step for event in events(there, "checkpoint"))

    def kill_worker() -> None:
        os.kill(events(there, "attempt")[-1]["pids"][1], signal.SIGKILL)

    shards = faults.add(Fault(does="refuse", status=500, where=r"GET .*\.parquet", times=12))
    resets = faults.add(Fault(does="reset", where=r"step-00000010/rank", times=4))
    slow = faults.add(Fault(does="wait", where=r"step-00000020", wait_s=0.3, times=10))
    down = Fault(does="refuse", for_s=7)
    when(has(20), lambda: faults.add(down))
    when(has(30), kill_worker)
    fit(there, ClusterSpec(workers=2))

    for fault in (shards, resets, slow, down):
        assert fault.hits, fault
    steps = [record["step"] for record in records(there, "metrics") if "loss" in record]
    assert steps == list(range(1, 61)), "no step is missing or twice"
    assert losses(there) == losses(whole)
    digests = [records(each, "metrics")[-1]["data_digest"] for each in (there, whole)]
    assert digests[0] == digests[1]
    causes = [record["cause"] for record in read_records(there.run / FAILURES_FILE)]
    assert "worker 1 died or was cut off from the others" in causes
    assert len(events(there, "attempt")) == len(causes) + 1
