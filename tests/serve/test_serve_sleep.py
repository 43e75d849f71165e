"""`serve.replicas.min: 0`: who wakes a model, who does not, and what is said meanwhile."""

import asyncio
import threading
import time
from types import SimpleNamespace

import httpx
import pytest
from asked import check_error
from local_ray import local_ray
from ray.serve._private.common import ReplicaState

from raymodel.cluster.served import _state
from raymodel.cluster.spec import ClusterSpec
from raymodel.observe.story import Story
from raymodel.serve import deployment
from raymodel.serve.deployment import build_gate
from raymodel.serve.follow import Version
from raymodel.serve.gate import Rules
from raymodel.serve.relay import Relay, Replicas, Sleep
from raymodel.serve.spec import ReplicasSpec, ServeSpec
from raymodel.storage.uri import Location
from raymodel.testing.distributed import free_port

PATHS = ("/health", "/readyz", "/livez", "/metrics")


class Sleeper:
    """A model whose replica comes when it is asked, and goes when it is told to."""

    def __init__(self, wakes_after_s=0.05):
        self.replicas, self.wakes_after_s = Replicas(1, 0), wakes_after_s
        self.asked, self.num_health = [], 0

    async def count(self):
        return self.replicas

    def ask(self, scope, body):
        self.asked.append(scope["path"])
        return _Answer(self._answer())

    async def _answer(self):
        if not self.replicas.running:
            self.replicas = Replicas(0, 1)
            await asyncio.sleep(self.wakes_after_s)
            self.replicas = Replicas(1, 0)
        yield []
        head = {"type": "http.response.start", "status": 200, "headers": []}
        yield [head, {"type": "http.response.body", "body": b"hello"}]

    def ask_health(self):
        self.num_health += 1

        async def tell():
            return {"status": "ok", "kind": "generation", "num": self.num_health}

        return asyncio.ensure_future(tell())


class _Answer:
    def __init__(self, messages):
        self._messages = messages

    def __aiter__(self):
        return self

    def __anext__(self):
        return anext(self._messages)

    def cancel(self):
        pass


@pytest.fixture
def sleeper():
    return Sleeper()


def gate_of(sleeper, wake_s=5.0):
    spec = ServeSpec(replicas=ReplicasSpec(min=0))
    relay = Relay(sleeper.ask, sleeper.ask_health, "tiny", 5.0, Sleep(sleeper.count, wake_s))
    model = Version("one", None, "causal_lm")
    deployed = SimpleNamespace(spec=spec, rules=Rules(), name="tiny", rows=8, model=model)
    return build_gate(relay, deployed)


