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

from raymodel.errors import ClusterError, RequestError
from raymodel.job.spec import Job
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

    A job file stands for its job's name and storage, whatever `--set` it was submitted with: one
    version of a job runs at a time. With overrides it stands for that version alone.

    Args:
        reference: a submission id, the name of a job, or a job file.
        overrides: `--set` texts for the job file.

    Raises:
        RequestError: the head knows no such submission, or several that may be meant; names them.
        SpecError: the job file is wrong.
    """
    known = _submissions(client)
    if not is_job_file(reference):
        same = [job for job in known if job.submission_id == reference]
        return same[0] if same else _find_of_job(known, reference, None, f"{reference!r}")
    job = load_job(reference, overrides).job
    if overrides:
        found = find_newest(client, family_of(job))[1]
        if found is None:
            raise RequestError(
                f"{reference} was not submitted with these overrides; {_list(known)}"
            )
        return found
    return _find_of_job(known, job.name, job.storage, reference)


def is_job_file(reference: str) -> bool:
    """Whether this names a job file, and not a submission or a job."""
    return Path(reference).suffix in (".yaml", ".yml") or Path(reference).is_file()


def _find_of_job(
    known: list[JobDetails], name: str, storage: str | None, reference: str
) -> JobDetails:
    """The submission of a job that runs, else its newest.

    Args:
        storage: of two jobs of one name in different storages, that of this one.
        reference: what the person wrote.
    """
    found = [job for job in known if (job.metadata or {}).get("job") == name]
    here = [job for job in found if (job.metadata or {}).get("storage") == storage]
    found = here or found
    if not found:
        raise RequestError(f"{reference} was not submitted; {_list(known)}")
    storages = {(job.metadata or {}).get("storage") for job in found}
    if len(storages) > 1:
        raise RequestError(
            f"{reference} may be any of {_ids(found)}, which write to {len(storages)} storages; "
            "give the id of one"
        )
    return max(found, key=lambda job: (not job.status.is_terminal(), job.start_time or 0))


def _submissions(client: JobSubmissionClient) -> list[JobDetails]:
    """Without the drivers that Ray lists beside them."""
    return [job for job in client.list_jobs() if job.submission_id is not None]


def _list(known: list[JobDetails]) -> str:
    return f"the head's newest are {_ids(known)}" if known else "the head knows none"


def _ids(known: list[JobDetails], limit: int = 5) -> str:
    newest = sorted(known, key=lambda job: job.start_time or 0, reverse=True)[:limit]
    return ", ".join(f"{job.submission_id} ({job.status})" for job in newest)
