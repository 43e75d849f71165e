"""A gate before replicas that die, are full, or are not there; the same without Ray as with it."""

import asyncio
import json
import threading
from types import SimpleNamespace

import httpx
import pytest
from asked import check_error, complete, events, leave_early
from engines import WAIT_S, pace, steps_when
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from raymodel.serve import relay
from raymodel.serve.current import Current
from raymodel.serve.deployment import build_gate
from raymodel.serve.follow import Version
from raymodel.serve.gate import Rules
from raymodel.serve.relay import Relay
from raymodel.serve.spec import ServeSpec

COMPLETION = {"model": "tiny", "prompt": "def read", "max_tokens": 40, "temperature": 0}
SLOW = COMPLETION | {"max_tokens": 400}
ONE = Version("one", None, "causal_lm")


class Answer:
    """What a handle gives back, of a generator in this process."""

    def __init__(self, messages):
        self._messages = messages

    def __aiter__(self):
        return self

    async def __anext__(self):
        return await anext(self._messages)

    def cancel(self):
        with_end = asyncio.ensure_future(self._messages.aclose())
        with_end.add_done_callback(lambda task: task.exception())


class Health:
    def __init__(self, told):
        self._told = told

    def __await__(self):
        return self._tell().__await__()

    async def _tell(self):
        if isinstance(self._told, Exception):
            raise self._told
        if self._told is None:
            await asyncio.Event().wait()
        return self._told

    def cancel(self):
        pass


class Replica:
    """A replica that does as it is told."""

    def __init__(self, service):
        self.current = Current(lambda version: service, Version("v1", None, "causal_lm"))
        self.service = service
        self.dies_after = None
        """Messages before it dies; None lives."""
        self.error = ActorDiedError()
        self.is_there = True
        self.num_asked = 0

    def ask(self, scope, body):
        return Answer(self._answer(scope, body))

    async def _answer(self, scope, body):
        self.num_asked += 1
        if not self.is_there:
            await asyncio.Event().wait()
        if self.dies_after == 0:
            raise self.error
        count = 0
        async for messages in self.current.answer(scope, body):
            for message in messages:
                count += not message["type"].startswith("raymodel.")
                yield [message]
                if count == self.dies_after:
                    raise self.error

    def ask_health(self):
        if not self.is_there:
            return Health(None)
        return Health(self.error if self.dies_after == 0 else self.service.health())


@pytest.fixture
def replica(generation):
    return Replica(generation)


@pytest.fixture
def gate(replica):
    spec = ServeSpec(batch=2, queue=2, grace="0s")
    deployed = SimpleNamespace(spec=spec, rules=Rules(), name="tiny", rows=2, model=ONE)
    return build_gate(Relay(replica.ask, replica.ask_health, "tiny", spec.timeout), deployed)


def client_of(gate):
    transport = httpx.ASGITransport(gate, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30)


def ask(gate, *bodies, path="/v1/completions", method="POST"):
    async def run():
        async with client_of(gate) as client:
            calls = [client.request(method, path, json=body) for body in bodies or [None]]
            return await asyncio.gather(*calls)

    return asyncio.run(run())


def test_what_a_replica_answers_goes_through_unchanged(gate, generation):
    [told] = ask(gate, COMPLETION)
    assert told.json()["choices"] == complete(generation, max_tokens=40).json()["choices"]
    [stream] = ask(gate, COMPLETION | {"stream": True})
    chunks = [json.loads(chunk)["choices"][0]["text"] for chunk in events(stream)[:-1]]
    assert "".join(chunks) == told.json()["choices"][0]["text"]
    [bad] = ask(gate, COMPLETION | {"model": "other"})
    check_error(bad, 404, "'other'", param="model")
    [measures] = ask(gate, path="/metrics", method="GET")
    for line in (
        'answers_total{model="tiny",status="200",version="v1"} 2.0',
        'answers_total{model="tiny",status="404",version="v1"} 1.0',
        'answer_seconds_count{model="tiny",version="v1"} 2.0',
    ):
        assert f"\nraymodel_{line}\n" in measures.text
    [health] = ask(gate, path="/health", method="GET")
    assert health.json()["model"] == "tiny"


@pytest.mark.parametrize(
    "error",
    [ActorDiedError(), ActorUnavailableError("gone", None), DeploymentUnavailableError(None)],
)
def test_a_replica_that_dies_before_it_answers_is_503_with_retry_after(gate, replica, error):
    replica.error, replica.dies_after = error, 0
    [response] = ask(gate, COMPLETION)
    check_error(response, 503, "gone", "another is started")
    assert response.json()["error"]["code"] == "starting"
    assert int(response.headers["retry-after"]) >= 5


def test_a_replica_that_dies_in_a_stream_ends_it_with_an_error_event(gate, replica, monkeypatch):
    pace(replica.service, monkeypatch)
    replica.dies_after = 4
    [response] = ask(gate, COMPLETION | {"stream": True})
    assert response.status_code == 200
    *chunks, error, done = events(response)
    assert len(chunks) == 3
    assert json.loads(error)["error"]["code"] == "starting"
    assert done == "[DONE]"


def test_full_replicas_are_503_as_a_full_queue_is(gate, replica):
    replica.error, replica.dies_after = BackPressureError(7, 7), 0
    [response] = ask(gate, COMPLETION)
    check_error(response, 503, "7 requests are waiting", "queue is full")
    assert response.json()["error"]["code"] == "queue_full"
    assert int(response.headers["retry-after"]) >= 1


