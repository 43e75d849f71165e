"""Ray's trainer as this project starts it."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raymodel.cluster.placement import WholeReplicas
from raymodel.heap import ONE_HEAP


class ReplicaTrainer(DataParallelTrainer):
    """Ray's trainer, which asks `WholeReplicas` how many workers an elastic run gets.

    It gives no datasets to the workers: each opens its own stream, from the step of the checkpoint
    that it goes on from.
    """

    def __init__(self, *arguments: Any, replica_workers: int, **options: Any) -> None:
        """Args:
        replica_workers: neighbours in rank that make one replica.
        """
        super().__init__(*arguments, **options)
        self._replica_workers = replica_workers

    def _create_default_callbacks(self) -> list[Any]:
        # Each of these would start a process, two seconds of CPU. The first, at each start of the
        # group, would hand out datasets and find none.
        needless: tuple[type, ...] = (DatasetsCallback,)
        if ray.get_runtime_context().get_actor_id() is None:
            # The second gives back a killed controller's places, which go with the job. The job
            # ends with such a controller, unless it is one of a sweep's, made by a trial's actor.
            needless += (PlacementGroupCleanerCallback,)
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, needless)]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        # Ray makes the policy in `fit` and offers no other place to give one of one's own. Its
        # annotations are those of the trainer before version 2.
        scaling: Any = self.scaling_config
        if isinstance(options["scaling_policy"], ElasticScalingPolicy):
            options["scaling_policy"] = WholeReplicas(scaling, self._replica_workers)
        return super()._initialize_and_run_controller(**options)


def own_variables(*, on_gpu: bool) -> dict[str, str]:
    """The environment variables that this project gives its workers."""
    # Ray trains in a thread, which would get a heap of its own in glibc, of pieces of 64 MiB: what
    # is larger is mapped anew each time. The one that all share is read when a process starts.
    return {} if on_gpu else {ONE_HEAP: os.environ.get(ONE_HEAP, "1")}


def variables_of_workers(*, on_gpu: bool) -> dict[str, str]:
    """All that they have, with those that Ray Train gives its processes."""
    of_ray = {RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR: "0"} | get_env_vars_to_propagate()
    return of_ray | own_variables(on_gpu=on_gpu)
