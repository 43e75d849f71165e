"""The keys that clients send as bearer tokens: kept as digests, and how often each may ask."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raymodel.errors import SpecError
from raymodel.serve.refusal import Refusal
from raymodel.serve.spec import ListenSpec

_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")
ANYBODY = "anybody"
"""The name of those who ask a server without keys."""


@dataclass(frozen=True)
class Key:
    """One of the tokens that are taken."""

    name: str
    digest: bytes
    """SHA-256: the token itself is known to its client alone."""


def load_keys(
    spec: ListenSpec, environment: Mapping[str, str] | None = None, section: str = "serve"
) -> tuple[Key, ...]:
    """The keys that a spec names, of the environment and of a file; none where it names none.

    Args:
        section: of the job file, for messages.

    Raises:
        SpecError: a variable that is not set, a file that is not there or that others can read, or
            what is no token.
    """
    keys: list[Key] = []
    if spec.token_env is not None:
        given = os.environ if environment is None else environment
        keys += _of_environment(spec.token_env, given, f"{section}.token_env")
    if spec.token_file is not None:
        keys += _of_file(Path(spec.token_file), f"{section}.token_file")
    return tuple(keys)


def new_key(name: str) -> tuple[str, Key]:
    """A token that nobody else knows, and its key."""
    token = secrets.token_urlsafe(32)
    return token, Key(name, digest_of(token))


def digest_of(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).digest()


def find_key(keys: Sequence[Key], authorization: str) -> str | None:
    """The name of the key that a request has; None where it has none of these.

    All are compared, and each in constant time, so that the delay tells nothing of any.
    """
    if not keys:
        return ANYBODY
    scheme, _, token = authorization.partition(" ")
    given = hashlib.sha256(token.strip().encode(errors="replace")).digest()
    found = [key.name for key in keys if hmac.compare_digest(key.digest, given)]
    return found[0] if found and scheme.lower() == "bearer" else None


class Quota:
    """How often each key may ask: so many requests a minute, as a bucket that is refilled.

    Args:
        requests_per_min: None sets no limit.
    """

    def __init__(self, requests_per_min: int | None) -> None:
        self._most = requests_per_min
        self._left: dict[str, tuple[float, float]] = {}
        """Name → what was left, and when."""

    def take(self, name: str) -> None:
        """Counts a request. Raises Refusal (429) when there were too many."""
        if self._most is None:
            return
        now_s = time.monotonic()
        left, then_s = self._left.get(name, (float(self._most), now_s))
        left = min(self._most, left + (now_s - then_s) * self._most / 60)
        if left < 1:
            self._left[name] = (left, now_s)
            raise Refusal(
                429,
                f"this key may send {self._most:,} requests a minute (serve.requests_per_min); try "
                "again when Retry-After says",
                code="rate_limit_exceeded",
                retry_after_s=math.ceil((1 - left) * 60 / self._most),
            )
        self._left[name] = (left - 1, now_s)


# ---- where keys are written ----------------------------------------------------------------------


def _of_environment(variable: str, environment: Mapping[str, str], field: str) -> Iterator[Key]:
    words = environment.get(variable, "").split()
    if not words:
        raise SpecError(
            f"{field} names {variable}, which is not set; it must hold the bearer "
            f"token that clients send, or several. Set it: export {variable}=…"
        )
    for number, word in enumerate(words, 1):
        yield _key(f"{variable}-{number}", word, f"{variable}, word {number}")


def _of_file(path: Path, field: str) -> Iterator[Key]:
    """A token a line, alone or behind a name; empty lines and those that begin with # count not."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SpecError(
            f"{field} {str(path)!r} cannot be read ({why}); write a token a line, or "
            "sha256: and its digest"
        ) from None
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise SpecError(
            f"{field} {str(path)!r} has the mode {stat.S_IMODE(mode):03o}, so that others "
            f"than its owner and group can use it; take their rights away: chmod 600 {path}"
        )
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, words) for number, words in lines if words and words[0][0] != "#"]
    if not lines:
        raise SpecError(f"{field} {str(path)!r} holds no token; write one a line")
    for number, words in lines:
        where = f"{path.name}, line {number}"
        if len(words) > 2:
            raise SpecError(f"{where}: {len(words)} words; write a token, or a name and a token")
        yield _key(words[0] if len(words) == 2 else f"line-{number}", words[-1], where)


def _key(name: str, word: str, where: str) -> Key:
    hashed = _DIGEST.fullmatch(word)
    if hashed:
        return Key(name, bytes.fromhex(hashed[1]))
    if word.lower().startswith("sha256:"):
        raise SpecError(
            f"{where}: what follows sha256: is not the 64 digits of a digest; make it with "
            "printf %s TOKEN | sha256sum"
        )
    return Key(name, digest_of(word))
