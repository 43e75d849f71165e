"""A seeded schedule of faults against a job on several nodes: it ends as if nothing had been.

`RAYMODEL_CHAOS_FAULTS=50 pytest -m slow tests/chaos/test_chaos_schedule.py` runs a long one;
`RAYMODEL_CHAOS_SEED` chooses another.
"""

import hashlib
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Command
from schedule import KINDS, draw_schedule

from raymodel.testing.nodes import Nodes
from raymodel.testing.tiny import TINY_BATCH, write_tiny_corpus
from raymodel.train.work import read_ledger

FAULTS = int(os.environ.get("RAYMODEL_CHAOS_FAULTS", len(KINDS)))
SEED = int(os.environ.get("RAYMODEL_CHAOS_SEED", "1"))
STEPS_BETWEEN = 100  # three seconds of training
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 + 120 * FAULTS)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes() as nodes:
        for _ in range(3):  # one to spare
            nodes.add()
        yield nodes


def test_no_fault_changes_what_comes_out(tmp_path: Path, nodes: Nodes) -> None:
    write_tiny_corpus(tmp_path / "corpus")
    steps = (FAULTS + 5) * STEPS_BETWEEN
    whole, broken = (
        Command(
            tmp_path,
            name,
            nodes,
            {"workers": 2},
            duration=f"{steps} steps",
            checkpoint={"every": "10 steps"},
            fault={"retries": 4 * FAULTS + 1, "hang_after": "60s"},
        )
        for name in ("whole", "broken")
    )
    whole.start()
    whole.check_done()

    broken.start()
    try:
        draw = random.Random(SEED)
        for number, (step, fault) in enumerate(draw_schedule(draw, FAULTS, STEPS_BETWEEN)):
            broken.wait_for_step(step)
            print(f"{time.strftime('%X')} {number + 1}/{FAULTS} {fault.__name__}", flush=True)
            fault(broken, draw)
        broken.check_done()
    finally:
        broken.kill()

    # Two workers before and after every fault: the same layout, hence the same bits.
    assert broken.losses() == whole.losses()
    assert [step for step, _ in broken.losses()] == list(range(1, steps + 1))
    ends = [command.records("metrics")[-1] for command in (broken, whole)]
    assert ends[0]["data_digest"] == ends[1]["data_digest"]
    assert ends[0]["rows"] == ends[1]["rows"] == steps * TINY_BATCH
    assert _weights(broken) == _weights(whole)
    assert not list(broken.run.local_path.rglob(".part-*"))
    books = read_ledger(broken.run).books()
    print(json.dumps({"faults": FAULTS, "goodput": books.goodput, "seconds": books.seconds}))


def _weights(command: Command) -> str:
    file = command.run.local_path / "model/model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()
