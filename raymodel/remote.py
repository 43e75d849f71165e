"""A server that is asked over HTTP, as any client would."""

from __future__ import annotations

import ipaddress
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from raymodel.errors import RaymodelError, RequestError

TOKEN = "RAYMODEL_TOKEN"
"""The environment variable with the server's token, unless another is named."""
_SILENCE_S = 300.0  # of a server that has taken the request; a long queue is told by 503
_PATIENCE_S = 120.0  # with one that says when to come again
_BUSY = (429, 503)
_FIRST_WAIT_S = 1.0
"""For one that is busy and does not say until when; doubled after each try."""
_UNTOLD_TRIES = 6  # half a minute in all, as with storages that fail (`storage/retry.py`)
_SHOWN = 300  # characters of an answer that is none


class Remote:
    """A server of OpenAI's API.

    Args:
        url: of the server, with or without `/v1`.
        token_env: the environment variable with the token.
        token: known without it.
        say: is told while the server makes us wait.

    Raises:
        RequestError: the URL or the token is wrong.
    """

    def __init__(
        self,
        url: str,
        *,
        token_env: str = TOKEN,
        token: str | None = None,
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.url = _base(url)
        self._token_env, self._say = token_env, say
        self._token = (os.environ.get(token_env, "") if token is None else token).strip()
        if not (self._token.isascii() and self._token.isprintable()):
            raise RequestError(
                f"{token_env} holds characters that no header can have; it must be the token alone"
            )
        # A token is for this server: no other is told it.
        self._opener = open_directly(self.url)

    def close(self) -> None:
        """Ends its connections."""
        self._opener.close()

    def find_model(self, asked: str | None) -> str:
        """The name of its only model, or of the one that is asked for. Raises RequestError."""
        told = self.json("/v1/models")
        try:
            names = [str(each["id"]) for each in told["data"]]
        except (KeyError, TypeError):
            raise RequestError(
                f"{self.url}/v1/models lists no models; give the URL of a server with OpenAI's API"
            ) from None
        if asked in names:
            return str(asked)
        known = ", ".join(names) or "none"
        if asked is not None:
            raise RequestError(f"{self.url} has no model {asked!r}; it has {known}")
        if len(names) != 1:
            raise RequestError(f"{self.url} has these models: {known}; name one: --name NAME")
        return names[0]

    def json(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The object that it answers with; empty where that is none. Raises as `ask`."""
        with self.ask(path, body) as response:
            try:
                told = json.load(response)
            except (ValueError, OSError, HTTPException):
                told = None
        return told if isinstance(told, dict) else {}

    def ask(self, path: str, body: dict[str, Any] | None = None) -> HTTPResponse:
        """The response to a request that was taken. Of a server that is too busy it is asked for
        again: when that says, else after waits that grow.

        Raises:
            RequestError: it refuses this request, and would again.
            RaymodelError: it cannot be reached, fails, or was busy for too long.
        """
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        deadline_s, untold = time.monotonic() + _PATIENCE_S, 0
        while True:
            request = urllib.request.Request(self.url + path, data, headers)
            try:
                response: HTTPResponse = self._opener.open(request, timeout=_SILENCE_S)
                return response
            except urllib.error.HTTPError as error:
                again_s = _told_again_s(error)
                if again_s is None:
                    again_s, untold = _FIRST_WAIT_S * 2**untold, untold + 1
                is_late = untold == _UNTOLD_TRIES or time.monotonic() + again_s > deadline_s
                if error.code not in _BUSY or is_late:
                    raise self._refused(path, error) from None
                self._say(f"{_message(error)} (asking again in {again_s:g} s)")
                time.sleep(again_s)
            except (OSError, HTTPException, ValueError) as error:
                why = getattr(error, "reason", None) or error
                raise RaymodelError(
                    f"{self.url} cannot be reached ({why}); start the server (raymodel run JOB "
                    "--keep-serving), or give its URL, such as http://127.0.0.1:8000"
                ) from error

    def _refused(self, path: str, error: urllib.error.HTTPError) -> RaymodelError:
        if error.code == 401:
            seen = f"refuses the token in {self._token_env}" if self._token else "asks for a token"
            fix = f"put its token into the environment: export {self._token_env}=…"
            return RequestError(f"{self.url} {seen}; {fix}")
        told = f"{self.url}{path} answered {error.code}: {_message(error)}"
        is_lasting = 300 <= error.code < 500 and error.code not in _BUSY
        return RequestError(told) if is_lasting else RaymodelError(told)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *given: Any, **named: Any) -> None:
        return None


def open_directly(url: str) -> urllib.request.OpenerDirector:
    """What opens a URL and follows nowhere else; of this machine, past the proxies of the
    environment, which know nothing of it."""
    proxies = urllib.request.ProxyHandler({} if _is_here(url) else None)
    return urllib.request.build_opener(proxies, _NoRedirects())


def _base(url: str) -> str:
    parts = urlsplit(url)
    try:
        host, _ = parts.hostname, parts.port
    except ValueError:  # of the port
        host = None
    if not host or parts.username or parts.query or parts.fragment:
        raise RequestError(
            f"{url!r} is no URL of a server; give one such as http://127.0.0.1:8000, without a "
            "user, a question mark or a fragment"
        )
    return url.rstrip("/").removesuffix("/v1")


def _is_here(url: str) -> bool:
    """Whether it is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _told_again_s(error: urllib.error.HTTPError) -> float | None:
    """When to come again, of who said so in seconds; None of others."""
    told = error.headers.get("Retry-After", "")
    return float(told) if told.isdigit() else None


def _message(error: urllib.error.HTTPError) -> str:
    """What a refusal says; read once."""
    if not hasattr(error, "said"):
        raw = error.read().decode(errors="replace")
        try:
            said = str(json.loads(raw)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            said = " ".join(raw.split())[:_SHOWN] or error.reason
        error.said = said  # type: ignore[attr-defined]
    return str(error.said)
