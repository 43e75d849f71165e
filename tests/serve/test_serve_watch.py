"""`serve.watch: best`: who changes when, and that nobody who asks meanwhile notices."""

import asyncio
import json
import os
import signal
import threading
import time

import httpx
import pytest
from engines import steps_when
from local_ray import local_ray
from promoted import promote
from replicas import replica_pid

from raymodel.cluster.spec import ClusterSpec
from raymodel.errors import ArtifactError
from raymodel.observe.story import Story
from raymodel.serve.canary import Outcome, Outcomes, is_worse
from raymodel.serve.current import CanaryError, Current, Follower
from raymodel.serve.follow import Told, Version, Watcher, find_followed
from raymodel.serve.spec import CanarySpec, ServeSpec
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location
from raymodel.testing.distributed import free_port
from raymodel.testing.tiny import build_tiny_llama, round_weights


@pytest.fixture
def run(tmp_path):
    return Run(Location.parse(str(tmp_path / "runs" / "tiny")))


# ---- what is followed ----------------------------------------------------------------------------


def test_a_job_follows_its_own_best_or_that_of_the_run_that_it_names(run):
    storage = run.location.parent
    assert find_followed(ServeSpec(), storage, "tiny") is None
    assert find_followed(ServeSpec(watch="best"), storage, "tiny") == run
    assert find_followed(ServeSpec(watch="best", model="tiny/best"), storage, "other") == run
    with pytest.raises(ValueError, match="RUN/best"):
        ServeSpec(watch="best", model="tiny/pretrain")


# ---- who changes when ----------------------------------------------------------------------------


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def test_replicas_change_one_after_the_other_once_the_first_has_loaded(run, clock):
    old = promote(run, 1)
    watcher = Watcher(run, old, clock)
    watcher.look()
    assert watcher.tell("a", old) == watcher.tell("b", old) == Told(None, None)
    new = promote(run, 2)
    watcher.look()
    assert watcher.tell("a", old).load == new
    assert watcher.tell("b", old).load is None
    assert watcher.good == old  # what starts now takes what is known to load
    watcher.note("a", new, None)
    assert watcher.good == new
    assert watcher.tell("a", new).load is None
    assert watcher.tell("b", old).load == new


def test_a_model_that_does_not_load_is_tried_once_and_told(run, clock, caplog):
    old = promote(run, 1)
    watcher = Watcher(run, old, clock)
    bad = promote(run, 2)
    watcher.look()
    assert watcher.tell("a", old).load == bad
    watcher.note("a", bad, "its weights hold NaN")
    for replica in ("a", "b", "a"):
        watcher.look()
        told = watcher.tell(replica, old)
        assert told.load is None
        assert told.refused == (bad.name, "its weights hold NaN")
    assert watcher.good == old
    assert caplog.text.count("its weights hold NaN") == 1
    newer = promote(run, 3)
    watcher.look()
    assert watcher.tell("b", old) == Told(newer, None, is_first=True)


def test_a_model_for_another_task_or_a_damaged_one_is_told(run, clock):
    old = promote(run, 1)
    watcher = Watcher(run, old, clock)
    promote(run, 2, task="text_classification")
    watcher.look()
    told = watcher.tell("a", old)
    assert told.load is None
    assert "a model for text_classification" in told.refused.error
    damaged = promote(run, 3)
    (damaged.location / "config.json").local_path.unlink()
    watcher.look()
    assert "config.json" in watcher.tell("a", old).refused.error


def test_a_replica_that_dies_while_it_loads_is_no_reason_to_try_the_next_one(run, clock):
    old = promote(run, 1)
    watcher = Watcher(run, old, clock)
    new = promote(run, 2)
    watcher.look()
    assert watcher.tell("a", old).load == new
    clock.now_s = 50.0
    assert watcher.tell("a", old, is_loading=True).load is None
    clock.now_s = 100.0
    assert watcher.tell("b", old).refused is None  # it was heard of 50 s ago
    clock.now_s = 200.0
    told = watcher.tell("b", old)
    assert told.load is None
    assert "is gone" in told.refused.error


