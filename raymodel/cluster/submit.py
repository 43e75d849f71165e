"""`raymodel submit`: runs a job file on a Ray cluster through its Jobs API.

The current directory travels along as the job's working directory; the cluster's own Python needs
raymodel's dependencies. The command's exit code is the job's. A job that runs already is followed,
one that ended is started again and goes on from where it was.
"""

from __future__ import annotations

import secrets
import shlex
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ray.job_submission import JobSubmissionClient

from raymodel.cluster.follow import follow as follow_job
from raymodel.cluster.head import asking, open_client
from raymodel.cluster.package import check_folder, find_excludes
from raymodel.cluster.submissions import check_no_rival, family_of, find_newest, metadata_of
from raymodel.cluster.variables import take_variables, write_package
from raymodel.errors import ClusterError, RequestError
from raymodel.job.spec import own_parts
from raymodel.spec.load import LoadedJob
from raymodel.spec.own import own_files

_POLL_S = 1.0
_AGENT_S = 60.0
# Ray kills a stopped job after 3 s unless its environment says otherwise; a checkpoint of a large
# model takes minutes.
_STOP_ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": "600"}


def submit(
    loaded: LoadedJob,
    *,
    url: str,
    overrides: Sequence[str] = (),
    environment: Iterable[str] = (),
    follow: bool = True,
) -> int:
    """Submits a job, or attaches to it when it runs already; then prints its log until it ends.

    Args:
        loaded: The checked job file; it must lie below the current directory.
        url: The dashboard of the cluster's head, `http://HEAD:8265`.
        overrides: `--set` texts to pass on.
        environment: Names of variables whose values here the job gets too, such as secrets.
        follow: Wait for the end. Without, return 0 once the job is accepted.

    Returns:
        The exit code of the job's own command.

    Raises:
        RequestError: What answers is no head, a missing or wrong token, a working directory that
            cannot travel, a job file outside it, or a variable that is not set here.
        ClusterError: No head answers, it takes no job, or another version of the job runs.
    """
    folder = Path.cwd()
    entrypoint = build_entrypoint(loaded.path, folder, overrides)
    variables = take_variables(environment)
    client = open_client(url)
    excludes = find_excludes(folder, loaded.job.storage)
    parts = [file for part in own_parts(loaded.job) for file in own_files(part).values()]
    check_folder(folder, excludes, needed=parts)
    _warn_of_storage(loaded.job.storage)
    runtime_env: dict[str, Any] = {
        "working_dir": str(folder),
        "excludes": excludes,
        "env_vars": _STOP_ENVIRONMENT,
    }
    with tempfile.TemporaryDirectory() as own:
        if variables:
            runtime_env["py_modules"] = [str(write_package(variables, Path(own)))]
        with asking(url, "to take the job"):
            submission_id = _submit_or_attach(
                client, loaded, entrypoint=entrypoint, runtime_env=runtime_env
            )
    if follow:
        return follow_job(client, submission_id, url)
    for verb in ("logs --follow", "stop"):
        print(f"  raymodel {verb} {submission_id} --address {url}")
    return 0


def submit_doctor(url: str, loaded: LoadedJob | None, overrides: Sequence[str]) -> int:
    """Runs `raymodel doctor` on the cluster, as a job of its own. Returns its exit code.

    Raises: as `submit`.
    """
    folder = Path.cwd()
    # Its own cluster, whatever address the cluster's environment names.
    words = ["doctor", *([inside(loaded.path, folder)] if loaded else []), "--address", "auto"]
    client = open_client(url)
    excludes = find_excludes(folder, loaded.job.storage if loaded else "s3://")
    check_folder(folder, excludes)
    submission_id = f"doctor-{secrets.token_hex(6)}"
    with asking(url, "to take the job"):
        submit_when_ready(
            client,
            {
                "submission_id": submission_id,
                "entrypoint": _command(words, overrides),
                "runtime_env": {"working_dir": str(folder), "excludes": excludes},
            },
        )
    return follow_job(client, submission_id, url)


def _submit_or_attach(client: JobSubmissionClient, loaded: LoadedJob, **request: Any) -> str:
    """The id of the job's submission that runs: the one there is, or a new one."""
    family = family_of(loaded.job)
    number, newest = find_newest(client, family)
    if newest is not None and not newest.status.is_terminal():
        return _attach(loaded, f"{family}-{number}")
    check_no_rival(client, loaded.job)
    submission_id = f"{family}-{number + 1}"
    request |= {"submission_id": submission_id, "metadata": metadata_of(loaded.job)}
    if not submit_when_ready(client, request):
        return _attach(loaded, submission_id)  # someone submitted it in this very moment
    again = f", start {number + 1}: what is complete is skipped" if number else ""
    print(f"submitted {loaded.job.name} as {submission_id}{again}", flush=True)
    return submission_id


def _attach(loaded: LoadedJob, submission_id: str) -> str:
    print(f"{loaded.job.name} runs already, as {submission_id}: attached to it", flush=True)
    return submission_id


def submit_when_ready(client: JobSubmissionClient, request: dict[str, Any]) -> bool:
    """Submits; False when the id was taken meanwhile. A head answers before its job agent does.

    Raises:
        ClusterError: no agent took the job in time.
    """
    deadline = time.monotonic() + _AGENT_S
    while True:
        try:
            client.submit_job(**request)
        except RuntimeError as error:
            if f"{request['submission_id']} already exists" in str(error):
                return False
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the Ray head took no job within {_AGENT_S:.0f} s ({error}); look at its log, "
                    "dashboard_agent.log: a second Ray on that host needs a "
                    "--dashboard-agent-listen-port of its own"
                ) from error
            time.sleep(_POLL_S)
        else:
            return True


def build_entrypoint(job_path: Path, folder: Path, overrides: Sequence[str]) -> str:
    """The shell command that the cluster runs in the unpacked working directory."""
    return _command(["run", inside(job_path, folder)], overrides)


def _command(words: Sequence[str], overrides: Sequence[str]) -> str:
    options = [word for override in overrides for word in ("--set", override)]
    return shlex.join(["python", "-m", "raymodel", *words, *options])


def inside(job_path: Path, folder: Path) -> str:
    """The path of the job file in the working directory.

    Raises:
        RequestError: it lies outside, so it would not travel.
    """
    try:
        return job_path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        raise RequestError(
            f"{job_path} lies outside {folder}, which is what travels to the cluster; "
            "change to a directory that holds the job file"
        ) from None


def _warn_of_storage(storage: str) -> None:
    if "://" not in storage and not Path(storage).is_absolute():
        print(
            f"note: storage {storage!r} is relative, so on the cluster it lies in the unpacked "
            "working directory and goes when that does; to keep it, use a bucket or a shared "
            "absolute path",
            flush=True,
        )
