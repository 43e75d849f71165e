"""A server of OpenAI's API that translates by a rule, and fails at what a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from raymodel.testing.http import listening

THERE, BACK = "Translate: ", "Translate back: "
"""Before the text of a prompt."""


def abroad(text: str) -> str:
    """The language that everything is translated into: words spelt backwards."""
    return " ".join(word[::-1] for word in text.split())


def home(text: str) -> str:
    """Back again, in other words: from the last one to the first."""
    return " ".join(word[::-1] for word in reversed(text.split()))


def paraphrase_of(text: str) -> str:
    return home(abroad(text))


@dataclass
class StubTranslator:
    """What it was asked, and how it misbehaves."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    """Prompts, those that were not answered too."""
    says: Callable[[str], str | int | None] = lambda prompt: None
    """Prompt → a text in the place of the right one, or the status of a refusal."""
    finish_reason: str = "stop"
    token: str | None = None
    most_at_once: int = 0
    """Requests that it had at the same time."""
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def spec(self) -> dict[str, Any]:
        """`augment.back_translation` with both ways here."""
        ways = {"there": THERE, "back": BACK}
        return {way: {"url": self.url, "prompt": f"{ask}{{text}}"} for way, ask in ways.items()}

    def answer(self, prompt: str) -> str | int:
        with self._lock:
            self.asked.append(prompt)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            told = self.says(prompt)
            if told is not None:
                return told
            if prompt.startswith(BACK):
                return home(prompt.removeprefix(BACK))
            return abroad(prompt.removeprefix(THERE))
        finally:
            with self._lock:
                self._at_once -= 1


@contextmanager
def stub_translator() -> Iterator[StubTranslator]:
    """One that listens on a port of this machine."""
    stub = StubTranslator()
    with listening(_handler(stub)) as stub.url:
        yield stub


def _handler(stub: StubTranslator) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            if self._is_let_in():
                told = {"data": [{"id": "stub"}]} if self.path == "/v1/models" else None
                self._tell(200 if told else 404, told or {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._is_let_in():
                return
            said = stub.answer(body["messages"][-1]["content"])
            if isinstance(said, int):
                self._tell(said, {"error": {"message": "as the test asked"}})
                return
            choice = {"message": {"content": said}, "finish_reason": stub.finish_reason}
            self._tell(200, {"choices": [choice]})

        def _is_let_in(self) -> bool:
            given = self.headers.get("Authorization")
            if stub.token is None or given == f"Bearer {stub.token}":
                return True
            self._tell(401, {"error": {"message": "no"}})
            return False

        def _tell(self, status: int, told: dict[str, Any]) -> None:
            data = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """The tests print nothing of the requests."""

    return Handler
