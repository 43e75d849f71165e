"""How what an engine makes comes to the event loop, and how soon it goes on from there."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from raymodel.serve.post import Pace, post_here

STEP_S = 0.02


def in_a_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_all_that_a_step_makes_wakes_the_loop_once(monkeypatch):
    seen, woken = [], []

    async def go():
        loop, post = asyncio.get_running_loop(), post_here()
        assert post is post_here()
        wake = loop.call_soon_threadsafe
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda c: (woken.append(c), wake(c)))
        for step in range(2):
            in_a_thread(lambda step=step: [post.put(seen.append, (step, n)) for n in range(16)])
            await asyncio.sleep(0)

    asyncio.run(go())
    assert seen == [(step, number) for step in range(2) for number in range(16)]
    assert len(woken) == 2


def test_nothing_is_lost_while_the_loop_takes_what_comes():
    seen = []

    async def go():
        post = post_here()
        threads = [
            threading.Thread(target=lambda: [post.put(seen.append, n) for n in range(5000)])
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        end_s = time.monotonic() + 20
        while len(seen) < 10_000 and time.monotonic() < end_s:
            await asyncio.sleep(0)

    asyncio.run(go())
    assert sorted(seen) == sorted([*range(5000), *range(5000)])


def test_a_loop_that_is_closed_is_told_nothing():
    async def go():
        return post_here()

    post = asyncio.run(go())
    with pytest.raises(RuntimeError, match="closed"):
        post.put(print)


def paced(num_answers, event_s, *, seconds=1.0, pace=None, held=1):
    """A pace after steps that told each answer something, at such costs of an event; with `held`
    steps to an event."""
    now = SimpleNamespace(s=0.0, cpu_s=0.0)
    pace = pace or Pace(lambda: now.s, lambda: now.cpu_s)
    if not hasattr(pace, "now"):
        pace.now = now
    now = pace.now
    for step in range(int(seconds / STEP_S)):
        now.s += STEP_S
        for number in range(num_answers):
            pace.came(number)
            if step % held == 0:
                pace.went()
                now.cpu_s += event_s
    return pace


@pytest.mark.parametrize(
    ("num_answers", "event_s", "least_s", "most_s"),
    [
        (1, 0.01, 0, 0),  # one alone sees each token, whatever it costs
        (2, 0.0002, 0, 0),  # 2 % of the thread
        (4, 0.0002, 0.03, 0.034),  # all 4 each 32 ms are 2.5 % of it
        (64, 0.0002, 0.05, 0.05),  # never for longer
    ],
)
def test_answers_are_held_as_long_as_makes_their_events_a_small_share(
    num_answers, event_s, least_s, most_s
):
    assert least_s <= paced(num_answers, event_s).hold_s <= most_s


def test_what_is_held_stays_so_and_ends_with_the_rush():
    pace = paced(16, 0.0002)
    assert pace.hold_s == 0.05
    paced(16, 0.0002, pace=pace, held=3)  # it now sends a third of the events
    assert pace.hold_s == 0.05
    paced(2, 0.0002, pace=pace)
    assert pace.hold_s == 0
