"""Tokens on their way to a client: one by one to who keeps up, together to who does not."""

import asyncio
import json

import pytest
from engines import pace

from raymodel.serve.answer import Chunk
from raymodel.serve.current import Current, run_app
from raymodel.serve.flow import notices
from raymodel.serve.follow import Version
from raymodel.serve.post import post_here
from raymodel.serve.refusal import Refusal
from raymodel.serve.sampling import Sampling
from raymodel.serve.streams import AnswerStream

HELD_S = 0.2


class Numbered(int):
    """Stands for an answer."""

    num_drafted = num_accepted = 0


class Engine:
    """Delivers what it is told to."""

    def submit(self, requests, deliver, on_slot):
        self.deliver, self.aborted = deliver, []
        return [Numbered(number) for number in range(len(requests))]

    def abort(self, answers):
        self.aborted += answers


class Held:
    """A pace as of a loop with much to tell."""

    hold_s = HELD_S

    def came(self, answer):
        pass

    def went(self):
        pass


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


def stream_of(engine, count=1):
    return AnswerStream(engine, [([1, 2], Sampling(max_tokens=9))] * count, 10.0)


def chunks(*texts):
    return [Chunk(text, number) for number, text in enumerate(texts, start=1)]


def test_who_keeps_up_gets_each_chunk_alone_and_who_is_behind_gets_them_together():
    async def go():
        engine = Engine()
        stream, seen = stream_of(engine), []
        for chunk in chunks("a", "b"):
            engine.deliver(0, chunk)
            seen.append((await anext(stream))[1])
        for chunk in (Chunk("c", 3), Chunk("d", 4), Chunk("e", 5, "stop")):
            engine.deliver(0, chunk)
        await settle()
        return seen + [chunk async for _, chunk in stream]

    assert asyncio.run(go()) == [Chunk("a", 1), Chunk("b", 2), Chunk("cde", 5, "stop")]


def test_several_answers_take_turns():
    async def go():
        engine = Engine()
        stream = stream_of(engine, 2)
        for chunk in chunks("a", "b"):
            engine.deliver(0, chunk)
            engine.deliver(1, chunk)
        await settle()
        first = await anext(stream)
        engine.deliver(0, Chunk("c", 3, "stop"))
        engine.deliver(1, Chunk("c", 3))
        await settle()
        second = await anext(stream)
        third = await anext(stream)
        engine.deliver(1, Chunk("d", 4))
        await settle()
        stream.end(1)
        return [first, second, third], [each async for each in stream], engine.aborted

    seen, rest, aborted = asyncio.run(go())
    assert seen == [(0, Chunk("ab", 2)), (1, Chunk("abc", 3)), (0, Chunk("c", 3, "stop"))]
    assert (rest, aborted) == ([], [1])  # nothing comes of what was ended


def test_between_its_first_and_its_last_chunk_an_answer_is_held_where_events_cost_much():
    async def go():
        engine = Engine()
        stream, seen = stream_of(engine, 2), []
        post_here().pace = Held()

        async def read():
            async for item in stream:
                seen.append(item)

        reading = asyncio.ensure_future(read())
        states = []

        async def deliver(index, *given):
            for chunk in given:
                engine.deliver(index, chunk)
            await settle()
            states.append(len(seen))

        await deliver(0, Chunk("a", 1))
        await deliver(0, Chunk("b", 2), Chunk("c", 3))
        await deliver(1, Chunk("x", 1))  # nobody waits for its first, and what is there goes too
        await deliver(0, Chunk("d", 4), Chunk("e", 5))
        await asyncio.sleep(2 * HELD_S)
        states.append(len(seen))
        await deliver(1, Chunk("y", 2))
        await deliver(1, Chunk("z", 3, "stop"))
        await deliver(0, Chunk("f", 6))
        await deliver(0, Chunk("", 6, error=RuntimeError("broken")))
        with pytest.raises(Refusal):
            await reading
        return seen, states

    seen, states = asyncio.run(go())
    assert seen == [
        (0, Chunk("a", 1)),
        (0, Chunk("bc", 3)),
        (1, Chunk("x", 1)),
        (0, Chunk("de", 5)),
        (1, Chunk("yz", 3, "stop")),
        (0, Chunk("f", 6)),
    ]
    assert states == [1, 1, 3, 3, 4, 4, 5, 5, 6]


