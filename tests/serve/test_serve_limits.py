"""What is refused before any work is done, and what is done beside the event loop."""

import asyncio
import json
import threading

import pytest
from asked import call, check_error, client_of, rules_of

from raymodel.serve.app import build_app
from raymodel.serve.bodies import MAX_DEPTH
from raymodel.serve.gate import Rules

JSON = {"Content-Type": "application/json"}


def post(service, content, path="/v1/completions", **rules):
    return call(service, "POST", path, content=content, headers=JSON, app=rules)


class Pieces:
    """A body that is sent in pieces, without its length; counts those that were asked for."""

    def __init__(self, piece, count):
        self.taken, self._piece, self._count = 0, piece, count

    async def __aiter__(self):
        for _ in range(self._count):
            self.taken += 1
            yield self._piece


def raw(app, headers, pieces):
    """The status of a request whose body is received piece by piece."""
    sent, body = [], iter(pieces)

    async def receive():
        piece = next(body)
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"",
        "headers": headers, "http_version": "1.1", "asgi": {"version": "3.0"},
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"]


def test_a_body_that_is_too_large_is_refused_by_its_length_alone(generation):
    app = build_app(generation, Rules(max_body_bytes=1000))
    assert raw(app, [(b"content-length", b"1001")], []) == 413  # nothing was there to be received
    check_error(post(generation, b" " * 1001, max_body_bytes=1000), 413, "1,001", "at most 1,000")


def test_a_body_without_a_length_is_read_up_to_the_limit(generation):
    pieces = Pieces(b" " * 100, 10_000)
    response = post(generation, pieces, max_body_bytes=1000)
    check_error(response, 413, "is longer", "at most 1,000", "serve.max_body")
    assert pieces.taken <= 12
    assert raw(build_app(generation, Rules(max_body_bytes=1000)), [], [b" " * 600] * 2) == 413


def test_a_stranger_is_refused_before_the_body_is_read(generation):
    app = build_app(generation, rules_of(token="secret"))
    assert raw(app, [(b"content-length", b"100000000")], []) == 401
    assert raw(app, [(b"authorization", b"Bearer s\xc3\xa9cret")], []) == 401


def test_what_describes_the_application_is_behind_the_token(generation):
    for path in ("/openapi.json", "/docs", "/v1/models", "/nothing"):
        assert call(generation, "GET", path, app={"token": "secret"}).status_code == 401
    good = {"Authorization": "Bearer secret"}
    told = call(generation, "GET", "/openapi.json", app={"token": "secret"}, headers=good).json()
    assert "/v1/completions" in told["paths"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe", ("UTF-8", "byte 0")),
        (b'{"model": "ti\xe9"}', ("UTF-8", "byte 13")),
        (b"{", ("not valid JSON",)),
        (b"", ()),
        (b"[1]", ()),
        (b'{"model": "tiny", "prompt": "x", "temperature": NaN}', ("NaN", "no number of JSON")),
        (b'{"model": "tiny", "prompt": "x", "seed": -Infinity}', ("-Infinity",)),
        (b'{"model": "tiny", "prompt": "x", "temperature": 1e999}', ("1e999",)),
        (b'{"model": "tiny", "prompt": "x", "seed": ' + b"9" * 5000 + b"}", ("digits",)),
        (b"[" * 100_000, ("at most 64 deep",)),
        (b"[" * 500 + b"]" * 500, ("too many levels", "at most 64 deep")),
        (b'{"model": "tiny", "prompt": ' + b'{"a":' * 70 + b"1" + b"}" * 70 + b"}", ("64 deep",)),
    ],
)
def test_a_body_that_is_no_strict_json_is_400_with_the_reason(generation, content, words):
    response = post(generation, content)
    check_error(response, 400, *words, param=response.json()["error"]["param"])


def test_a_list_of_many_is_not_deep(generation):
    body = {"model": "tiny", "prompt": [[5]] * (MAX_DEPTH + 5)}
    check_error(post(generation, json.dumps(body).encode()), 400, "69 inputs", param="prompt")


def test_a_long_text_is_refused_before_it_is_tokenised(generation, classification, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("it was tokenised")

    monkeypatch.setattr(type(generation.tokenizer), "__call__", never)
    monkeypatch.setattr(type(generation._format), "prompt", never)
    long = "a " * 10_000
    response = call(
        generation, "POST", "/v1/completions", json={"model": "tiny", "prompt": ["a", long][1:]}
    )
    check_error(response, 400, "20,000 characters", "at most 512 tokens", param="prompt")
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "a" * 9000}] * 2}
    response = call(generation, "POST", "/v1/chat/completions", json=chat)
    check_error(response, 400, "18,000 characters", param="messages")
    response = call(classification, "POST", "/classify", json={"model": "tiny", "input": long})
    check_error(response, 400, "20,000 characters", "at most 64 tokens", param="input")
    inputs = {"model": "tiny", "inputs": {"text": long}}
    response = call(classification, "POST", "/predict", json=inputs)
    check_error(response, 400, "20,000 characters", param="inputs")


def test_many_inputs_are_refused_before_the_first_is_read(classification, monkeypatch):
    monkeypatch.setattr(classification, "row", None)
    inputs = [{"text": "a"}] * 1000
    response = call(classification, "POST", "/predict", json={"model": "tiny", "inputs": inputs})
    check_error(response, 400, "1,000 inputs", "at most 4", param="inputs")


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("generation", "/v1/completions", {"prompt": "a", "max_tokens": 1}),
        ("generation", "/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("classification", "/classify", {"input": "a"}),
        ("classification", "/predict", {"inputs": {"text": "a"}}),
    ],
)
def test_health_answers_while_a_text_is_tokenised(name, path, body, request, monkeypatch):
    service = request.getfixturevalue(name)
    begun, goes_on = threading.Event(), threading.Event()
    read = type(service).read

    async def slow(self, reading, *given):
        def held():
            begun.set()
            assert goes_on.wait(60), "nobody else was answered meanwhile"
            return reading(*given)

        return await read(self, held)

    monkeypatch.setattr(type(service), "read", slow)

    async def run():
        async with client_of(service) as client:
            asked = asyncio.ensure_future(client.post(path, json={"model": "tiny"} | body))
            while not begun.is_set():
                await asyncio.sleep(0.005)
            assert (await client.get("/health")).status_code == 200
            goes_on.set()
            assert (await asked).status_code == 200

    asyncio.run(asyncio.wait_for(run(), 90))


def test_a_client_that_sends_nothing_is_let_go(generation, monkeypatch):
    monkeypatch.setattr("raymodel.serve.bodies._READ_S", 0.05)

    async def slowly():
        yield b"{"
        await asyncio.sleep(1)
        yield b"}"

    check_error(post(generation, slowly()), 408, "did not come within 0.05 s")
