"""`raymodel chat`: who answers, what is kept of a conversation, and what stops what."""

import asyncio
import inspect
import io
import json
import os
import pty
import select
import subprocess
import sys
import time
import types

import pytest
from asked import rules_of
from listening import listening
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse, StreamingResponse
from starlette.routing import Route

from raymodel import cli, remote
from raymodel.errors import RaymodelError
from raymodel.serve.app import build_app
from raymodel.serve.chat_terminal import Chat

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def chat(monkeypatch, capsys, lines, *arguments):
    """Exit code, stdout and stderr of the command with lines on a pipe."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    code = cli.main(["chat", *map(str, arguments), "--temperature", "0"])
    return code, *capsys.readouterr()


@pytest.fixture
def template(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE, raising=False)


@pytest.fixture
def folder(llama, tokenizer, template, tmp_path):
    llama.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


# ---- a model in this process, and one behind a URL -----------------------------------------------


def test_a_folder_and_a_server_answer_alike_and_only_answers_are_printed(
    generation, folder, monkeypatch, capsys
):
    lines = b"hi\n\nand then?\n/reset\nhi\n"
    code, out, _ = chat(monkeypatch, capsys, lines, folder, "--max-tokens", 9)
    with listening(build_app(generation)) as url:
        arguments = (url + "/v1/", "--max-tokens", 9)
        assert chat(monkeypatch, capsys, lines, *arguments) == (0, out, "")
        _, first, _ = chat(monkeypatch, capsys, b"hi\n", *arguments)
    assert code == 0
    assert len(first) > 1
    assert out.startswith(first)
    assert out.endswith("\n" + first)
    assert len(out) > 2 * len(first)


def test_turns_build_on_those_before_and_a_system_prompt_stays(generation, template):
    asked = []

    class Model:
        def answer(self, turns):
            asked.append([(turn["role"], turn["content"]) for turn in turns])
            yield "an "
            yield "answer"

    terminal = Piped(["one", "two", "/reset", "three"])
    Chat(Model(), terminal, "be short").run()
    first = ("system", "be short")
    assert asked == [
        [first, ("user", "one")],
        [first, ("user", "one"), ("assistant", "an answer"), ("user", "two")],
        [first, ("user", "three")],
    ]
    assert terminal.written == "an answer\n" * 3


class Piped:
    """What a terminal is for a chat."""

    def __init__(self, lines, is_interactive=True):
        self.lines, self.is_interactive = lines, is_interactive
        self.written, self.said = "", []

    def turns(self):
        return iter(self.lines)

    def write(self, text):
        self.written += text

    def say(self, text):
        self.said.append(text)


class Failing:
    """Breaks off its first answer."""

    def __init__(self, error):
        self.error, self.asked, self.closed = error, [], 0

    def answer(self, turns):
        self.asked.append(len(turns))
        try:
            yield "half"
            if len(self.asked) == 1:
                raise self.error
        finally:
            self.closed += 1


def test_an_answer_that_is_stopped_stays_and_one_that_failed_is_not_asked():
    stopped, failed = Failing(KeyboardInterrupt()), Failing(RaymodelError("broken"))
    for model in (stopped, failed):
        terminal = Piped(["one", "two"])
        Chat(model, terminal, None).run()
        assert terminal.written == "half\nhalf\n"
        assert model.closed == 2
    assert stopped.asked == [1, 3]
    assert failed.asked == [1, 1]
    assert terminal.said == ["error: broken"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RaymodelError("broken")])
def test_through_a_pipe_what_fails_or_is_interrupted_ends_the_command(error):
    with pytest.raises(type(error)):
        Chat(Failing(error), Piped(["one", "two"], is_interactive=False), None).run()


# ---- what cannot be talked to --------------------------------------------------------------------


def test_models_that_answer_no_conversation_are_told(
    generation, classification, llama, bert, tokenizer, tmp_path, monkeypatch, capsys
):
    for name, model in (("writer", llama), ("judge", bert)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    with listening(build_app(generation)) as writer, listening(build_app(classification)) as judge:
        for place, words in (
            (tmp_path / "writer", "has no chat template"),
            (writer, "has no chat template"),
            (tmp_path / "judge", "a model for text_classification"),
            (judge, "a model for text_classification"),
            (tmp_path / "none", "none"),
        ):
            code, out, err = chat(monkeypatch, capsys, b"hi\n", place)
            assert (code, out) == (2, "")
            assert words in err.partition("error: ")[2]


def test_a_token_is_taken_from_the_environment(generation, template, monkeypatch, capsys):
    monkeypatch.delenv("RAYMODEL_TOKEN", raising=False)
    with listening(build_app(generation, rules_of(token="secret"))) as url:
        code, _, err = chat(monkeypatch, capsys, b"hi\n", url)
        assert code == 2
        assert "asks for a token" in err
        assert "export RAYMODEL_TOKEN=" in err
        monkeypatch.setenv("MINE", "wrong")
        code, _, err = chat(monkeypatch, capsys, b"hi\n", url, "--token-env", "MINE")
        assert code == 2
        assert "refuses the token in MINE" in err
        assert "wrong" not in err
        monkeypatch.setenv("MINE", "secret")
        code, out, _ = chat(monkeypatch, capsys, b"hi\n", url, "--token-env", "MINE")
        assert (code, out[-1]) == (0, "\n")


def test_a_refusal_is_told_in_the_servers_words(generation, template, monkeypatch, capsys):
    with listening(build_app(generation)) as url:
        code, out, err = chat(monkeypatch, capsys, b"hi\n", url, "--max-tokens", 100_000)
        assert (code, out) == (2, "")
        assert "answered 400: max_tokens is 100000" in err
        code, _, err = chat(monkeypatch, capsys, b"hi\n", url, "--name", "other")
        assert code == 2
        assert "no model 'other'; it has tiny" in err


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("http://127.0.0.1:1", 1, "cannot be reached"),
        ("localhost:8000", 2, "give http://localhost:8000"),
        ("http://127.0.0.1:none", 2, "no URL of a server"),
        ("http://user:word@127.0.0.1", 2, "no URL of a server"),
    ],
)
def test_what_is_no_server_is_told(url, code, words, monkeypatch, capsys):
    found, out, err = chat(monkeypatch, capsys, b"hi\n", url)
    assert (found, out) == (code, "")
    assert words in err


# ---- a server that is busy, slow, or another -----------------------------------------------------


class Server:
    """Answers as it is told; counts what it was asked."""

    def __init__(self, *responses):
        self.responses, self.asked, self.left = list(responses), [], 0
        self.app = Starlette(
            routes=[
                Route("/v1/models", lambda request: JSONResponse({"data": [{"id": "m"}]})),
                Route("/v1/chat/completions", self.answer, methods=["POST"]),
            ]
        )

    async def answer(self, request):
        self.asked.append(await request.json())
        response = self.responses.pop(0)
        return response(self) if inspect.isfunction(response) else response


def streamed(*pieces, is_whole=True):
    async def events():
        for piece in pieces:
            yield f"data: {json.dumps(piece)}\n\n"
        if is_whole:
            yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def said(text):
    return {"choices": [{"delta": {"content": text}}]}


def test_a_busy_server_is_asked_again_when_it_says(monkeypatch, capsys):
    busy = JSONResponse({"error": {"message": "full"}}, 503, {"Retry-After": "0"})
    server = Server(busy, busy, streamed(said("yes"), {"choices": [], "usage": {}}))
    with listening(server.app) as url:
        assert chat(monkeypatch, capsys, b"hi\n", url)[:2] == (0, "yes\n")
    assert len(server.asked) == 3
    patient = JSONResponse({"error": {"message": "full"}}, 503, {"Retry-After": "500"})
    with listening(Server(patient).app) as url:
        code, _, err = chat(monkeypatch, capsys, b"hi\n", url)
    assert code == 1
    assert "answered 503: full" in err


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_that_does_not_say_until_when_is_asked_after_growing_waits(
    status, monkeypatch, capsys
):
    waits = []
    clock = types.SimpleNamespace(sleep=waits.append, monotonic=time.monotonic)
    monkeypatch.setattr(remote, "time", clock)
    busy = JSONResponse({"error": {"message": "full"}}, status)
    server = Server(*[busy] * 3, streamed(said("yes"), {"choices": [], "usage": {}}))
    with listening(server.app) as url:
        assert chat(monkeypatch, capsys, b"hi\n", url)[:2] == (0, "yes\n")
    assert waits == [1, 2, 4]
    waits.clear()
    server = Server(*[busy] * 9)
    with listening(server.app) as url:
        code, _, err = chat(monkeypatch, capsys, b"hi\n", url)
    assert (code, len(server.asked), waits) == (1, 6, [1, 2, 4, 8, 16]), "no fault of the request"
    assert f"answered {status}: full" in err


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (streamed(said("half"), is_whole=False), "broke off"),
        (streamed(said("half"), {"error": {"message": "no time"}}), "no time"),
    ],
)
def test_half_an_answer_is_no_answer(response, words, monkeypatch, capsys):
    with listening(Server(response).app) as url:
        code, out, err = chat(monkeypatch, capsys, b"hi\n", url)
    assert (code, out) == (1, "half\n")
    assert words in err


def test_a_token_is_not_carried_to_where_a_server_points(monkeypatch, capsys):
    monkeypatch.setenv("RAYMODEL_TOKEN", "secret")
    other = Server(streamed(said("stolen")))
    with listening(other.app) as away:
        moved = RedirectResponse(f"{away}/v1/chat/completions", 302)
        with listening(Server(moved).app) as url:
            code, out, err = chat(monkeypatch, capsys, b"hi\n", url)
    assert (code, out, other.asked) == (2, "", [])
    assert "answered 302" in err


def test_at_a_terminal_ctrl_c_stops_an_answer_and_ctrl_d_the_session():
    def endless(server):
        async def events():
            try:
                for number in range(1000):
                    yield f"data: {json.dumps(said(f'<{number}>'))}\n\n"
                    await asyncio.sleep(0.05)
            finally:
                server.left += 1

        return StreamingResponse(events(), media_type="text/event-stream")

    server = Server(endless, streamed(said("\x1b]0;evil\x07again")))
    with listening(server.app) as url, Keyboard("chat", url) as keyboard:
        keyboard.wait_for("Ctrl-D ends\r\n> ")
        keyboard.type("tell\n")
        keyboard.wait_for("<3>")
        keyboard.type("\x03")
        keyboard.wait_for("stopped\r\n> ")
        keyboard.type("\x03")
        keyboard.wait_for("Ctrl-D ends\r\n> ")
        keyboard.type("go on\n")
        keyboard.wait_for("]0;evilagain\r\n> ")
        keyboard.type("\x04")
        assert keyboard.end() == 0
        deadline_s = time.monotonic() + 60
        while not server.left and time.monotonic() < deadline_s:
            time.sleep(0.05)
    assert server.left == 1
    second = server.asked[1]
    assert [turn["role"] for turn in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][1]["content"].startswith("<0><1><2><3>")


# Makes its input the terminal of its session, whose Ctrl-C it then gets. What runs in the
# background of a script ignores that, and so would the command.
OWN_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class Keyboard:
    """The command at a terminal of its own."""

    def __init__(self, *arguments):
        self._arguments, self._seen = arguments, ""

    def __enter__(self):
        self._terminal, theirs = pty.openpty()
        # `pty.fork` would copy a process of many threads, with whatever they have locked.
        self._process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, "-m", "raymodel", *self._arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"TERM": "dumb"},
            start_new_session=True,
        )
        os.close(theirs)
        return self

    def __exit__(self, *error):
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    def type(self, text):
        os.write(self._terminal, text.encode())

    def wait_for(self, text):
        deadline_s = time.monotonic() + 60
        while text not in self._seen:
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, self._seen
            if select.select([self._terminal], [], [], left_s)[0]:
                self._seen += os.read(self._terminal, 10_000).decode()
        self._seen = self._seen.partition(text)[2]

    def end(self):
        return self._process.wait(60)