def test_what_came_before_an_error_goes_out_before_it():
    async def go():
        engine = Engine()
        stream = stream_of(engine)
        engine.deliver(0, Chunk("a", 1))
        engine.deliver(0, Chunk("", 1, error=RuntimeError("broken")))
        await settle()
        first = await anext(stream)
        with pytest.raises(Refusal, match="RuntimeError"):
            await anext(stream)
        return first

    assert asyncio.run(go()) == (0, Chunk("a", 1))


def test_an_application_waits_for_who_passes_its_body_on():
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(4):
            await send({"type": "http.response.body", "body": b"x", "more_body": number < 3})
            sent.append(number)

    async def go():
        seen, ahead = [], []
        async for messages in run_app(app, {}, b""):
            await settle()
            seen.append([message["type"].rpartition(".")[2] for message in messages])
            ahead.append(len(sent))
        return seen, ahead

    seen, ahead = asyncio.run(go())
    assert seen == [[], ["start", "body"], ["body"], ["body"], ["body"]]
    assert ahead == [0, 2, 3, 4, 4]


@pytest.mark.parametrize("is_slow", [False, True])
def test_notices_go_with_what_comes_soon_or_alone_and_say_how_old_they_are(is_slow):
    async def app(scope, receive, send):
        notices().take_up()
        notices().begin()
        notices().begin()
        await asyncio.sleep(0.2 if is_slow else 0.01)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def go():
        return [messages async for messages in run_app(app, {}, b"")]

    _, *batches = asyncio.run(go())
    told = [[message["type"].rpartition(".")[2] for message in batch] for batch in batches]
    if is_slow:
        assert told == [["taken", "begun"], ["start", "body", "body"]]
        assert 0.03 < batches[0][0]["ago_s"] < 0.2
    else:
        assert told == [["taken", "begun", "start", "body", "body"]]
        assert 0.005 < batches[0][0]["ago_s"] < 0.2


@pytest.mark.parametrize("is_behind", [False, True])
def test_a_stream_says_the_same_in_fewer_events_where_nobody_keeps_up(
    generation, is_behind, monkeypatch
):
    pace(generation, monkeypatch)
    body = {"model": "tiny", "prompt": "def read", "max_tokens": 40, "temperature": 0}
    scope = {
        "type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"",
        "headers": [(b"content-type", b"application/json")], "http_version": "1.1",
        "asgi": {"version": "3.0"},
    }  # fmt: skip

    last = []

    async def ask(**more):
        current = Current(lambda version: generation, Version("v1", None, "causal_lm"))
        told, data = [], b""
        async for messages in current.answer(scope, json.dumps(body | more).encode()):
            last[:] = messages
            for message in messages:
                told.append(message["type"])
                data += message.get("body", b"")
            if is_behind and "http.response.start" in told:
                while generation.engine.num_active:
                    await asyncio.sleep(0.01)
        return told, data

    async def go():
        return await ask(), await ask(stream=True)

    (_, whole), (told, data) = asyncio.run(go())
    parts = [part.removeprefix(b"data: ") for part in data.split(b"\n\n")]
    texts = [json.loads(part)["choices"][0]["text"] for part in parts if part.startswith(b"{")]
    assert "".join(texts) == json.loads(whole)["choices"][0]["text"]
    assert (len(texts) <= 5) is is_behind
    assert told.count("raymodel.begun") == 1
    end = b"".join(message.get("body", b"") for message in last)
    assert b'"length"' in end
    assert b"[DONE]" in end
    assert last[-1]["more_body"] is False


def test_a_stream_that_is_behind_ends_in_time_too():
    async def go():
        engine = Engine()
        stream = AnswerStream(engine, [([1, 2], Sampling(max_tokens=9))], 0.01)
        engine.deliver(0, Chunk("a", 1))
        await asyncio.sleep(0.05)
        with pytest.raises(Refusal, match="no complete answer within"):
            await anext(stream)

    asyncio.run(go())