def test_one_replica_that_cannot_follow_holds_up_no_other(run, clock):
    old = promote(run, 1)
    watcher = Watcher(run, old, clock)
    new = promote(run, 2)
    watcher.look()
    watcher.tell("a", old)
    watcher.note("a", new, None)
    assert watcher.tell("b", old).load == new
    watcher.note("b", new, "no memory")
    assert watcher.tell("b", old).load is None
    assert watcher.tell("c", old).load == new


def test_a_watcher_that_was_started_anew_sends_nobody_back(run, clock):
    first, newest = promote(run, 1), promote(run, 2)
    watcher = Watcher(run, first, clock)
    watcher.look()
    assert watcher.tell("a", newest).load is None
    assert watcher.good == newest


def test_a_storage_that_does_not_answer_is_asked_again(run, clock, monkeypatch, caplog):
    old = promote(run, 1)
    watcher = Watcher(run, old, clock)
    new = promote(run, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "best_name", lambda self: (_ for _ in ()).throw(OSError("gone")))
        watcher.look()
        watcher.look()
    assert watcher.tell("a", old) == Told(None, None)
    assert caplog.text.count("gone") == 1
    watcher.look()
    assert watcher.tell("a", old).load == new


# ---- a replica -----------------------------------------------------------------------------------


def test_what_was_begun_ends_with_the_old_model_and_what_comes_gets_the_new(
    llama, causal_lm, tmp_path, monkeypatch
):
    from raymodel.serve.generation import GenerationService

    other = round_weights(
        build_tiny_llama(
            vocab_size=llama.config.vocab_size,
            max_positions=512,
            seed=3,
            initializer_range=0.4,
        )
    ).eval()
    models, closed = {"old": llama, "new": other}, []
    spec = ServeSpec(engine="transformers", batch=2, queue=2, max_tokens=400)

    def load(version):
        if version.name == "bad":
            raise ArtifactError("it holds NaN")
        service = GenerationService(models[version.name], causal_lm, name="tiny", spec=spec)
        close = service.close
        monkeypatch.setattr(service, "close", lambda: (closed.append(version.name), close()))
        return service

    def version(name):
        return Version(name, Location.parse(str(tmp_path)), "causal_lm")

    current = Current(load, version("old"))

    def texts_of(messages):
        body = b"".join(m.get("body", b"") for batch in messages for m in batch)
        return json.loads(body)["choices"][0]["text"]

    async def complete(tokens):
        scope = {
            "type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"",
            "headers": [(b"content-type", b"application/json")], "http_version": "1.1",
            "asgi": {"version": "3.0"},
        }  # fmt: skip
        body = {"model": "tiny", "prompt": "def read", "max_tokens": tokens, "temperature": 0}
        return texts_of([m async for m in current.answer(scope, json.dumps(body).encode())])

    async def change():
        alone = await complete(300)
        with steps_when(current.service.engine, lambda: False):
            early = asyncio.ensure_future(complete(300))
            while not current.service.engine.num_active:
                await asyncio.sleep(0.001)
            replacing = asyncio.ensure_future(asyncio.to_thread(current.replace, version("new")))
            while current.version.name == "old":
                await asyncio.sleep(0.001)
            late = await complete(5)
            is_closed_early = bool(closed)
        await replacing
        return alone, await early, late, is_closed_early

    alone, early, late, is_closed_early = asyncio.run(change())
    assert early == alone
    assert late != alone[: len(late)]
    assert not is_closed_early
    assert closed == ["old"]
    with pytest.raises(ArtifactError):
        current.replace(version("bad"))
    assert current.health()["version"] == "new"
    current.close()


