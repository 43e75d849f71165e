"""A server of OpenAI's API that is talked to over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from http.client import HTTPException, HTTPResponse

from raymodel.errors import RaymodelError
from raymodel.remote import TOKEN, Remote
from raymodel.serve.chat_model import ChatSettings, Turn, no_template, not_a_writer


class RemoteChat:
    """A server, asked as any client would.

    Args:
        url: of the server, with or without `/v1`.
        model: which of its models; it may be left out where there is one.
        token_env: the variable with the token.
        say: is told while the server makes us wait.

    Raises:
        RequestError: the URL, the token or the model is wrong.
        RaymodelError: nothing answers there.
    """

    def __init__(
        self,
        url: str,
        settings: ChatSettings,
        *,
        model: str | None = None,
        token_env: str = TOKEN,
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        self._remote = Remote(url, token_env=token_env, say=say)
        self._settings = settings
        self.name = self._remote.find_model(model)
        self._check_purpose()
        self.about = self._remote.url

    def answer(self, turns: Sequence[Turn]) -> Generator[str, None, None]:
        body = self._settings.body(self.name, turns)
        with self._remote.ask("/v1/chat/completions", body) as response:
            try:
                yield from _pieces(response)
            except (OSError, HTTPException, ValueError) as error:
                raise RaymodelError(f"{self.about}: the answer broke off ({error})") from error

    def close(self) -> None:
        self._remote.close()

    def _check_purpose(self) -> None:
        """Other servers tell nothing of it, or have no `/health` with JSON."""
        try:
            told = self._remote.json("/health")
        except RaymodelError:
            return
        if "kind" in told and told["kind"] != "generation":
            raise not_a_writer(self.name, str(told.get("task")))
        if told.get("chat_template") == "plain":
            raise no_template(self.name)


def _pieces(response: HTTPResponse) -> Iterator[str]:
    """The text in a stream of events."""
    for line in response:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        told = json.loads(data)
        if "error" in told:
            raise RaymodelError(str(told["error"].get("message", told["error"])))
        for choice in told.get("choices", ()):
            if text := choice.get("delta", {}).get("content"):
                yield text
            if choice.get("finish_reason") == "content_filter":
                raise RaymodelError("a filter of the server ended the answer; ask otherwise")
    raise RaymodelError("the answer broke off: its connection was closed before its end")
