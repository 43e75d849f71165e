"""Following a submitted job: its log, its end, its exit code; and stopping it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from aiohttp import ClientError  # what Ray's own client raises while it streams
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from raymodel.cluster.head import asking, open_client
from raymodel.cluster.served import is_served
from raymodel.cluster.submissions import find_submission
from raymodel.errors import ClusterError

_POLL_S = 1.0
_SILENCE_S = 60.0  # a head that restarts is back in half of it
_LAST_LINES = 3  # of a stopped job's log: enough for the words that it ended with
_STOPPED = 130  # what the shell says of an interrupted command: it can be resumed


def follow(client: JobSubmissionClient, submission_id: str, url: str) -> int:
    """Prints the log of a job until it ends. Returns the exit code of its command.

    Raises:
        ClusterError: the head is gone, so nobody knows how the job ended.
    """
    try:
        asyncio.run(_print_log(client, submission_id))
        return _exit_code(wait_for_end(client, submission_id))
    except KeyboardInterrupt:
        print(
            f"\nthe job goes on on the cluster; to stop it: raymodel stop {submission_id} "
            f"--address {url}"
        )
        raise


def print_logs(
    reference: str, *, url: str, overrides: Sequence[str] = (), follow_on: bool = False
) -> int:
    """Prints what a submitted job has logged.

    Args:
        reference: a job file, a job's name, or a submission id.
        url: the dashboard of the cluster's head.
        overrides: `--set` texts, where one version of the job file is meant.
        follow_on: go on until the job ends, and return its exit code.

    Raises:
        RequestError: no such submission.
        ClusterError: no head.
    """
    client = open_client(url)
    with asking(url):
        details = find_submission(client, reference, overrides)
        assert details.submission_id is not None, "a submission was looked for"
        if not follow_on:
            print(client.get_job_logs(details.submission_id), end="")
            return 0
    return follow(client, details.submission_id, url)


def stop(reference: str, *, url: str, overrides: Sequence[str] = ()) -> int:
    """Asks a submitted job to stop, and waits until it has: a training run saves a checkpoint.

    Args: as `print_logs`.

    Raises: as `print_logs`.
    """
    client = open_client(url)
    with asking(url):
        details = find_submission(client, reference, overrides)
        submission_id = details.submission_id
        assert submission_id is not None, "a submission was looked for"
        if details.status.is_terminal():
            print(f"{submission_id} has ended before: {details.status}")
            _tell_of_app(url, str((details.metadata or {}).get("job", "")))
            return 0
        client.stop_job(submission_id)
        print(f"{submission_id} was asked to stop; waiting until it has", flush=True)
    ended = wait_for_end(client, submission_id)
    with asking(url):
        last = client.get_job_logs(submission_id).rstrip().splitlines()[-_LAST_LINES:]
    print("\n".join([*(f"  {line}" for line in last), f"{submission_id} ended: {ended.status}"]))
    return 0


def _tell_of_app(url: str, job_name: str) -> None:
    if is_served(url, job_name):
        print(f"its app answers on; to take it down: raymodel stop --serving {job_name}")


async def _print_log(client: JobSubmissionClient, submission_id: str) -> None:
    stream, next_text = client.tail_job_logs(submission_id), None
    try:
        while True:
            next_text = next_text or asyncio.ensure_future(anext(stream))
            done, _ = await asyncio.wait([next_text], timeout=_SILENCE_S)
            if not done:  # a job may be silent; a head that is gone is, too, for ever
                await asyncio.to_thread(client.get_job_info, submission_id)
                continue
            print(next_text.result(), end="", flush=True)
            next_text = None
    except StopAsyncIteration:
        return
    except BrokenPipeError:  # of who reads what this command prints
        raise
    except (RuntimeError, OSError, ClientError) as error:  # the stream broke, not the job
        print(f"\nlost the log ({error}); waiting for the job itself", flush=True)


def wait_for_end(client: JobSubmissionClient, submission_id: str) -> JobDetails:
    """Returns what became of a submission, once it has ended.

    Raises:
        ClusterError: the head is gone, so nobody knows.
    """
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
    if details.status == JobStatus.STOPPED:
        print("the job was stopped; submit the same file again to go on")
        return _STOPPED
    print(f"the job ended as {details.status}: {details.message}")
    return 1
