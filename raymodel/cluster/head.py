"""The door to a cluster's head: its Jobs API, asked with the cluster's token."""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray.job_submission import JobSubmissionClient

from raymodel.errors import ClusterError

# They tell of each package, and how each socket was closed.
_TALKATIVE = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
_PROBE_S = 5.0  # a head in the same network answers in milliseconds


def open_client(address: str) -> JobSubmissionClient:
    """A client of the Jobs API at `address`, after one request that proves that it is there.

    Args:
        address: The dashboard of the cluster's head, `http://HEAD:8265`.

    Raises:
        ClusterError: No head at the address, or a missing or wrong token.
    """
    url = address if "://" in address else f"http://{address}"
    if not url.startswith(("http://", "https://")):
        raise ClusterError(f"{address!r} is not the address of a dashboard; write http://HEAD:8265")
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # Ray lets these win over an argument
        if os.environ.get(name, url) != url:
            raise ClusterError(
                f"{name} is {os.environ[name]!r} and would win over --address {address}; unset it"
            )
    token = find_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    _probe(url, headers)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    return JobSubmissionClient(url, headers=headers)


def find_token() -> str | None:
    """The bearer token where Ray itself looks for it; None when there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        if named:
            raise ClusterError(f"RAY_AUTH_TOKEN_PATH is {named!r}: no such file") from None
        return None


@contextmanager
def plain_errors(address: str) -> Iterator[None]:
    """Turns what Ray's client raises, with a traceback of the head as its text, into one line.

    Raises:
        ClusterError: in place of the client's errors.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:  # requests' errors are OSErrors
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        raise ClusterError(
            f"the Ray head at {address} could not answer ({lines[-1].strip()}); look at its "
            "dashboard, or try again"
        ) from error


def _probe(url: str, headers: dict[str, str]) -> None:
    """Asks the head for its version; Ray's own client would wait for minutes on a dead address."""
    request = urllib.request.Request(f"{url.rstrip('/')}/api/version", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=_PROBE_S):
            return
    except urllib.error.HTTPError as error:
        raise ClusterError(_refused(url, error.code, bool(headers))) from error
    except OSError as error:  # URLError, a time-out, a reset
        raise ClusterError(
            f"no Ray head answers at {url} ({getattr(error, 'reason', error)}); start one with "
            "`ray start --head`, or give the address of its dashboard"
        ) from error


def _refused(url: str, status: int, has_token: bool) -> str:
    if status in (401, 403):
        seen = "refused the token" if has_token else "asks for a token, and none was found"
        return (
            f"the Ray head at {url} {seen} (HTTP {status}); set RAY_AUTH_TOKEN to the cluster's "
            "token, or put it into ~/.ray/auth_token"
        )
    return f"what answers at {url} is no Ray head (HTTP {status}); give its dashboard's address"
