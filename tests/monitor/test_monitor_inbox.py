"""Texts that are sent: safe when they are answered, bounded, refused in the words of the server."""

import asyncio

import httpx
import pytest

from raymodel.errors import SpecError
from raymodel.monitor.inbox import Inbox, build_inbox
from raymodel.monitor.spec import InboxSpec
from raymodel.monitor.state import State
from raymodel.testing.distributed import free_port


@pytest.fixture
def state(tmp_path):
    state = State(tmp_path / "state.sqlite")
    yield state
    state.close()


def ask(state, method, path, spec=None, wake=lambda: None, **given):
    app = build_inbox(spec or InboxSpec(max_waiting=5), state, 1000, wake)

    async def run():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **given)

    return asyncio.run(run())


def test_texts_that_are_taken_are_on_the_disk(state, tmp_path):
    woken = []
    sent = {"texts": ["one", {"text": "two", "time": 5}]}
    answer = ask(state, "POST", "/texts", json=sent, wake=lambda: woken.append(1))
    assert (answer.status_code, answer.json()) == (202, {"accepted": 2})
    answer = ask(state, "POST", "/texts", json={"text": "three", "time": "1970-01-01T00:00:07"})
    assert answer.json() == {"accepted": 1}
    assert woken == [1]
    state.close()
    again = State(tmp_path / "state.sqlite")
    one, two, three = again.letters(10)
    assert [one.text, two.text, three.text] == ["one", "two", "three"]
    assert (two.time_s, three.time_s) == (5.0, 7.0)
    again.close()


def test_no_more_wait_than_there_is_room_for(state):
    assert ask(state, "POST", "/texts", json={"texts": ["a"] * 4}).status_code == 202
    answer = ask(state, "POST", "/texts", json={"texts": ["a"] * 2})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "max_waiting" in answer.json()["error"]["message"]
    assert state.num_letters() == 4
    assert ask(state, "GET", "/health").json() == {"status": "ok", "waiting": 4}


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "either text or texts"),
        ({"text": "a", "texts": ["b"]}, "either text or texts"),
        ({"texts": []}, "0 items"),
        ({"txt": "a"}, "did you mean 'text'"),
        ({"text": "a" * 1001}, "monitor.max_text"),
        ({"text": "a", "time": "soon"}, "ISO 8601"),
        ({"text": "a", "time": 9e9}, "not yet"),
        ({"text": 3}, "text"),
    ],
)
def test_what_is_no_text_is_refused(state, body, word):
    answer = ask(state, "POST", "/texts", json=body)
    assert answer.status_code == 400, answer.text
    assert word in answer.json()["error"]["message"]
    assert state.num_letters() == 0


def test_who_has_no_token_is_refused_and_told_of_what_field(state, monkeypatch):
    spec = InboxSpec(token_env="INBOX_TOKEN")
    with pytest.raises(SpecError, match=r"monitor\.http\.token_env names INBOX_TOKEN"):
        build_inbox(spec, state, 1000, lambda: None)
    monkeypatch.setenv("INBOX_TOKEN", "secret")
    assert ask(state, "POST", "/texts", spec, json={"text": "a"}).status_code == 401
    headers = {"Authorization": "Bearer secret"}
    assert (
        ask(state, "POST", "/texts", spec, json={"text": "a"}, headers=headers).status_code == 202
    )
    assert ask(state, "GET", "/health", spec).json() == {"status": "ok"}
    assert ask(state, "GET", "/", spec, headers=headers).status_code == 404
    with pytest.raises(ValueError, match="reached from outside"):
        InboxSpec(host="0.0.0.0")


def test_it_listens_until_it_is_closed(state):
    inbox = Inbox(InboxSpec(port=free_port()), state, 1000, lambda: None)
    url = inbox._server.config.port
    answer = httpx.post(f"http://127.0.0.1:{url}/texts", json={"text": "a"})
    assert answer.status_code == 202
    inbox.close()
    with pytest.raises(httpx.ConnectError):
        httpx.post(f"http://127.0.0.1:{url}/texts", json={"text": "a"})
    assert state.num_letters() == 1
