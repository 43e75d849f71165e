"""A Ray to run on: the cluster that is named, or one started here for this command alone."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from raymodel.cluster.spec import ClusterSpec
from raymodel.cluster.token import MODE, send_token, token_refused
from raymodel.cluster.variables import SETUP_HOOK, has_variables
from raymodel.errors import ClusterError, RaymodelError

# Beside the training workers: for the trials of a sweep, and for the processes of tasks that read
# data. These claim no CPU (`data/stream.py`), but Ray keeps no more idle processes than a node has
# CPUs, and starts one anew, at 2 s of CPU, for each block. Ray only counts these CPUs, so a small
# machine may claim more than it has.
SPARE_CPUS = 2
_WORKERS_PER_CORE = 4  # enough to try an elastic run; each holds a process with torch in memory
_PROBE_S = 5.0  # a head in the same network answers in milliseconds
# A process that waits wakes up a hundred times a second, for 0.5 % of a core: a minute of waiting
# costs less than a new one does, and long training soon has the cores for itself.
_KEEP_IDLE_MS = 60_000
_OBJECT_STORE_BYTES = 512 * 2**20

# After a lost node Ray first waits this long for the old number of workers.
_ELASTIC_START_TIMEOUT_S = "5"
OWN_RAY_ENVIRONMENT = {
    # Looks at every process, for the dashboard, each 5 s by default.
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
    # A process beside each training asks which nodes the cloud takes away: this machine stays.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # What Ray Serve's proxy, a gate and a replica tell each other goes over gRPC, not as objects
    # with owners and references, and is handled where it arrives, not in one event loop after the
    # other: a token of 16 streams costs them half as much so (benchmarks/serve_http.py, `cpu`), and
    # a replica sees when nobody takes what it says.
    # (https://docs.ray.io/en/master/kuberay/user-guides/serve-high-throughput.html)
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
}
"""Of a Ray that is started here; one's own values win. Clusters have the last three of their image,
and Ray Serve runs without them too."""
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
        ClusterError: nothing answers at the address, or what does is of another version.
        RequestError: what answers asks for a token, and this process has none or a wrong one.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if cluster.min_workers < cluster.max_workers:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _ELASTIC_START_TIMEOUT_S)
    for name, value in _DRIVER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is None:
        for name, value in OWN_RAY_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # Ray's ports can be reached from other machines; a token that only this process and its
        # children know keeps them out. It must be set before Ray is imported.
        os.environ[MODE] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    elif "ray" not in sys.modules:
        send_token()
    import ray
    import ray.data  # configures its loggers now, before the caller quiets them

    if ray.is_initialized():  # the caller's own, such as a test's or a notebook's
        yield Connection(ray.get_runtime_context().gcs_address, started_here=False)
        return
    try:
        _init(address, cluster, concurrent_trials)
        _take_sigterm_as_ctrl_c()
        yield Connection(ray.get_runtime_context().gcs_address, started_here=address is None)
    finally:
        ray.shutdown()


def _init(address: str | None, cluster: ClusterSpec, concurrent_trials: int) -> None:
    import ray
    from ray.exceptions import RayError

    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if has_variables():
        quiet["runtime_env"] = {"worker_process_setup_hook": SETUP_HOOK}
    if address is None:
        ray.init(
            address="local",
            num_cpus=_local_cpus(cluster, concurrent_trials),
            object_store_memory=_OBJECT_STORE_BYTES,
            # Trials that a sweep stops early give their workers back only through the dashboard's
            # state API.
            include_dashboard=concurrent_trials > 0,
            # The processes that prepared data do so again for the next stage, with all that they
            # have imported; Ray would end those beyond one for each CPU after a second.
            _system_config={"idle_worker_killing_time_threshold_ms": _KEEP_IDLE_MS},
            **quiet,
        )
        return
    try:
        _check_answers(address)
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise _not_connected(address, error) from error


def _check_answers(address: str) -> None:
    """Ray itself would try a dead address for minutes, and a wrong token for twenty seconds, and
    then say the same of both. Other forms than `host:port` it looks up.

    Raises:
        OSError: nothing listens there.
        AuthenticationError: the head refuses this process's token.
        RpcError: what listens there is no head, or does not answer for forty seconds.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S).close()
    if not address.startswith("ray://"):
        from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled

        GcsClient(address=address)


def _not_connected(address: str, error: Exception) -> RaymodelError:
    from ray.exceptions import AuthenticationError

    if isinstance(error, AuthenticationError):
        return token_refused(address)
    if "Version mismatch" in str(error):
        versions = " ".join(str(error).split())
        return ClusterError(
            f"the Ray at {address!r} was started with other versions than this process "
            f"({versions}); use the cluster's Python and Ray here, or submit the job to it with "
            "`raymodel submit`"
        )
    return ClusterError(
        f"no Ray answers at {address!r} ({str(error).splitlines()[0]}); start one with "
        "`ray start --head`, or check the address"
    )


def _take_sigterm_as_ctrl_c() -> None:
    """Ray's own handler would end the command with exit code 15, in the middle of anything."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


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
