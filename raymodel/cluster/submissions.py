"""Submissions: what a head knows of the jobs that `raymodel submit` gave it.

A job's submissions are named `NAME-FINGERPRINT-N`: the fingerprint is that of the resolved job, so
the same file with the same overrides always finds its own, and N counts its starts. Ray takes each
id once, which is what makes a job submitted twice at the same moment run once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ray.job_submission import JobDetails, JobSubmissionClient

from raymodel.errors import ClusterError
from raymodel.job import Job
from raymodel.spec.base import fingerprint
from raymodel.spec.load import load_job

_DIGITS = 12  # of the fingerprint: enough for the jobs of one cluster, and an id stays readable


def family_of(job: Job) -> str:
    """What the ids of all submissions of this job begin with."""
    return f"{job.name}-{fingerprint(job.to_dict())[:_DIGITS]}"


def metadata_of(job: Job) -> dict[str, str]:
    """What a submission tells of its job to who looks at the dashboard; no secrets."""
    return {"job": job.name, "storage": job.storage}


def find_newest(client: JobSubmissionClient, family: str) -> tuple[int, JobDetails | None]:
    """The number of the last start in a family (0 when there is none), and what became of it."""
    pattern = re.compile(re.escape(family) + r"-(\d+)")
    starts = [
        (int(match[1]), details)
        for details in _submissions(client)
        if (match := pattern.fullmatch(str(details.submission_id)))
    ]
    return max(starts, key=lambda start: start[0], default=(0, None))


def check_no_rival(client: JobSubmissionClient, job: Job) -> None:
    """Refuses to write where another version of the same job is writing: buckets have no locks.

    Raises:
        ClusterError: names the submission that runs.
    """
    own = metadata_of(job).items()
    for details in _submissions(client):
        if details.status.is_terminal() or own - (details.metadata or {}).items():
            continue
        raise ClusterError(
            f"another version of {job.name!r} is running as {details.submission_id} and writes to "
            f"the same storage {job.storage}; wait for it, stop it with `raymodel stop "
            f"{details.submission_id}`, or give this job another name"
        )


def find_submission(
    client: JobSubmissionClient, reference: str, overrides: Sequence[str] = ()
) -> JobDetails:
    """The submission that a person means.

    Args:
        reference: a job file, for its newest submission, or a submission id.
        overrides: the `--set` texts that the job file was submitted with.

    Raises:
        ClusterError: the head knows no such submission; names those that it knows.
        SpecError: the job file is wrong.
    """
    if Path(reference).suffix in (".yaml", ".yml") or Path(reference).is_file():
        family = family_of(load_job(reference, overrides).job)
        found = find_newest(client, family)[1]
        what = f"{reference}, as it is now with these overrides, was not submitted"
    else:
        known = _submissions(client)
        found = next((job for job in known if job.submission_id == reference), None)
        what = f"no submission {reference!r}"
    if found is None:
        raise ClusterError(f"{what}; {_known(client)}")
    return found


def _submissions(client: JobSubmissionClient) -> list[JobDetails]:
    """Without the drivers that Ray lists beside them."""
    return [job for job in client.list_jobs() if job.submission_id is not None]


def _known(client: JobSubmissionClient) -> str:
    newest = sorted(_submissions(client), key=lambda job: job.start_time or 0, reverse=True)[:5]
    if not newest:
        return "the head knows none"
    return "the head's newest are " + ", ".join(
        f"{job.submission_id} ({job.status})" for job in newest
    )
