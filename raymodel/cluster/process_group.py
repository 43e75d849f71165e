"""Where the workers of a group meet: what torch's process group reads from their environment.

Ray's own set-up for torch imports it in the driver and in the controller too, some two seconds of
each before there is a worker. A worker joins the group by itself, as it does under `torchrun`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray.train
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig


@dataclass
class ProcessGroupConfig(BackendConfig):
    """What Ray Train does with each new group of workers before they train."""

    prepare_worker: Callable[[], None]
    """Called on each worker, in its main thread: only there a signal can be taken."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _ProcessGroupBackend


class _ProcessGroupBackend(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, ProcessGroupConfig)
        worker_group.execute(backend_config.prepare_worker)
        address, port = worker_group.execute_single(0, get_address_and_port)
        worker_group.execute(_set_environment, address, port)


def _set_environment(address: str, port: int) -> None:
    """The variables that `torchrun` sets."""
    context = ray.train.get_context()
    values = {
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "RANK": context.get_world_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "NODE_RANK": context.get_node_rank(),
    }
    os.environ.update({name: str(value) for name, value in values.items()})
