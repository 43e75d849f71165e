"""Texts in, alerts out: nothing lost and nothing told twice, whatever is killed in between."""

import json
import random
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from raymodel.errors import RaymodelError, RequestError, SpecError, StorageError
from raymodel.monitor import post as post_module
from raymodel.monitor.follow import Source
from raymodel.monitor.loop import Monitor
from raymodel.monitor.post import Log, Post, Webhook, notice_of
from raymodel.monitor.spec import AlertSpec, FollowSpec, MonitorSpec, WebhookSpec
from raymodel.monitor.state import State
from raymodel.testing.http import listening

RULE = {"labels": ["bad"], "window": "100s", "baseline": "1000s", "min_count": 20, "z": 3.0}


class Killed(BaseException):
    """The process ends here."""


class ByWord:
    """A classifier: bad is what begins with `bad`."""

    name = "by-word"

    def __init__(self, fails=lambda texts: None):
        self.seen: list[str] = []
        self._fails = fails

    def classify(self, texts):
        self._fails(texts)
        self.seen += texts
        return [None if t == "refuse" else t.split()[0] for t in texts]


class Bench:
    """A monitor that is made anew from what is on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_s, self.said = folder, 2e9, []
        self.spec = MonitorSpec.model_validate(
            {
                "follow": [{"path": "texts.jsonl", "fields": {"time": "at"}}],
                "alerts": [RULE],
                "batch": 16,
            }
        )

    def start(self, classifier=None, webhook=None, spec=None):
        spec = spec or self.spec
        self.state = State(self.folder / "state.sqlite")
        sources = [
            Source(each, self.folder, self.state, 1000, self.said.append) for each in spec.follow
        ]
        self.log = Log(self.folder / "alerts.jsonl")
        post = Post(self.state, self.log, webhook, self.said.append, lambda: self.now_s)
        self.classifier = classifier or ByWord()
        return Monitor(
            spec, self.state, sources, self.classifier, post, self.said.append, lambda: self.now_s
        )

    def alerts(self):
        return [json.loads(line) for line in self.log.path.read_text().splitlines()]

    def run(self, **given):
        monitor = self.start(**given)
        try:
            monitor.run(to_the_end=True)
            return self.state.counts()
        finally:
            self.state.close()


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def write_texts(path, shares, seed=0):
    """A text a second: good or bad by chance."""
    draw, at = random.Random(seed), 0
    with open(path, "a") as file:
        for seconds, share in shares:
            for _ in range(seconds):
                word = "bad" if draw.random() < share else "good"
                file.write(json.dumps({"text": f"{word} {at}", "at": at}) + "\n")
                at += 1


SHARES = [(600, 0.2), (200, 0.7), (400, 0.2)]


def test_a_rise_is_in_the_log_once_and_so_is_its_end(bench, tmp_path):
    write_texts(tmp_path / "texts.jsonl", SHARES)
    counts = bench.run()
    assert counts["texts"] == 1200
    assert counts["alerts"] == 1
    rise, over = bench.alerts()
    assert rise["event"] == "rise"
    assert rise["share"] - rise["share_before"] >= 0.1
    assert rise["z"] >= 3
    assert rise["text"].startswith(f"bad rose to {rise['share']:.1%} of {rise['texts']} texts")
    assert rise["model"] == "by-word"
    assert over["event"] == "over"
    assert rise["time"] < over["time"]
    assert sum("alert: bad rose" in text for text in bench.said) == 1
    assert bench.run() == counts  # again: nothing is new
    assert bench.alerts() == [rise, over]


@pytest.mark.parametrize("seed", range(2))
def test_a_monitor_that_is_killed_at_any_moment_ends_as_one_that_is_not(
    tmp_path, monkeypatch, seed
):
    whole, broken = Bench(tmp_path / "whole"), Bench(tmp_path / "broken")
    for each in (whole, broken):
        each.folder.mkdir()
        write_texts(each.folder / "texts.jsonl", SHARES)
    expected = whole.run()
    draw, num_killed = random.Random(seed), 0

    def perhaps(call):
        def called(*given, **named):
            nonlocal num_killed
            if draw.random() < 0.004:
                num_killed += 1
                raise Killed
            result = call(*given, **named)
            if draw.random() < 0.004:
                num_killed += 1
                raise Killed
            return result

        return called

    for name in ("set_marks", "put", "add_notice", "drop_notice"):
        monkeypatch.setattr(State, name, perhaps(getattr(State, name)))
    monkeypatch.setattr(Log, "write", perhaps(Log.write))
    while True:
        try:
            counts = broken.run()
            break
        except Killed:
            continue
    assert num_killed > 3
    assert counts == expected
    assert broken.alerts() == whole.alerts()


def test_texts_wait_while_the_classifier_does_not_answer(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("raymodel.monitor.loop.LOOK_S", 0.01)
    write_texts(tmp_path / "texts.jsonl", [(30, 0.2)])
    tries = iter(range(100))

    def fails(texts):
        if next(tries) in (1, 2):
            raise RaymodelError("nobody is there")

    monitor = bench.start(ByWord(fails))
    thread = threading.Thread(target=monitor.run, kwargs={"to_the_end": False}, daemon=True)
    thread.start()
    while bench.state.counts().get("texts", 0) < 30:
        assert thread.is_alive()
    assert len(bench.classifier.seen) == len(set(bench.classifier.seen)) == 30
    assert sum("nobody is there" in text for text in bench.said) == 2


def test_a_classifier_that_refuses_all_ends_the_monitor(bench, tmp_path):
    write_texts(tmp_path / "texts.jsonl", [(3, 0.2)])

    def fails(texts):
        raise RequestError("no such model")

    with pytest.raises(RequestError):
        bench.run(classifier=ByWord(fails))
    assert bench.run()["texts"] == 3


def test_what_is_no_text_is_counted_by_its_reason(bench, tmp_path):
    lines = ['{"text": "good", "at": 5}', "{", '{"text": "refuse", "at": 6}', '{"at": 7}', ""]
    (tmp_path / "texts.jsonl").write_text("\n".join([*lines, '{"text": "x", "at": 1e12}']) + "\n")
    bench.now_s = 1000.0
    assert bench.run() == {
        "texts": 1,
        "left out: not JSON": 1,
        "left out: refused by the classifier": 1,
        "left out: record without the field 'text'": 1,
        "left out: a time that is not yet": 1,
    }


def test_a_rule_that_is_changed_begins_anew_and_others_stay(bench, tmp_path):
    write_texts(tmp_path / "texts.jsonl", [(100, 0.2)])
    bench.run()
    other = AlertSpec.model_validate(RULE | {"labels": ["good"]})
    spec = bench.spec.model_copy(update={"alerts": (*bench.spec.alerts, other)})
    write_texts(tmp_path / "texts.jsonl", [(50, 0.2)])
    old, new = (rule.save()["windows"]["buckets"] for rule in bench.start(spec=spec)._rules)
    bench.state.close()
    assert sum(n for _, n, _ in old) == 100
    assert new == []


def test_memory_and_state_do_not_grow_with_the_texts(bench, tmp_path):
    write_texts(tmp_path / "texts.jsonl", [(1200, 0.2)])
    monitor = bench.start()
    monitor.run(to_the_end=True)
    first = len(json.dumps(monitor._rules[0].save()))
    write_texts(tmp_path / "texts.jsonl", [(600, 0.2)])
    monitor.run(to_the_end=True)
    assert len(json.dumps(monitor._rules[0].save())) < first * 1.2
    bench.state.close()


def test_one_process_at_a_time_holds_the_state(tmp_path):
    state = State(tmp_path / "state.sqlite")
    with pytest.raises(StorageError, match="another process"):
        State(tmp_path / "state.sqlite")
    state.close()
    (tmp_path / "other").write_text("no database" * 1000)
    with pytest.raises(StorageError, match="not what a monitor has written"):
        State(tmp_path / "other")
    State(tmp_path / "state.sqlite").close()


# ---- who is told ---------------------------------------------------------------------------------


class Hook:
    """A webhook that answers with what it is told to."""

    def __init__(self):
        self.answers, self.got = [], []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.got.append((self.headers["Idempotency-Key"], json.loads(body)))
                self.send_response(hook.answers.pop(0) if hook.answers else 200)
                self.send_header("Location", "http://127.0.0.1:9/other")
                self.end_headers()

            def log_message(self, *given):
                pass

        self.handler = Handler


@pytest.fixture
def hook(monkeypatch):
    hook = Hook()
    with listening(hook.handler) as url:
        monkeypatch.setenv("HOOK", f"{url}/secret")
        yield hook


def alert(number):
    return {"id": f"a-{number}", "event": "rise", "text": f"bad rose, {number}"}


@pytest.fixture
def posting(bench, hook):
    bench.start(webhook=Webhook(WebhookSpec(url_env="HOOK", tries=3)))
    post = Post(
        bench.state,
        bench.log,
        Webhook(WebhookSpec(url_env="HOOK", tries=3)),
        bench.said.append,
        lambda: bench.now_s,
    )
    yield post
    bench.state.close()


def test_an_alert_is_posted_with_a_name_and_a_sentence(bench, hook, posting):
    bench.state.add_notice(notice_of(alert(1)))
    assert not posting.deliver()
    assert hook.got == [("a-1", alert(1))]
    assert bench.alerts() == [alert(1)]
    assert not posting.deliver()
    assert len(hook.got) == 1


def test_a_webhook_that_fails_is_tried_again_later_and_the_log_has_it_at_once(bench, hook, posting):
    hook.answers = [500, 429]
    bench.state.add_notice(notice_of(alert(1)))
    assert posting.deliver()
    assert posting.deliver()  # not due yet
    assert (len(hook.got), bench.alerts()) == (1, [alert(1)])
    bench.now_s += 2
    assert posting.deliver()
    bench.now_s += 3
    assert posting.deliver()  # four seconds after the second
    bench.now_s += 1
    assert not posting.deliver()
    assert [name for name, _ in hook.got] == ["a-1"] * 3
    assert bench.alerts() == [alert(1)]
    assert bench.said == []


@pytest.mark.parametrize(("answers", "tries"), [([500, 503, 500], 3), ([404], 1), ([302], 1)])
def test_a_webhook_that_does_not_take_an_alert_is_told(bench, hook, posting, answers, tries):
    hook.answers = list(answers)
    bench.state.add_notice(notice_of(alert(1)))
    while posting.deliver():
        bench.now_s += 10
    assert len(hook.got) == tries
    assert bench.alerts()[1]["event"] == "undelivered"
    assert str(answers[-1]) in bench.alerts()[1]["why"]
    assert "did not take the alert a-1" in bench.said[0]
    assert "secret" not in json.dumps(bench.alerts()) + "".join(bench.said)
    assert bench.state.counts() == {"undelivered": 1}


def test_alerts_that_wait_for_a_webhook_are_bounded(bench, hook, posting, monkeypatch):
    monkeypatch.setattr(post_module, "_MOST_WAITING", 3)
    hook.answers = [500] * 3
    for number in range(5):
        bench.state.add_notice(notice_of(alert(number)))
    assert posting.deliver()
    assert len(bench.state.notices()) == 3
    assert len(hook.got) == 1  # one that is down is not asked for each
    assert sum("did not take" in text for text in bench.said) == 2
    bench.now_s += 60
    hook.answers = []
    assert not posting.deliver()
    assert [name for name, _ in hook.got[1:]] == ["a-2", "a-3", "a-4"]


def test_a_line_of_the_log_that_was_cut_is_mended(tmp_path):
    path = tmp_path / "alerts.jsonl"
    path.write_text(json.dumps(alert(1)) + '\nno json\n{"id": "a-2", "ev')
    log = Log(path)
    log.write(alert(1))
    log.write(alert(2))
    assert path.read_text() == f"{json.dumps(alert(1))}\nno json\n{json.dumps(alert(2))}\n"


@pytest.mark.parametrize("value", ["", "example.org/hook", "ftp://example.org"])
def test_a_webhook_without_a_url_is_refused_at_the_start(monkeypatch, value):
    monkeypatch.setenv("HOOK", value)
    with pytest.raises(SpecError, match="HOOK"):
        Webhook(WebhookSpec(url_env="HOOK"))


def test_what_is_followed_is_named_once():
    with pytest.raises(ValueError, match="twice"):
        MonitorSpec(follow=(FollowSpec(path="a"), FollowSpec(path="a")), alerts=(RULE,))
    with pytest.raises(ValueError, match="nothing is monitored"):
        MonitorSpec(alerts=(RULE,))


def test_the_state_is_a_database_that_others_can_look_into_when_it_is_closed(bench, tmp_path):
    write_texts(tmp_path / "texts.jsonl", [(10, 0.2)])
    bench.run()
    with sqlite3.connect(tmp_path / "state.sqlite") as db:
        (value,) = db.execute("select value from known where name = 'counts'").fetchone()
    assert json.loads(value) == {"texts": 10}
