"""A job that waits for places says so, and can be ended meanwhile."""

import io
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from raymodel.cluster.capacity import Shortage
from raymodel.cluster.spec import ClusterSpec
from raymodel.observe import story as story_module
from raymodel.observe.story import Story
from raymodel.storage.uri import Location
from raymodel.testing.nodes import Nodes
from raymodel.testing.tiny import tiny_job, write_tiny_corpus
from raymodel.train.fault import places

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    monkeypatch.setattr(story_module, "WAIT_BEFORE_SAYING_S", 0.1)
    return io.StringIO()


def test_a_wait_tells_what_is_missing_and_since_when(
    stream: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(cluster: ClusterSpec, tell: Callable[[Shortage], None]) -> None:
        tell(Shortage("2 workers of 1 CPU", "free places: 0 on 1 node"))
        while not stream.getvalue():
            time.sleep(0.01)

    monkeypatch.setattr(places, "wait_for_places", wait)
    places.await_places(
        ClusterSpec(workers=2), Story(stream), "places", Location.parse(str(tmp_path))
    )
    first, last = stream.getvalue().splitlines()
    told = r"waiting for places: 2 workers of 1 CPU; free places: 0 on 1 node \(\d+\.\ds, since "
    assert re.match(told, first.strip())
    assert last.strip().startswith("places: there after")


def test_a_training_that_lost_its_workers_and_their_places_tells_so_once(
    stream: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, is_over = list[int](), threading.Event()

    def find_lack(cluster: ClusterSpec) -> Shortage | None:
        looks.append(1)
        if len(looks) > 1 and not stream.getvalue():
            return Shortage("1 worker", "")
        if len(looks) > 1 and len(stream.getvalue().splitlines()) == 2:
            is_over.set()
        return None

    monkeypatch.setattr(places, "_find_lack", find_lack)
    monkeypatch.setattr(places, "_POLL_S", 0.05)
    with places.watch_places(ClusterSpec(), Story(stream), Location.parse(str(tmp_path))):
        assert is_over.wait(60)
    first, last = stream.getvalue().splitlines()
    assert "waiting for places for the workers: 1 worker (" in first
    assert "there after" in last


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_whose_only_node_is_gone_says_so_and_ends_at_once_when_interrupted(
    tmp_path: Path,
) -> None:
    write_tiny_corpus(tmp_path / "corpus")
    job = tiny_job(tmp_path, duration="2000 steps", checkpoint={"every": "10 steps"})
    job |= {"cluster": {"workers": 1}, "storage": str(tmp_path / "runs")}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    output = tmp_path / "output.txt"
    with Nodes() as nodes:
        name = nodes.add()
        with open(output, "wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "raymodel", "run", "job.yaml", "--address", nodes.address],
                cwd=tmp_path,
                env=nodes.environment | {"PYTHONPATH": str(REPOSITORY)},
                stdout=stream,
                stderr=stream,
            )
        try:
            wait_for(lambda: list(tmp_path.glob("runs/tiny/pretrain/*/checkpoints/step-*")), output)
            nodes.kill(name)
            words = "waiting for places for the workers: 1 worker of 1 CPU; free places: 0"
            wait_for(lambda: words in output.read_text(), output)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 130, output.read_text()
        finally:
            process.kill()
            process.wait()


def wait_for(is_so: Callable[[], object], output: Path, limit_s: float = 150) -> None:
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.2)