def test_a_follower_does_as_it_is_told_and_says_what_came_of_it():
    class Loads:
        version = "old"

        def replace(self, version, canary):
            shown.append(canary)
            if version.name == "bad":
                raise ArtifactError("it holds NaN")
            self.version = version

    orders = [Version("bad", None, ""), None, Version("good", None, "")]
    noted, heard, shown = [], [], []

    class Answers:
        def tell(self, has, *, is_loading):
            heard.append(is_loading)
            order = None if is_loading or not orders else orders.pop(0)
            return Told(order, None, is_first=order is not None and order.name == "bad")

        def note(self, version, error):
            noted.append((version.name, error))

    follower = Follower(Loads(), Answers(), "canary", look_s=0.01)
    deadline_s = time.monotonic() + 60
    while len(noted) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    follower.stop()
    assert noted == [("bad", "ArtifactError: it holds NaN"), ("good", None)]
    assert shown == ["canary", None]  # what others have shown is not shown again
    assert follower.state()["loading"] is None


# ---- a canary -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        ((0, 0), (0, 0), False),
        ((1, 1), (50, 0), False),
        ((2, 2), (50, 0), True),
        ((100, 2), (900, 0), False),
        ((100, 3), (900, 0), True),
        ((100, 30), (900, 300), False),
    ],
)
def test_a_model_is_worse_when_it_fails_more_than_the_one_before(new, old, expected):
    assert is_worse(Outcomes(*new), Outcomes(*old)) == expected


START = {"type": "http.response.start", "status": 200}
BEGUN, COUNTED = {"type": "begun"}, {"type": "counted"}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([START, BEGUN, COUNTED], (1, 0)),
        ([START], (1, 0)),  # what no model has to compute
        ([START, BEGUN], (1, 1)),  # a stream that broke off
        ([START | {"status": 400}], (1, 0)),
        ([START | {"status": 503}], (0, 0)),
        ([START | {"status": 500}], (1, 1)),
        ([START | {"status": 504}], (1, 1)),
        ([], (1, 1)),
    ],
)
def test_what_counts_as_a_failure(messages, expected):
    outcome, outcomes = Outcome("begun", "counted"), Outcomes()
    for message in messages:
        outcome.look([message])
    outcome.add_to(outcomes)
    assert (outcomes.num_answered, outcomes.num_failed) == expected


class Fixed:
    """A service that answers with one status."""

    num_rows = 1

    def __init__(self, status):
        self.status, self.is_closed = status, False

    def close(self):
        self.is_closed = True


@pytest.mark.parametrize("status", [200, 500])
def test_a_canary_answers_its_share_and_takes_over_only_if_it_is_no_worse(
    status, tmp_path, monkeypatch
):
    services = {"old": Fixed(200), "new": Fixed(status)}

    async def answer(self, scope, receive, send):
        await send({"type": "http.response.start", "status": self.status, "headers": []})

    monkeypatch.setattr(Fixed, "__call__", answer, raising=False)
    monkeypatch.setattr("raymodel.serve.app.build_inner", lambda service: service)

    def version(name):
        return Version(name, Location.parse(str(tmp_path)), "causal_lm")

    current = Current(lambda version: services[version.name], version("old"))
    canary, failures, seen = CanarySpec(share="25%", requests=20, within="10min"), [], []

    async def ask():
        first, *rest = [batch async for batch in current.answer({}, b"")]
        [notice] = first
        seen.append((notice["version"], rest[0][0]["status"]))

    def put():
        try:
            current.replace(version("new"), canary)
        except CanaryError as error:
            failures.append(str(error))

    async def go():
        putting = asyncio.ensure_future(asyncio.to_thread(put))
        while not putting.done():
            await ask()
            await asyncio.sleep(0.005)
        await ask()

    asyncio.run(go())
    *during, after = seen
    if status == 200:
        tried = [at for at, (name, _) in enumerate(during) if name == "new"][:20]
        share = 20 / (tried[-1] + 1 - tried[0])  # while it was tried, however long that took
        assert failures == []
        assert after == ("new", 200)
        assert 0.15 < share < 0.5
        assert services["old"].is_closed
    else:
        assert len(failures) == 1
        assert "of 2 answers it failed 2" in failures[0]
        assert after == ("old", 200)
        assert services["new"].is_closed
    assert services[after[0]].is_closed is False


