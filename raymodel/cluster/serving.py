"""`raymodel stop --serving`: takes the app of a job down, from outside the cluster."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence
from typing import Any

from ray.job_submission import JobStatus, JobSubmissionClient

from raymodel.cluster.follow import wait_for_end
from raymodel.cluster.head import asking, open_client
from raymodel.cluster.holders import app_name_of
from raymodel.cluster.served import is_served, served_rows
from raymodel.cluster.submissions import find_submission, is_job_file
from raymodel.cluster.submit import submit_when_ready
from raymodel.errors import ClusterError
from raymodel.spec.load import load_job

# Run on the cluster, which need not have this package: Ray's dashboard can take down all
# applications or none. Ray Serve ends with its last one, and its port is free again.
_TAKE_DOWN = """\
import sys
import ray
from ray import serve
ray.init(address="auto", log_to_driver=False)
serve.delete(sys.argv[1])
if not serve.status().applications:
    serve.shutdown()
"""


def stop_serving(reference: str, *, url: str, overrides: Sequence[str] = ()) -> int:
    """Takes the app of a job down, and waits until it is.

    Args:
        reference: a job file, a job's name, or a submission id.
        url: the dashboard of the cluster's head.
        overrides: `--set` texts for the job file.

    Raises:
        RequestError: no such job.
        ClusterError: no head, or the app is still there.
    """
    client = open_client(url)
    with asking(url):
        served = {row["job"] for row in served_rows(url)}
        name = _job_name(client, reference, overrides, served)
    if name not in served:
        print(f"{name} is not served on this cluster")
        return 0
    submission_id = f"stop-serving-{secrets.token_hex(6)}"
    entrypoint = shlex.join(["python", "-c", _TAKE_DOWN, app_name_of(name)])
    with asking(url, "to take the app down"):
        submit_when_ready(client, {"submission_id": submission_id, "entrypoint": entrypoint})
        ended = wait_for_end(client, submission_id)
        if ended.status != JobStatus.SUCCEEDED or is_served(url, name):
            told = client.get_job_logs(submission_id).rstrip().splitlines() or [str(ended.message)]
            raise ClusterError(
                f"the app of {name} is not taken down ({told[-1]}); see raymodel logs "
                f"{submission_id}, or end Ray Serve on the head: serve shutdown"
            )
    print(f"the app of {name} is taken down; submit the job again to serve it")
    return 0


def _job_name(
    client: JobSubmissionClient, reference: str, overrides: Sequence[str], served: set[Any]
) -> str:
    if is_job_file(reference):
        return load_job(reference, overrides).job.name
    if reference in served:
        return reference
    details = find_submission(client, reference)
    return str((details.metadata or {}).get("job", reference))
