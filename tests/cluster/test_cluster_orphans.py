"""A cluster without a dashboard, after commands and controllers that were killed."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from raymodel.testing.nodes import Nodes, left_in
from raymodel.testing.tiny import tiny_job, write_tiny_corpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
REPOSITORY = Path(__file__).parents[2]
NOTHING = {"actors": [], "groups": [], "free_cpus": 1}


def test_nothing_of_a_killed_command_or_controller_stays_in_the_cluster(tmp_path: Path) -> None:
    write_tiny_corpus(tmp_path / "corpus")
    job = tiny_job(tmp_path, duration="5000 steps", checkpoint={"every": "10 steps"})
    job |= {"cluster": {"workers": 1}, "storage": str(tmp_path / "runs")}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))

    def written() -> int:
        records = tmp_path.glob(f"runs/{job['name']}/pretrain/*/metrics.jsonl")
        return sum(path.stat().st_size for path in records)

    with Nodes() as nodes:
        nodes.environment["PYTHONPATH"] = str(REPOSITORY)
        nodes.add()
        for victim in ("controller", "command"):
            before = written()
            process = nodes.raymodel("run", "job.yaml", "--address", nodes.address, cwd=tmp_path)
            try:
                wait_until(written, lambda size, least=before: size > least)
                pid = process.pid if victim == "command" else controller_pid()
                os.kill(pid, signal.SIGKILL)
                process.wait(60)
            finally:
                process.kill()
                output, _ = process.communicate()
            if victim == "controller":
                assert process.returncode == 1, output
                assert "Traceback" not in output
            left = partial(left_in, nodes.address, nodes.environment)
            wait_until(left, lambda left: left == NOTHING)


def controller_pid() -> int:
    """Of this test's training; another of this machine is none of its processes."""
    mine = psutil.Process().children(recursive=True)
    (found,) = [p.pid for p in mine if "ray::TrainController" in "".join(p.cmdline()[:1])]
    return int(found)


def wait_until(look: Callable[[], Any], is_so: Callable[[Any], bool]) -> None:
    deadline = time.monotonic() + 90
    while not is_so(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)
