"""Slow paths are noted once, told in the closing lines, and refused where the tests run."""

import logging
import pickle

import pytest

from raymodel.errors import SlowPathError
from raymodel.observe.slow_paths import (
    SlowPath,
    as_content,
    from_events,
    slow_path_lines,
    slow_paths,
    take_slow_path,
)

WHAT, WHY = "answers one request at a time", "its forward takes no logits_to_keep"


def test_the_tests_refuse_what_a_library_makes_slow() -> None:
    with pytest.raises(SlowPathError, match="RAYMODEL_SLOW_PATHS is refuse") as caught:
        take_slow_path(WHAT, WHY)
    assert WHY in str(pickle.loads(pickle.dumps(caught.value)))
    assert slow_paths() == []


def test_what_a_machine_lacks_is_told_and_never_refused() -> None:
    take_slow_path("computes on the CPU", "torch finds no GPU", inherent=True)
    assert slow_paths() == [SlowPath("computes on the CPU", "torch finds no GPU")]


@pytest.mark.usefixtures("slow_paths_are_taken")
def test_a_slow_path_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            take_slow_path(WHAT, WHY)
    assert caplog.text.count(WHAT) == 1
    assert as_content(slow_paths() * 2) == [{"what": WHAT, "why": WHY}]


def test_the_closing_lines_name_stage_path_and_reason() -> None:
    told = {
        "prepare": {"rows": 3},
        "pretrain": {"slow_paths": []},
        "serve": {"slow_paths": [{"what": WHAT, "why": WHY}]},
    }
    assert slow_path_lines(told) == [f"slow: serve {WHAT}: {WHY}"]


def test_the_workers_tell_through_their_events() -> None:
    events = [
        {"event": "attempt", "attempt": 1},
        {"event": "slow_path", "what": WHAT, "why": WHY, "level": "warning", "message": "slow: …"},
    ]
    assert from_events(events) == [SlowPath(WHAT, WHY)]
