"""Who is let in by the wait that is before it, and when others are told to come again."""

import asyncio
import random
from collections import deque
from contextlib import suppress
from functools import partial

import pytest
from asked import client_of, post_many

from raymodel.serve import flow as flow_module
from raymodel.serve.capacity import longest_wait_s
from raymodel.serve.flow import Flow
from raymodel.serve.refusal import Refusal
from raymodel.serve.spec import ServeSpec


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


def wait(flow):
    passage = flow.enter()
    passage.arrive()
    return passage


def run(flow):
    passage = wait(flow)
    passage.begin()
    return passage


def test_an_answer_takes_as_long_as_it_did_however_late_its_notices_come(clock):
    flow = Flow(rows=1, room=100)
    passage = flow.enter()
    clock.now_s += 3
    passage.begin(2.0)  # with the answer
    assert (passage.taken_s, passage.begun_s) == (101, 101)
    flow.leave(passage, is_answered=True)
    run(flow)
    assert flow.expected_wait_s == 2


def test_the_wait_is_the_rounds_of_the_queue_times_what_answers_took(clock):
    flow = Flow(rows=4, room=100)
    assert flow.retry_after_s() == 1
    answer(flow, clock, 10)
    for _ in range(4):
        assert flow.expected_wait_s == 0  # a place is free
        run(flow)
    assert flow.expected_wait_s == 2.5  # one of four is free again in a quarter of an answer
    for _ in range(9):
        wait(flow)
    assert (flow.num_running, flow.num_waiting) == (4, 9)
    assert flow.expected_wait_s == 25
    assert flow.retry_after_s() == 25


def test_what_is_on_its_way_to_a_free_place_does_not_wait(clock):
    flow = Flow(rows=4, room=100, longest_wait_s=lambda answer_s: 0)
    answer(flow, clock, 10)
    for _ in range(4):
        wait(flow)
    with pytest.raises(Refusal):
        wait(flow)


def test_answers_that_take_longer_than_ever_count_before_they_end(clock):
    flow = Flow(rows=1, room=100)
    run(flow)
    clock.now_s += 30
    wait(flow)
    assert flow.retry_after_s() == 60  # it, and the one that runs


def test_what_was_refused_or_never_begun_tells_nothing_of_the_time(clock):
    flow = Flow(rows=1, room=100)
    answer(flow, clock, 2)
    quick = flow.enter()
    flow.leave(quick, is_answered=True)
    failed = run(flow)
    clock.now_s += 1000
    flow.leave(failed, is_answered=False)
    run(flow)
    assert flow.expected_wait_s == 2


def test_who_finds_no_room_is_told_when_to_come(clock):
    flow = Flow(rows=1, room=2)
    answer(flow, clock, 7)
    run(flow)
    wait(flow)
    with pytest.raises(Refusal) as refused:
        flow.enter()
    assert refused.value.headers() == {"Retry-After": "14"}


def test_who_would_wait_for_too_long_is_told_how_long(clock):
    flow = Flow(rows=2, room=100, longest_wait_s=lambda answer_s: 1.5 * answer_s)
    answer(flow, clock, 8)
    for _ in range(2):
        run(flow)
    for _ in range(3):
        wait(flow)
    with pytest.raises(Refusal) as refused:
        flow.enter()
    assert refused.value.headers() == {"Retry-After": "16"}
    assert "waits about 16.0 s for a place, and 12.0 s is the longest" in refused.value.message
    assert refused.value.code == "queue_full"


def test_before_anything_was_answered_the_number_alone_decides(clock):
    flow = Flow(rows=1, room=5, longest_wait_s=lambda answer_s: answer_s / 2)
    for _ in range(5):
        wait(flow)
    with pytest.raises(Refusal, match="queue is full"):
        wait(flow)


def test_a_wait_that_is_seen_counts_where_fewer_run_than_there_are_places(clock):
    """As memory has no room for more of their length."""
    flow = Flow(rows=8, room=100, longest_wait_s=lambda answer_s: 4)
    first, second, third = run(flow), wait(flow), wait(flow)
    clock.now_s += 6
    wait(flow)  # one long wait may have had another reason
    flow.leave(first, is_answered=True)
    second.begin()
    with pytest.raises(Refusal, match=r"waits about 6\.0 s"):
        wait(flow)
    third.begin()
    wait(flow)  # those that wait now do not do so for long


def test_a_slow_body_is_no_wait(clock):
    flow = Flow(rows=8, room=100, longest_wait_s=lambda answer_s: 4)
    flow.enter()
    late = wait(flow)
    clock.now_s += 6
    late.begin()
    wait(flow)


