"""A Ray to run on: the cluster that is named, or one started here for this command alone."""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from raymodel.cluster.spec import ClusterSpec
from raymodel.errors import ClusterError

# For what runs beside the training workers, as the trials of a sweep do; Ray only counts these, so
# a small machine may claim more than it has. Reading tasks claim none (`data/stream.py`).
SPARE_CPUS = 2
_WORKERS_PER_CORE = 4  # enough to try an elastic run; each holds a process with torch in memory
_OBJECT_STORE_BYTES = 512 * 2**20

# After a lost node Ray first waits this long for the old number of workers.
_ELASTIC_START_TIMEOUT_S = "5"
_DRIVER_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # workers keep the directory that relative paths mean
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "true",
}


@dataclass(frozen=True)
class Connection:
    """The Ray that this process is connected to."""

    address: str
    started_here: bool
    """True for a Ray that ends with this command."""


@contextmanager
def connect(
    address: str | None, cluster: ClusterSpec, *, concurrent_trials: int = 0
) -> Iterator[Connection]:
    """Connects to the cluster at `address` (or `RAY_ADDRESS`), or starts a Ray on this machine.

    Args:
        address: `host:port`, `auto`, or None.
        cluster: what the job asks for.
        concurrent_trials: workers of a sweep that run at the same time.

    Raises:
        ClusterError: nothing answers at the address, or the cluster can never give what is asked.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if cluster.min_workers < cluster.max_workers:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _ELASTIC_START_TIMEOUT_S)
    for name, value in _DRIVER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is None:
        # Ray's ports can be reached from other machines; a token that only this process and its
        # children know keeps them out. It must be set before Ray is imported.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray
    import ray.data  # configures its loggers now, before the caller quiets them

    if ray.is_initialized():  # the caller's own, such as a test's or a notebook's
        yield Connection(ray.get_runtime_context().gcs_address, started_here=False)
        return
    try:
        _init(address, cluster, concurrent_trials)
        _take_sigterm_as_ctrl_c()
        check_resources(cluster)
        yield Connection(ray.get_runtime_context().gcs_address, started_here=address is None)
    finally:
        ray.shutdown()


def _init(address: str | None, cluster: ClusterSpec, concurrent_trials: int) -> None:
    import ray

    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        ray.init(
            address="local",
            num_cpus=_local_cpus(cluster, concurrent_trials),
            object_store_memory=_OBJECT_STORE_BYTES,
            # Trials that a sweep stops early give their workers back only through the dashboard's
            # state API.
            include_dashboard=concurrent_trials > 0,
            **quiet,
        )
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"no Ray answers at {address!r} ({str(error).splitlines()[0]}); start one with "
            "`ray start --head`, check the address, and if the cluster asks for a token set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from error


def _take_sigterm_as_ctrl_c() -> None:
    """Ray's own handler would end the command with exit code 15, in the middle of anything."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def check_resources(cluster: ClusterSpec) -> None:
    """Refuses a job that the cluster can never place, instead of waiting for ever.

    A cluster with an autoscaler is judged by what its node types can grow to.

    Raises:
        ClusterError: names what is asked, what there is, and what to change.
    """
    import ray
    from ray._private.state import state  # the only place that knows an autoscaler's limits

    have = dict(ray.cluster_resources())
    for name, most in (state.get_max_resources_from_cluster_config() or {}).items():
        have[name] = max(have.get(name, 0), most)
    check_fits(cluster, have)


def check_fits(cluster: ClusterSpec, have: Mapping[str, float]) -> None:
    """Compares what the job needs at least with resources by name; raises ClusterError."""
    cpus = cluster.min_workers * cluster.cpus_per_worker
    gpus = cluster.min_workers * cluster.gpus_per_worker
    for name, asked in (("CPU", cpus), ("GPU", gpus)):
        if asked > have.get(name, 0):
            raise ClusterError(
                f"{cluster.min_workers} workers need {asked} {name}s, the cluster can give "
                f"{have.get(name, 0):g}; lower cluster.workers, or use a larger cluster"
            )


def _local_cpus(cluster: ClusterSpec, concurrent_trials: int) -> int:
    """Logical CPUs that a Ray on this machine claims."""
    cores = os.cpu_count() or 1
    workers = max(cluster.max_workers, concurrent_trials)
    if workers > cores * _WORKERS_PER_CORE:
        raise ClusterError(
            f"{workers} workers on the {cores} cores of this machine would only slow each other "
            f"down; use at most {cores * _WORKERS_PER_CORE} here, or name a cluster with --address"
        )
    return max(cores, workers * cluster.cpus_per_worker + SPARE_CPUS)
