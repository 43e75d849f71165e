"""Who is told of an alert: a log of JSON Lines, and a webhook.

Notices wait in the state, which they got into together with what they are about; they leave it when
they are told, or given up. So each is in the log once, and is posted at least once, always under
the same name.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raymodel.errors import SpecError
from raymodel.monitor.spec import WebhookSpec
from raymodel.monitor.state import Notice, State
from raymodel.remote import open_directly

_FIRST_WAIT_S = 2.0
_MOST_WAIT_S = 300.0
_MOST_WAITING = 100  # for a webhook that is down for long; the log has all
_TAIL_BYTES = 2**20  # of the log, in which one looks for what a monitor that was killed wrote last


class Log:
    """`alerts.jsonl`: each notice is a line, once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = self._mend()

    def write(self, value: dict[str, Any]) -> None:
        """Appends a line, unless one of this `id` and `event` is there."""
        name = value["id"], value["event"]
        if name in self._written:
            return
        with open(self.path, "ab") as file:
            file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._written.add(name)

    def _mend(self) -> set[tuple[str, str]]:
        """Cuts off a line that was not written whole; the names of the last ones."""
        if not self.path.exists():
            return set()
        with open(self.path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - _TAIL_BYTES)
            file.seek(start)
            tail = file.read()
            whole = tail.rfind(b"\n") + 1
            if whole < len(tail):
                file.truncate(start + whole)
        names = set()
        for line in tail[:whole].splitlines()[1 if start else 0 :]:
            try:
                told = json.loads(line)
                names.add((str(told["id"]), str(told["event"])))
            except (ValueError, KeyError, TypeError):  # somebody else's line
                continue
        return names


class Webhook:
    """A URL that is posted to.

    Args:
        spec: which; its variable is read here.

    Raises:
        SpecError: the variable is not set, or holds no URL.
    """

    def __init__(self, spec: WebhookSpec) -> None:
        self.spec = spec
        self._url = os.environ.get(spec.url_env, "").strip()
        parts = urlsplit(self._url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise SpecError(
                f"monitor.webhook.url_env names {spec.url_env}, which "
                + ("holds no URL" if self._url else "is not set")
                + f"; it must be the http(s) URL that alerts are posted to: export {spec.url_env}=…"
            )
        self._opener = open_directly(self._url)

    def post(self, value: dict[str, Any]) -> None:
        """Posts a notice. Raises PostError, which tells nothing of the URL."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": value["id"]}
        request = urllib.request.Request(self._url, json.dumps(value).encode(), headers)
        try:
            self._opener.open(request, timeout=self.spec.timeout).close()
        except urllib.error.HTTPError as error:
            # What is refused once is refused again; a redirect would go to another server.
            is_lasting = error.code < 500 and error.code not in (408, 425, 429)
            raise PostError(f"it answered {error.code}", is_lasting=is_lasting) from None
        except (OSError, HTTPException, ValueError) as error:
            why = getattr(error, "reason", None) or error
            raise PostError(f"it cannot be reached ({why})", is_lasting=False) from None


class PostError(Exception):
    """A webhook that did not take a notice."""

    def __init__(self, why: str, *, is_lasting: bool) -> None:
        super().__init__(why)
        self.is_lasting = is_lasting


class Post:
    """Takes notices out of the state.

    Args:
        state: where they wait.
        log: has all of them.
        webhook: perhaps.
        warn: is told what was given up.
        clock: seconds since 1970, as waiting goes on over a restart.
    """

    def __init__(
        self,
        state: State,
        log: Log,
        webhook: Webhook | None,
        warn: Callable[[str], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state, self._log, self._webhook = state, log, webhook
        self._warn, self._clock = warn, clock

    def deliver(self) -> bool:
        """Tells what is due; whether something still waits."""
        notices = self._state.notices()
        for notice in notices:
            self._log.write(notice.value["alert"])
            if self._webhook is None:
                self._state.drop_notice(notice.number)
        if self._webhook is None:
            return False
        for notice in notices[:-_MOST_WAITING]:
            self._give_up(notice, f"more than {_MOST_WAITING} alerts wait")
        for notice in notices[-_MOST_WAITING:]:
            if notice.value["due_s"] <= self._clock() and not self._try(self._webhook, notice):
                break  # one that is down is not asked for each of those that wait
        return bool(self._state.notices())

    def _try(self, webhook: Webhook, notice: Notice) -> bool:
        tries = notice.value["tries"] + 1
        try:
            webhook.post(notice.value["alert"])
        except PostError as error:
            if error.is_lasting or tries >= webhook.spec.tries:
                self._give_up(notice, f"{error}, at try {tries}")
                return True
            wait_s = min(_MOST_WAIT_S, _FIRST_WAIT_S * 2 ** (tries - 1))
            due_s = self._clock() + wait_s
            self._state.change_notice(
                notice.number, notice.value | {"tries": tries, "due_s": due_s}
            )
            return False
        self._state.drop_notice(notice.number)
        return True

    def _give_up(self, notice: Notice, why: str) -> None:
        alert = notice.value["alert"]
        self._log.write({"id": alert["id"], "event": "undelivered", "why": why})
        with self._state.transaction():
            self._state.drop_notice(notice.number)
            self._state.count("undelivered")
        self._warn(f"the webhook did not take the alert {alert['id']}: {why}; the log has it")


def notice_of(alert: dict[str, Any]) -> dict[str, Any]:
    """What waits in the state for an alert."""
    return {"alert": alert, "tries": 0, "due_s": 0.0}