def test_a_replica_says_how_many_it_answers_at_once(clock):
    flow = Flow(rows=8, room=100, replicas=2)
    passage = run(flow)
    passage.answer("one", 1)
    clock.now_s += 10
    flow.leave(passage, is_answered=True)
    for _ in range(2):
        run(flow)
    assert flow.expected_wait_s == 5
    run(flow)  # of a third replica, as it runs
    assert flow.expected_wait_s == pytest.approx(10 / 3)


@pytest.mark.parametrize(
    ("task", "max_wait", "answer_s", "expected_s"),
    [
        ("causal_lm", None, 10, 5),
        ("text_classification", None, 10, 10),
        ("causal_lm", None, 0.1, 0.5),
        ("text_classification", "3s", 10, 3),
    ],
)
def test_the_longest_wait_follows_from_what_answers_take(task, max_wait, answer_s, expected_s):
    assert longest_wait_s(ServeSpec(max_wait=max_wait), task, answer_s) == expected_s


# ---- at twice what a model can do ----------------------------------------------------------------

ROWS, ANSWER_S = 16, 4.0


def overload(clock, task, max_wait=None):
    """Times from request to answer of those that are let in, at twice what the model can do, and
    the share of what it can do that it did. A model of streams has a place as soon as one answer
    ends, any other when its pass does."""
    is_stream = task == "causal_lm"
    limit = partial(longest_wait_s, ServeSpec(max_wait=max_wait), task)
    flow = Flow(ROWS, ROWS + 64, longest_wait_s=limit)
    draw, start_s = random.Random(0), clock.now_s
    waiting, running, took_s = deque(), {}, []
    next_s = start_s
    while clock.now_s < start_s + 200 * ANSWER_S:
        clock.now_s = min([next_s, *running.values()])
        for passage in [p for p, end_s in running.items() if end_s <= clock.now_s]:
            del running[passage]
            flow.leave(passage, is_answered=True)
            took_s.append(clock.now_s - passage.entered_s)
        if clock.now_s == next_s:
            next_s += draw.expovariate(2 * ROWS / ANSWER_S)
            with suppress(Refusal):
                waiting.append(wait(flow))
        free = ROWS - len(running) if is_stream or not running else 0
        for passage in [waiting.popleft() for _ in range(min(free, len(waiting)))]:
            passage.begin()
            spread = draw.uniform(0.5, 1.5) if is_stream else 1
            running[passage] = clock.now_s + spread * ANSWER_S
    return took_s, len(took_s) / (200 * ROWS)


@pytest.mark.parametrize("task", ["causal_lm", "text_classification"])
def test_at_twice_what_a_model_can_do_it_is_busy_and_answers_in_time(task, clock):
    unbounded_s, _ = overload(clock, task, "1h")
    took_s, done = overload(clock, task)
    assert done > 0.97
    assert max(took_s) < 3 * ANSWER_S  # of an answer with all places taken
    assert max(unbounded_s) > 4 * ANSWER_S


def test_a_full_engine_is_told_by_the_gates_measure(generation):
    """The engine's own guess is of the mean of all answers that it ever gave."""
    generation.spec = generation.spec.model_copy(update={"max_wait": 3600})
    body = {"model": "tiny", "prompt": "x", "max_tokens": 400, "temperature": 0}

    async def run():
        async with client_of(generation) as client:
            flow = client._transport.app._flow
            answer_s = 40.0
            passage = flow.enter()
            passage.begin()
            passage.taken_s -= answer_s
            flow.leave(passage, is_answered=True)
            return await post_many(client, generation, body, 8)

    refused = [each for each in asyncio.run(run()) if each.status_code == 503]
    assert refused
    for response in refused:
        assert int(response.headers["retry-after"]) >= 40
        assert response.json()["error"]["code"] == "queue_full"


@pytest.mark.parametrize(
    ("service", "path", "body"),
    [
        ("generation", "/v1/completions", {"prompt": "x", "max_tokens": 100, "temperature": 0}),
        ("classification", "/predict", {"inputs": [{"text": "x"}]}),
    ],
)
def test_every_server_refuses_whom_it_would_have_wait(service, path, body, request):
    service = request.getfixturevalue(service)
    service.spec = service.spec.model_copy(update={"max_wait": 0.001, "queue": 64})
    body = {"model": "tiny", **body}

    async def run():
        async with client_of(service) as client:
            first = await client.post(path, json=body)
            several = await asyncio.gather(*(client.post(path, json=body) for _ in range(9)))
            return first, several, await client.post(path, json=body)

    first, several, last = asyncio.run(run())
    assert (first.status_code, last.status_code) == (200, 200)
    assert sorted(each.status_code for each in several) == [200] * 2 + [503] * 7
    for refused in several:
        if refused.status_code == 503:
            assert refused.headers["retry-after"] == "1"
            assert "serve.max_wait" in refused.json()["error"]["message"]
