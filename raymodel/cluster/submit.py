"""`raymodel submit`: runs a job file on a Ray cluster through its Jobs API.

The current directory travels along as the job's working directory; the cluster's own Python needs
raymodel's dependencies. The command's exit code is the job's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiohttp import ClientError  # what Ray's own client raises while it streams
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from raymodel.cluster.package import check_size, find_excludes
from raymodel.errors import ClusterError
from raymodel.spec.load import LoadedJob

_PROBE_S = 5.0  # a head in the same network answers in milliseconds
_POLL_S = 1.0
_AGENT_S = 60.0
_SILENCE_S = 60.0  # a head that restarts is back in half of it


def submit(
    loaded: LoadedJob, *, address: str, overrides: Sequence[str] = (), follow: bool = True
) -> int:
    """Submits a job and, when `follow`, prints its log until it ends.

    Args:
        loaded: The checked job file; it must lie below the current directory.
        address: The dashboard of the cluster's head, `http://HEAD:8265`.
        overrides: `--set` texts to pass on.
        follow: Wait for the end. Without, return 0 once the job is accepted.

    Returns:
        The exit code of the job's own command.

    Raises:
        ClusterError: No head at the address, a missing or wrong token, a working directory that
            is too large, or a job file outside it.
    """
    folder = Path.cwd()
    entrypoint = build_entrypoint(loaded.path, folder, overrides)
    client = _connect(address)
    excludes = find_excludes(folder, loaded.job.storage)
    check_size(folder, excludes)
    _warn_of_storage(loaded.job.storage)
    submission_id = _submit_when_ready(
        client,
        entrypoint=entrypoint,
        runtime_env={"working_dir": str(folder), "excludes": excludes},
        metadata={"job": loaded.job.name},
    )
    print(f"submitted {loaded.job.name} as {submission_id}", flush=True)
    if not follow:
        print(f"follow it: ray job logs --follow {submission_id} --address {address}")
        return 0
    return _follow(client, submission_id)


def _submit_when_ready(client: JobSubmissionClient, **job: Any) -> str:
    """A head answers a few seconds before its job agent does.

    Raises:
        ClusterError: no agent took the job in time.
    """
    deadline = time.monotonic() + _AGENT_S
    while True:
        try:
            return client.submit_job(**job)
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the Ray head took no job within {_AGENT_S:.0f} s ({error}); look at its log, "
                    "dashboard_agent.log: a second Ray on that host needs a "
                    "--dashboard-agent-listen-port of its own"
                ) from error
            time.sleep(_POLL_S)


def build_entrypoint(job_path: Path, folder: Path, overrides: Sequence[str]) -> str:
    """The shell command that the cluster runs in the unpacked working directory."""
    try:
        inside = job_path.resolve().relative_to(folder.resolve())
    except ValueError:
        raise ClusterError(
            f"{job_path} lies outside {folder}, which is what travels to the cluster; "
            "change to a directory that holds the job file"
        ) from None
    words = ["python", "-m", "raymodel", "run", inside.as_posix()]
    for override in overrides:
        words += ["--set", override]
    return shlex.join(words)


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


def _connect(address: str) -> JobSubmissionClient:
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
    return JobSubmissionClient(url, headers=headers)


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


def _warn_of_storage(storage: str) -> None:
    if "://" not in storage and not Path(storage).is_absolute():
        print(
            f"note: storage {storage!r} is relative, so on the cluster it lies in the unpacked "
            "working directory and goes when that does; to keep it, use a bucket or a shared "
            "absolute path",
            flush=True,
        )


def _follow(client: JobSubmissionClient, submission_id: str) -> int:
    # Ray's client tells at each end how its socket was closed.
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    try:
        asyncio.run(_print_log(client, submission_id))
        return _exit_code(_wait(client, submission_id))
    except KeyboardInterrupt:
        print(f"\nthe job goes on on the cluster; to stop it: ray job stop {submission_id}")
        raise


async def _print_log(client: JobSubmissionClient, submission_id: str) -> None:
    try:
        async for text in client.tail_job_logs(submission_id):
            print(text, end="", flush=True)
    except (RuntimeError, OSError, ClientError) as error:  # the stream broke, not the job
        print(f"\nlost the log ({error}); waiting for the job itself", flush=True)


def _wait(client: JobSubmissionClient, submission_id: str) -> JobDetails:
    silent_since: float | None = None
    while True:
        try:
            details = client.get_job_info(submission_id)
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > _SILENCE_S:
                raise ClusterError(
                    f"the Ray head has not answered for {_SILENCE_S:.0f} s ({error}), so how "
                    f"{submission_id} ended is unknown. When a head is there again, submit the "
                    "same file: what is complete is skipped, and the rest goes on"
                ) from error
        else:
            silent_since = None
            if details.status.is_terminal():
                return details
        time.sleep(_POLL_S)


def _exit_code(details: JobDetails) -> int:
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.driver_exit_code:
        return int(details.driver_exit_code)
    print(f"the job ended as {details.status}: {details.message}")
    return 1
