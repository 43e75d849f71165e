"""The door to a cluster's head: its dashboard, asked with the cluster's token."""

from __future__ import annotations

import functools
import http.client
import json
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.job_submission import JobSubmissionClient

from raymodel.cluster.address import no_variables
from raymodel.cluster.patience import aloud
from raymodel.cluster.token import find_token, token_refused
from raymodel.errors import ClusterError, RaymodelError, RequestError

# They tell of each package, and how each socket was closed.
_TALKATIVE = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
_PROBE_S = 5.0  # a head in the same network answers in milliseconds
_ANSWER_S = 60.0  # it looks for the job's agent for ten; no request of ours takes longer
_MAX_ANSWER_BYTES = 2**24


def open_client(url: str) -> JobSubmissionClient:
    """A client of the Jobs API, after one request that proves that a head is there.

    Args:
        url: The dashboard of the cluster's head, from `dashboard_url`.

    Raises:
        RequestError: What answers there is no head, or a missing or wrong token.
        ClusterError: Nothing answers.
    """
    _check_is_head(url)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    with no_variables(), asking(url):
        client = JobSubmissionClient(url, headers=_headers())
    _limit_requests(client)
    return client


def ask_dashboard(url: str, path: str, limit_s: float = _PROBE_S) -> Any:
    """What the dashboard says at a path, as JSON. Raises as `open_client`."""
    headers = _headers()
    try:
        request = urllib.request.Request(f"{url}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=limit_s) as response:
            return json.loads(response.read(_MAX_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        raise _refused(url, error.code) from error
    except (http.client.HTTPException, ValueError) as error:  # another protocol, or no JSON
        raise RequestError(
            f"what answers at {url} is no Ray head ({type(error).__name__}); give the address of "
            "its dashboard, http://HEAD:8265"
        ) from error
    except OSError as error:  # URLError, a time-out, a reset
        raise ClusterError(
            f"no Ray head answers at {url} ({getattr(error, 'reason', error)}); start one with "
            "`ray start --head`, or give the address of its dashboard"
        ) from error


@contextmanager
def asking(url: str, what: str = "to answer") -> Iterator[None]:
    """Says so when the head takes its time, and turns what Ray's client raises, with a traceback of
    the head as its text, into one line.

    Raises:
        ClusterError: in place of the client's errors.
    """
    try:
        with aloud(f"the Ray head at {url} {what}"):
            yield
    except RaymodelError:
        raise
    except (RuntimeError, OSError, ValueError, KeyError) as error:  # requests' errors are OSErrors
        if isinstance(error, BrokenPipeError):  # of who reads what this command prints
            raise
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        raise ClusterError(
            f"the Ray head at {url} could not answer ({lines[-1].strip()}); look at its "
            "dashboard, or try again"
        ) from error


def _headers() -> dict[str, str]:
    token = find_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _check_is_head(url: str) -> None:
    """Asks the head for its version; Ray's own client would wait for minutes on a dead address."""
    version = ask_dashboard(url, "/api/version")
    if not isinstance(version, dict) or "ray_version" not in version:
        raise RequestError(
            f"what answers at {url} is no Ray head (it tells no version of Ray); give the address "
            "of its dashboard, http://HEAD:8265"
        )


def _limit_requests(client: JobSubmissionClient) -> None:
    """Ray's client waits for ever for a head that took its request and is lost."""
    client._do_request = functools.partial(client._do_request, timeout=_ANSWER_S)  # type: ignore[method-assign]


def _refused(url: str, status: int) -> RaymodelError:
    if status in (401, 403):
        return token_refused(url, f" (HTTP {status})")
    if status >= 500:  # such as a gateway's, before the head behind it
        return ClusterError(
            f"the Ray head at {url} cannot answer (HTTP {status}); look at its log, or try again"
        )
    return RequestError(
        f"what answers at {url} is no Ray head (HTTP {status}); give its dashboard's address"
    )
