"""The Ray wiring of training: a worker group and its data; `keeper.py` sees its failures."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback

from raymodel.cluster.places import count_train_workers, nodes_with_places
from raymodel.cluster.process_group import ProcessGroupConfig
from raymodel.cluster.spec import ClusterSpec
from raymodel.cluster.trainer import ReplicaTrainer, own_variables, variables_of_workers
from raymodel.data.feed import Feed
from raymodel.data.mixture import Mixture, mixture_of
from raymodel.data.order import Order
from raymodel.data.shard import Dataset
from raymodel.data.stream import RayFeed, start_helpers, start_readers
from raymodel.observe.goodput import activity_rows, loss_rows
from raymodel.observe.story import Story
from raymodel.observe.trackers import build_tracker
from raymodel.observe.watch import watch_training
from raymodel.storage.execution import Execution
from raymodel.storage.uri import Location
from raymodel.train.base import BaseModel
from raymodel.train.fault.interrupt import run_interruptibly
from raymodel.train.fault.keeper import FailureKeeper, cause_of
from raymodel.train.fault.notice import ask_to_leave, forget_to_leave, watch_sigterm
from raymodel.train.fault.places import await_places, watch_places
from raymodel.train.layout import Layout
from raymodel.train.spec import FinetuneSpec, PretrainSpec
from raymodel.train.work import (
    TrainWork,
    open_plan,
    read_ledger,
    summary,
    tell_mixture,
    told_of_base,
    told_of_task,
    told_of_teacher,
    work_for,
)


class RaySession:
    """A session inside a worker of Ray Train."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.world_rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.local_rank = context.get_local_rank()
        self.local_world_size = context.get_local_world_size()
        self.node = ray.get_runtime_context().get_node_id()

    def feed(
        self,
        dataset: Dataset,
        order: Order,
        start_step: int,
        end_step: int,
        on_bad_shard: str,
        layout: Layout,
    ) -> Feed:
        return RayFeed(
            dataset,
            order,
            start_step,
            end_step,
            layout.data_rank,
            layout.data_world_size,
            on_bad_shard,
        )

    def report(self, record: dict[str, float]) -> None:
        ray.train.report(record)

    def leave_by(self) -> float | None:
        info = ray.train.get_preemption_info()  # a barrier
        if info is None:
            return None
        return info.deadline_ms / 1000 if info.deadline_ms else time.time()


def run_pretrain(
    spec: PretrainSpec,
    execution: Execution,
    story: Story,
    data: Mixture,
    base: Location | None = None,
    teacher: BaseModel | None = None,
) -> dict[str, Any]:
    """Trains on `data` a fresh model, or what lies in the folder `base`; returns the manifest's
    content."""
    work = work_for(spec, execution, task=spec.objective, dataset=data, base=base, teacher=teacher)
    return train_on_ray(work, execution.cluster, story, execution.trackers)


def run_finetune(
    spec: FinetuneSpec,
    execution: Execution,
    story: Story,
    base: Location | None,
    teacher: BaseModel | None = None,
) -> dict[str, Any]:
    """Trains on `execution.inputs["examples"]` what lies in the folder `base`, or a fresh model."""
    dataset = mixture_of(execution.inputs["examples"])
    work = work_for(spec, execution, task=spec.task, dataset=dataset, base=base, teacher=teacher)
    return train_on_ray(work, execution.cluster, story, execution.trackers)


def train_on_ray(
    work: TrainWork, cluster: ClusterSpec, story: Story, trackers: Iterable[str] = ()
) -> dict[str, Any]:
    """Runs the workers to the end, with retries; returns what the manifest says of the run.

    Raises:
        UserError: the cause is the user's; it was not retried.
        TrainingError: the budget of retries is spent.
        KeyboardInterrupt: a signal came; the workers saved a checkpoint first.
    """
    plan = open_plan(work, story.warn)
    card = tell_mixture(work, plan, story.table)
    run_name = f"{work.job_name}/{work.stage}"
    built = [build_tracker(name, work.run, run_name) for name in trackers]

    def ask_to_end() -> None:
        if not count_train_workers():
            raise KeyboardInterrupt  # nobody would hear, and there is nothing to save
        story.warn("interrupted: the workers save a checkpoint and leave; again to end at once")
        ask_to_leave(work.run)

    start_helpers()
    await_places(cluster, story, "places for the workers", work.run)
    start_readers(nodes_with_places(cluster), variables_of_workers(on_gpu=work.use_gpu))
    with (
        watch_training(work.run, story, plan.total_steps, built),
        watch_places(cluster, story, work.run),
    ):
        run_interruptibly(lambda: fit(work, cluster), ask_to_end)
    books = read_ledger(work.run).books()
    story.table(activity_rows(books))
    story.table(loss_rows(books))
    told = {**told_of_task(work.task), **told_of_base(work), **told_of_teacher(work), **card}
    return {**told, **summary(work.run, work.spec), "goodput": books.goodput}


def fit(work: TrainWork, cluster: ClusterSpec, callbacks: Iterable[Any] = ()) -> None:
    """One `fit` of Ray Train. Raises like `train_on_ray`."""
    work = replace(work, started_at=time.time())
    forget_to_leave(work.run)
    # Ray's annotations are those of its trainer before version 2.
    of_version_2: dict[str, Any] = {
        "callbacks": [_OnFailure(work), *callbacks],
        "worker_runtime_env": {"env_vars": own_variables(on_gpu=work.use_gpu)},
    }
    trainer = ReplicaTrainer(
        _worker,
        replica_workers=work.spec.parallel.model_workers,
        train_loop_config={"work": work},
        scaling_config=_scaling(cluster),
        backend_config=ProcessGroupConfig(prepare_worker=watch_sigterm),
        run_config=RunConfig(
            # Only Ray's own bookkeeping goes here; checkpoints are ours.
            name=work.run.name,
            storage_path=(work.run / "ray").uri,
            # Without a limit here: `FailureKeeper` ends the run, by its own budget.
            failure_config=FailureConfig(max_failures=-1),
            **of_version_2,
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray wraps the cause in several of its own classes
        raise cause_of(error, work) from error


def _worker(config: dict[str, Any]) -> None:
    # Here, since Ray's controllers and the trials of a sweep read this module too and would pay
    # seconds for what only a worker needs. An import leaves next to no garbage and is looked
    # through for it all the time, a sixth of its own; freezing keeps it from being so ever after.
    gc.disable()
    from raymodel.train.worker import run_worker

    gc.enable()
    gc.freeze()
    run_worker(config["work"], RaySession())


class _OnFailure(UserCallback):
    """In Ray's controller: tells the keeper of failed attempts. What it raises ends the run."""

    def __init__(self, work: TrainWork) -> None:
        self._keeper = FailureKeeper(work)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        self._keeper.failed(worker_exceptions)


def _scaling(cluster: ClusterSpec) -> ScalingConfig:
    elastic: Any = (cluster.min_workers, cluster.max_workers)  # typed too narrowly upstream
    return ScalingConfig(
        num_workers=cluster.workers if isinstance(cluster.workers, int) else elastic,
        use_gpu=cluster.gpus_per_worker > 0,
        resources_per_worker={"CPU": cluster.cpus_per_worker}
        | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {}),
    )