def test_without_a_replica_requests_are_refused_soon_and_health_says_so(gate, replica, monkeypatch):
    replica.is_there = False
    with monkeypatch.context() as patch:  # one that is there may take longer, on a busy machine
        patch.setattr(relay, "ACCEPT_S", 0.2)
        patch.setattr(relay, "_ACCEPT_WHEN_LOST_S", 0.05)
        for response in ask(gate, *[COMPLETION] * 3):
            check_error(response, 503, "no replica of the model is there")
            assert int(response.headers["retry-after"]) >= 5
        [health] = ask(gate, path="/health", method="GET")
        assert (health.status_code, health.json()["status"]) == (503, "starting")
        assert ask(gate, path="/livez", method="GET")[0].status_code == 200
        assert ask(gate, path="/readyz", method="GET")[0].status_code == 503
    replica.is_there = True
    assert ask(gate, COMPLETION)[0].status_code == 200
    assert ask(gate, path="/readyz", method="GET")[0].json() == {"status": "ok"}


def test_health_says_at_once_that_the_replica_died(gate, replica):
    replica.dies_after = 0
    [health] = ask(gate, path="/health", method="GET")
    assert (health.status_code, health.json()["status"]) == (503, "starting")


def test_a_replica_that_hangs_is_504_before_ray_serve_gives_up(replica, monkeypatch):
    monkeypatch.setattr(relay, "_HANGS_AFTER_S", 0.05)

    async def hang(scope, receive, send):
        await asyncio.Event().wait()

    replica.current._loaded.app = hang
    spec = ServeSpec(timeout="50ms")
    deployed = SimpleNamespace(spec=spec, rules=Rules(), name="tiny", rows=2, model=ONE)
    gate = build_gate(Relay(replica.ask, replica.ask_health, "tiny", spec.timeout), deployed)
    check_error(ask(gate, COMPLETION)[0], 504, "0.05 s")


def test_what_nobody_foresaw_is_500_of_the_same_kind(gate, replica):
    replica.error, replica.dies_after = KeyError("x"), 0
    check_error(ask(gate, COMPLETION)[0], 500, "KeyError", "log")


def test_the_gate_refuses_what_would_only_pile_up(gate, replica, monkeypatch):
    """In the words of a full queue; and asks the replica nothing for it."""
    responses = ask(gate, *[SLOW | {"max_tokens": 100}] * 60)
    statuses = [response.status_code for response in responses]
    assert set(statuses) == {200, 503}
    assert replica.num_asked <= 2 + 2 + 16
    for response in responses:
        if response.status_code == 503:
            assert response.json()["error"]["code"] == "queue_full"
            assert int(response.headers["retry-after"]) >= 1


def test_a_client_that_leaves_frees_its_slot_behind_the_gate(gate, generation):
    leave_early(gate, SLOW, generation)
    assert generation.engine.num_generated < 400


# ---- the end of a server -------------------------------------------------------------------------


async def drained(gate, grace_s):
    async with asyncio.timeout(WAIT_S):
        while not gate.drain(grace_s):
            await asyncio.sleep(0.01)


def run_and_drain(gate, generation, bodies, grace_s):
    """The responses to requests that are under way when the server is told to end."""

    engine, is_told = generation.engine, threading.Event()

    def may_step():
        """Neither of the two that run is through before the other has begun, and all is ready."""
        if is_told.is_set():
            return True
        return engine.num_waiting if engine.num_active < 2 else engine.num_generated < 16

    async def run():
        async with client_of(gate) as client:
            calls = []
            for body in bodies:  # the first two are those that run
                calls.append(asyncio.ensure_future(client.post("/v1/completions", json=body)))
                while engine.num_active < min(len(calls), 2):
                    await asyncio.sleep(0.002)
            while (
                len(passages := gate._flow._passages) < len(bodies)
                or sum(passage.begun_s is not None for passage in passages) < 2
                or engine.num_generated < 16
            ):
                await asyncio.sleep(0.002)
            gate.drain(grace_s)
            is_told.set()
            late = [
                await client.post("/v1/completions", json=COMPLETION),
                await client.get("/health"),
                await client.get("/livez"),
            ]
            await drained(gate, grace_s)
            return await asyncio.gather(*calls), late

    with steps_when(generation.engine, may_step):
        return asyncio.run(run())


def test_who_is_under_way_may_end_and_nobody_else_is_let_in(gate, generation):
    bodies = [SLOW, SLOW | {"stream": True}]
    (whole, stream), (late, health, alive) = run_and_drain(gate, generation, bodies, WAIT_S)
    assert whole.json()["usage"]["completion_tokens"] == 400
    assert events(stream)[-1] == "[DONE]"
    assert json.loads(events(stream)[-2])["choices"][0]["finish_reason"] == "length"
    check_error(late, 503, "going down")
    assert (late.headers["connection"], int(late.headers["retry-after"]) >= 5) == ("close", True)
    assert (health.status_code, health.json()) == (503, {"status": "draining"})
    assert alive.status_code == 200


def test_after_the_grace_each_stream_ends_with_an_error_event(gate, generation):
    bodies = [SLOW | {"stream": True}, SLOW]
    (stream, whole), _ = run_and_drain(gate, generation, bodies, 0.0)
    *chunks, error, done = events(stream)
    assert chunks
    assert json.loads(error)["error"]["code"] == "draining"
    assert done == "[DONE]"
    check_error(whole, 503, "going down")
    assert "retry-after" in whole.headers

    async def wait():
        while generation.engine.num_active:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(wait(), WAIT_S))


def test_who_waits_is_refused_at_once_and_not_after_the_grace(gate, generation):
    bodies = [SLOW, SLOW, COMPLETION, COMPLETION | {"stream": True}]
    responses, _ = run_and_drain(gate, generation, bodies, WAIT_S)
    assert [response.status_code for response in responses] == [200, 200, 503, 503]
    for response in responses[2:]:
        check_error(response, 503, "going down")
    assert generation.engine.num_generated == 800  # nothing was begun for those