def test_a_canary_that_few_ask_takes_over_in_time(tmp_path):
    services = []

    def load(version):
        services.append(Fixed(200))
        return services[-1]

    def version(name):
        return Version(name, Location.parse(str(tmp_path)), "causal_lm")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raymodel.serve.app.build_inner", lambda service: service)
        current = Current(load, version("old"))
        current.replace(version("new"), CanarySpec(within="0.2s"))
    assert current.version.name == "new"
    assert services[0].is_closed


def test_a_canary_is_of_what_is_followed():
    with pytest.raises(ValueError, match="watch: best"):
        ServeSpec(canary={})


# ---- the whole, under load -----------------------------------------------------------------------


BAD = 3


class Load(threading.Thread):
    """Clients that ask all the time; counts what they get."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url, self.statuses, self.texts, self.is_over = url, [], [], False
        self.start()

    def run(self):
        body = {"model": "tiny", "prompt": "def read", "max_tokens": 30, "temperature": 0}
        with httpx.Client(timeout=60) as client:
            while not self.is_over:
                answer = client.post(f"{self.url}/v1/completions", json=body)
                self.statuses.append(answer.status_code)
                self.texts.append(answer.json())


def versions(served):
    """Of several answers of `/health`, which any replica gives."""
    told = [served.health() for _ in range(12)]
    is_loading = any(health["loading"] for health in told)
    refused = {(health["refused"] or {}).get("version") for health in told}
    return {health["version"] for health in told}, refused, is_loading


def wait_for(served, *, version, refused=None):
    deadline_s = time.monotonic() + 120
    while versions(served) != ({version}, {refused}, False):
        assert time.monotonic() < deadline_s, versions(served)
        time.sleep(0.2)


def write_model(tokenizer, seed):
    def write(folder):
        model = build_tiny_llama(
            vocab_size=len(tokenizer), max_positions=512, seed=seed, initializer_range=0.4
        )
        model = round_weights(model)
        if seed == BAD:
            model.model.norm.weight.data.fill_(float("nan"))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return write


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_updates_of_two_replicas_under_load_fail_no_request(run, tokenizer):
    first = promote(run, 1, write=write_model(tokenizer, 1))
    spec = ServeSpec(
        port=free_port(), watch="best", engine="transformers", queue=32,
        replicas={"min": 2, "max": 2},
    )  # fmt: skip
    arguments = {"job_name": "tiny", "cluster": ClusterSpec(), "story": Story()}
    with local_ray(4):
        from raymodel.serve.run import run_serve

        with run_serve(spec, run.best(), follows=run, **arguments) as served:
            wait_for(served, version=first.name)
            clients = [Load(served.url) for _ in range(3)]
            good = first
            for number in (2, BAD, 4, 5, 6, 7):
                version = promote(run, number, write=write_model(tokenizer, number))
                if number == BAD:
                    wait_for(served, version=good.name, refused=version.name)
                else:
                    wait_for(served, version=version.name)
                    good = version
            for client in clients:
                client.is_over = True
                client.join(60)
            statuses = [status for client in clients for status in client.statuses]
            assert set(statuses) == {200}
            assert len(statuses) > 20
            texts = {text["choices"][0]["text"] for client in clients for text in client.texts}
            assert len(texts) == 6  # one of each model that loads
            # What is started anew takes up what the others have, not what the app began with.
            os.kill(replica_pid(), signal.SIGKILL)
            time.sleep(3)
            wait_for(served, version=good.name)
