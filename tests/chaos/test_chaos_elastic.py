"""An elastic run on nodes that come and go: it grows, shrinks, and reads the same rows."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Command

from raymodel.testing.nodes import Nodes
from raymodel.testing.tiny import write_tiny_corpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 5000  # Ray looks for new nodes once a minute


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with Nodes() as nodes:
        nodes.add()
        yield nodes


def test_a_run_grows_onto_a_new_node_and_survives_its_loss(tmp_path: Path, nodes: Nodes) -> None:
    write_tiny_corpus(tmp_path / "corpus")
    ours, fixed = (
        Command(
            tmp_path,
            name,
            nodes,
            {"workers": workers},
            duration=f"{STEPS} steps",
            checkpoint={"every": "10 steps"},
        )
        for name, workers in (("elastic", {"min": 1, "max": 2}), ("fixed", 1))
    )
    fixed.start()
    fixed.check_done()

    ours.start()
    try:
        ours.wait_for_step(20)
        added = nodes.add()
        _wait_for_workers(ours, 2)
        ours.wait_for_step(_last_attempt(ours)["step"] + 20)
        nodes.kill(added)
        _wait_for_workers(ours, 1)
        ours.check_done()
    finally:
        ours.kill()

    assert [step for step, _ in ours.losses()] == list(range(1, STEPS + 1))
    ends = [command.records("metrics")[-1] for command in (ours, fixed)]
    assert ends[0]["data_digest"] == ends[1]["data_digest"]
    # Two workers sum a gradient in another order than one; bf16 keeps eight bits of it.
    for (_, our_loss), (_, fixed_loss) in zip(ours.losses()[:60], fixed.losses()[:60], strict=True):
        assert our_loss == pytest.approx(fixed_loss, abs=2e-2)


def _last_attempt(command: Command) -> dict[str, int]:
    attempts = [event for event in command.records("events") if event["event"] == "attempt"]
    return attempts[-1] if attempts else {"workers": 0, "step": 0}


def _wait_for_workers(command: Command, count: int) -> None:
    """Until an attempt with so many workers has begun; the run must not end before."""
    while _last_attempt(command)["workers"] != count:
        command.wait_for_step(command.last_step() + 1)
