"""A whole job over three nodes through the job API, one of which is lost on the way."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from journeys import tiny_job  # type: ignore[import-not-found]

from raymodel.testing.nodes import Nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
STEPS = 400
SWEEP = {
    "trials": 2,
    "concurrent": 1,
    "search": {"optimizer.learning_rate": {"choice": [0.003, 0.01]}},
}


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with Nodes(dashboard=True) as nodes:
        yield nodes


def write(folder: Path, job: dict[str, Any]) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def finish(process: Any, limit_s: float = 900) -> str:
    output, _ = process.communicate(timeout=limit_s)
    assert process.returncode == 0, output
    return str(output)


def ask(port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return dict(json.load(response))


def test_a_job_crosses_three_nodes_and_the_loss_of_one(
    nodes: Nodes, corpus: Path, tmp_path: Path
) -> None:
    # A worker needs two CPUs, which only the nodes that join later have.
    job = tiny_job(corpus) | {
        "storage": str(tmp_path / "runs"),
        "cluster": {"workers": {"min": 1, "max": 2}, "cpus_per_worker": 2, "threads_per_worker": 1},
    }
    job["pretrain"] |= {
        "duration": f"{STEPS} steps",
        "log_every": "1 step",
        "checkpoint": {"every": "10 steps"},
    }
    job["finetune"] |= {"sweep": SWEEP}
    run = tmp_path / "runs" / "tiny"

    nodes.add(num_cpus=1)
    file = write(tmp_path, {name: job[name] for name in ("name", "seed", "storage", "prepare")})
    assert "reading 40 files" in finish(nodes.submit(file))

    trainers = [nodes.add(num_cpus=2), nodes.add(num_cpus=2)]
    file = write(tmp_path, job)
    submitted = nodes.submit(file)
    wait_for_step(run, 30, submitted)
    assert attempts(run)[-1]["workers"] == 2
    nodes.kill(trainers[0])
    nodes.add(num_cpus=2)
    output = finish(submitted)
    assert "prepare   complete, skipped" in output
    assert "died or was cut off" in output
    assert "trial 2/2" in output

    steps = [record["step"] for record in records(run, "metrics") if "loss" in record]
    assert steps == list(range(1, STEPS + 1)), "each step once, whatever was lost"
    assert len(attempts(run)) >= 2
    measured = json.loads(next(run.glob("evaluate/*/report/metrics.json")).read_text())
    assert measured["gates"][0]["passed"]

    # The app stays up when the job has ended.
    port = job["serve"]["port"]
    answer = ask(port, "/v1/completions", {"model": "tiny", "prompt": "def f", "max_tokens": 4})
    assert answer["usage"]["completion_tokens"] == 4


def records(run: Path, name: str) -> list[dict[str, Any]]:
    files = list(run.glob(f"pretrain/*/{name}.jsonl"))
    lines = files[0].read_text().splitlines(keepends=True) if files else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def attempts(run: Path) -> list[dict[str, Any]]:
    return [event for event in records(run, "events") if event["event"] == "attempt"]


def wait_for_step(run: Path, step: int, process: Any, limit_s: float = 300) -> None:
    deadline = time.monotonic() + limit_s
    while max((record["step"] for record in records(run, "metrics")), default=0) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"step {step} did not come"
        time.sleep(0.1)