def run(gate, *paths):
    async def ask():
        transport = httpx.ASGITransport(gate, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            return [
                await (client.get(path) if path in PATHS else client.post(path, json={}))
                for path in paths
            ]

    return asyncio.run(ask())


def test_questions_about_a_model_that_sleeps_are_answered_without_it(sleeper):
    gate = gate_of(sleeper)
    run(gate, "/health")
    sleeper.replicas = Replicas(0, 0)
    health, ready, live, metrics = run(gate, *PATHS)
    assert health.status_code == 200
    assert health.json() == {"status": "asleep", "kind": "generation", "num": 1}
    assert (ready.status_code, ready.json()) == (200, {"status": "asleep"})
    assert (live.status_code, metrics.status_code) == (200, 200)
    assert (sleeper.asked, sleeper.num_health) == ([], 1)


def test_questions_keep_no_model_awake_that_nobody_uses(sleeper):
    gate = gate_of(sleeper)
    run(gate, *["/health"] * 5)
    assert sleeper.num_health == 1
    run(gate, "/v1/completions", *["/health"] * 5)
    assert sleeper.num_health == 2  # somebody used it: what it tells may have changed


def test_the_first_request_waits_for_the_model_and_is_answered(sleeper):
    sleeper.replicas = Replicas(0, 0)
    gate = gate_of(sleeper)
    assert run(gate, "/health")[0].json() == {"status": "asleep", "model": "tiny"}
    answer, health = run(gate, "/v1/completions", "/health")
    assert (answer.status_code, answer.text) == (200, "hello")
    assert health.json()["status"] == "ok"


def test_a_model_that_does_not_wake_in_time_is_503_with_the_field(sleeper):
    sleeper.replicas, sleeper.wakes_after_s = Replicas(0, 0), 60.0
    [answer] = run(gate_of(sleeper, wake_s=0.1), "/v1/completions")
    check_error(answer, 503, "0.1 s", "serve.replicas.wake")
    assert int(answer.headers["retry-after"]) >= 5
    [health] = run(gate_of(sleeper), "/health")
    assert (health.status_code, health.json()["status"]) == (503, "starting")


def test_a_controller_that_does_not_answer_is_told_as_starting(sleeper, monkeypatch):
    monkeypatch.setattr("raymodel.serve.relay._HEALTH_S", 0.05)

    async def never():
        await asyncio.Event().wait()

    sleeper.count = never
    [health] = run(gate_of(sleeper), "/health")
    assert (health.status_code, health.json()["status"]) == (503, "starting")


@pytest.mark.parametrize("state", [str, ReplicaState])
def test_replicas_are_counted_by_the_state_that_the_controller_tells(monkeypatch, state):
    model = SimpleNamespace(replica_states={state("RUNNING"): 2, state("STARTING"): 1})
    apps = {"app": SimpleNamespace(deployments={"model": model})}
    serve = SimpleNamespace(
        get_replica_context=lambda: SimpleNamespace(app_name="app"),
        status=lambda: SimpleNamespace(applications=apps),
    )
    monkeypatch.setattr(deployment, "serve", serve)
    assert asyncio.run(deployment._count()) == (2, 1)
    model.replica_states = {}
    assert asyncio.run(deployment._count()) == (0, 0)
    apps.clear()  # the controller has only begun with it
    assert asyncio.run(deployment._count()) == (0, 1)


def test_status_says_asleep_of_a_model_that_nobody_needs():
    model = {"target_num_replicas": 0, "replicas": []}
    app = {"status": "RUNNING", "deployments": {"model": model, "gate": {"replicas": [{}]}}}
    assert _state(app) == "asleep"
    assert _state({**app, "deployments": {"model": model | {"target_num_replicas": 1}}}) == (
        "running"
    )
    assert _state({**app, "status": "DEPLOYING"}) == "deploying"


def test_what_sleeps_has_the_identity_that_it_had_before_there_were_its_fields():
    spec = ReplicasSpec(min=0, max=2, idle="1h", wake="5min")
    assert spec.identity() == {"min": 0, "max": 2}
    with pytest.raises(ValueError, match="min must not exceed max"):
        ReplicasSpec(min=2)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_model_goes_to_sleep_and_wakes_on_ray(llama, tokenizer, tmp_path):
    from raymodel.serve.run import run_serve

    llama.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    spec = ServeSpec(
        port=free_port(), max_tokens=8, replicas=ReplicasSpec(min=0, idle="1s", wake="2min")
    )
    given = {"job_name": "sleepy", "cluster": ClusterSpec(), "story": Story()}
    with (
        local_ray(4),
        run_serve(spec, Location.parse(str(tmp_path)), **given) as served,
    ):
        assert served.health()["status"] == "ok"
        deadline_s = time.monotonic() + 150
        while (told := served.health())["status"] != "asleep":
            assert time.monotonic() < deadline_s, told
            time.sleep(1)
        assert told["kind"] == "generation"
        for _ in range(20):  # nobody is woken
            assert served.health()["status"] == "asleep"
            time.sleep(0.25)
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(served.ask({"prompt": "def read"})))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(150)
        assert len(answers) == 3
        assert len(set(answers)) == 1
        assert served.health()["status"] == "ok"
