"""When a refused client is told to come again."""

import asyncio

import pytest
from asked import client_of

from raymodel.serve import flow as flow_module
from raymodel.serve.flow import Flow
from raymodel.serve.refusal import Refusal


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now_s = 100.0

        def monotonic(self):
            return self.now_s

    clock = Clock()
    monkeypatch.setattr(flow_module, "time", clock)
    return clock


def answer(flow, clock, took_s):
    passage = flow.enter()
    passage.begin()
    clock.now_s += took_s
    flow.leave(passage, is_answered=True)


def test_the_wait_is_the_rounds_of_the_queue_times_what_answers_took(clock):
    flow = Flow(slots=4, room=100)
    assert flow.retry_after_s() == 1
    answer(flow, clock, 10)
    for _ in range(9):
        flow.enter()
    assert flow.num_waiting == 9
    assert flow.retry_after_s() == 23  # 9 / 4 rounds of 10 s each


def test_answers_that_take_longer_than_ever_count_before_they_end(clock):
    flow = Flow(slots=1, room=100)
    running = flow.enter()
    running.begin()
    clock.now_s += 30
    flow.enter()
    flow.enter()
    assert (flow.num_running, flow.num_waiting) == (1, 2)
    assert flow.retry_after_s() == 60


def test_what_was_refused_or_never_begun_tells_nothing_of_the_time(clock):
    flow = Flow(slots=1, room=100)
    answer(flow, clock, 2)
    quick = flow.enter()
    flow.leave(quick, is_answered=True)
    failed = flow.enter()
    failed.begin()
    clock.now_s += 1000
    flow.leave(failed, is_answered=False)
    assert flow.retry_after_s() == 2


def test_who_finds_no_room_is_told_when_to_come(clock):
    flow = Flow(slots=1, room=2)
    answer(flow, clock, 7)
    flow.enter()
    flow.enter()
    with pytest.raises(Refusal) as refused:
        flow.enter()
    assert refused.value.headers() == {"Retry-After": "14"}


def test_a_full_engine_is_told_by_the_gates_measure(generation):
    """The engine's own guess is of the mean of all answers that it ever gave."""
    body = {"model": "tiny", "prompt": "x", "max_tokens": 400, "temperature": 0}

    async def run():
        async with client_of(generation) as client:
            flow = client._transport.app._flow
            answer_s = 40.0
            passage = flow.enter()
            passage.begin()
            passage.begun_s -= answer_s
            flow.leave(passage, is_answered=True)
            posts = [client.post("/v1/completions", json=body) for _ in range(8)]
            return await asyncio.gather(*posts)

    refused = [each for each in asyncio.run(run()) if each.status_code == 503]
    assert refused
    for response in refused:
        assert int(response.headers["retry-after"]) >= 40
        assert response.json()["error"]["code"] == "queue_full"
