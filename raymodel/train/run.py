"""The Ray wiring of training: a worker group, its data, its failures."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import ray.data
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from raymodel.cluster.spec import ClusterSpec
from raymodel.data.feed import StepRows
from raymodel.data.order import Order
from raymodel.data.run import OrderedDataConfig, RayFeed
from raymodel.data.shard import Dataset, open_dataset
from raymodel.errors import RaymodelError, TrainingError
from raymodel.observe.records import RecordWriter
from raymodel.observe.story import Story
from raymodel.observe.trackers import build_tracker
from raymodel.observe.watch import watch_training
from raymodel.storage.artifact import Artifact
from raymodel.storage.execution import Execution
from raymodel.storage.uri import Location
from raymodel.train.checkpoint import FOLDER as CHECKPOINTS
from raymodel.train.checkpoint import find_checkpoint
from raymodel.train.fault import backoff_s, classify
from raymodel.train.journal import EVENTS_FILE
from raymodel.train.spec import FinetuneSpec, PretrainSpec, TrainSpec
from raymodel.train.worker import TrainWork, plan_for, run_worker, summary

DATASET = "train"


class RaySession:
    """A session inside a worker of Ray Train."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.world_rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.local_rank = context.get_local_rank()
        self.local_world_size = context.get_local_world_size()

    def feed(
        self, dataset: Dataset, order: Order, start_step: int, end_step: int, on_bad_shard: str
    ) -> Iterable[StepRows]:
        shard = ray.train.get_dataset_shard(DATASET)
        return RayFeed(
            shard, order, start_step, end_step, self.world_rank, self.world_size, on_bad_shard
        )

    def report(self, record: dict[str, float]) -> None:
        ray.train.report(record)

    def leave_by(self) -> float | None:
        return None


def run_pretrain(spec: PretrainSpec, execution: Execution, story: Story) -> dict[str, Any]:
    """Trains a fresh model on `execution.inputs["data"]`; returns the manifest's content."""
    work = work_for(spec, execution, task=spec.objective, dataset=execution.inputs["data"])
    return train_on_ray(work, execution.cluster, story)


def run_finetune(
    spec: FinetuneSpec, execution: Execution, story: Story, base: Location
) -> dict[str, Any]:
    """Adapts the model folder `base` to `execution.inputs["examples"]`."""
    dataset = execution.inputs["examples"]
    work = work_for(spec, execution, task=spec.task, dataset=dataset, base=base)
    return train_on_ray(work, execution.cluster, story)


def work_for(
    spec: TrainSpec,
    execution: Execution,
    *,
    task: str,
    dataset: Artifact,
    base: Location | None = None,
) -> TrainWork:
    """What the workers are told."""
    return TrainWork(
        job_name=execution.job_name,
        stage=execution.stage,
        spec=spec,
        task=task,
        labels=tuple(dataset.content.get("labels", ())),
        seed=execution.seed,
        run=execution.location,
        dataset=dataset,
        base=base,
        use_gpu=execution.cluster.gpus_per_worker > 0,
        threads=execution.cluster.threads_per_worker,
        attempt=execution.attempt,
    )


def train_on_ray(work: TrainWork, cluster: ClusterSpec, story: Story) -> dict[str, Any]:
    """Runs the workers to the end, with retries; returns what the manifest says of the run.

    Raises:
        UserError: the cause is the user's; it was not retried.
        TrainingError: the budget of retries is spent.
    """
    dataset = open_dataset(work.dataset, "train")
    plan = plan_for(work.spec, dataset, work.dataset)
    tracker = build_tracker("tensorboard", work.run, f"{work.job_name}/{work.stage}")
    with watch_training(work.run, story, plan.total_steps, [tracker]):
        fit(work, cluster)
    return {"task": work.task, **summary(work.run)}


def fit(work: TrainWork, cluster: ClusterSpec, callbacks: Iterable[UserCallback] = ()) -> None:
    """One `TorchTrainer.fit`. Raises like `train_on_ray`."""
    work = replace(work, started_at=time.time())
    dataset = open_dataset(work.dataset, "train")
    plan = plan_for(work.spec, dataset, work.dataset)
    keeper = FailureKeeper(work.run)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"work": work},
        scaling_config=_scaling(cluster),
        datasets={DATASET: ray.data.range(1)},  # stands for what OrderedDataConfig makes
        dataset_config=OrderedDataConfig(
            dataset,
            dataset.order(work.seed, work.spec.global_batch),
            start_step_fn=NextStep(work.run),
            end_step=plan.total_steps,
            on_bad_shard=work.spec.on_bad_shard,
            name=DATASET,
        ),
        torch_config=TorchConfig(backend="nccl" if work.use_gpu else "gloo", timeout_s=1800),
        run_config=RunConfig(
            # Only Ray's own bookkeeping goes here; checkpoints are ours.
            name=work.run.name,
            storage_path=(work.run / "ray").uri,
            failure_config=FailureConfig(max_failures=work.spec.fault.retries),
            callbacks=[keeper, *callbacks],
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray wraps the cause in several of its own classes
        raise _cause(error, work) from error


def _worker(config: dict[str, Any]) -> None:
    run_worker(config["work"], RaySession())


@dataclass(frozen=True)
class NextStep:
    """The step that a (re)started worker group begins with. Picklable."""

    run: Location

    def __call__(self) -> int:
        index = find_checkpoint(self.run)
        return index.step if index else 0


class FailureKeeper(UserCallback):
    """Sees every failed attempt in Ray's controller: writes it down, ends hopeless ones."""

    def __init__(self, run: Location) -> None:
        self._run = run
        self._failures = 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        failure = classify([unwrap(error) for error in worker_exceptions.values()])
        self._failures += 1
        wait_s = 0.0 if failure.kind == "user" else backoff_s(self._failures)
        with RecordWriter(self._run / EVENTS_FILE) as events:
            events.write(
                {
                    "time_s": round(time.time(), 3),
                    "event": "failure",
                    "kind": failure.kind,
                    "cause": failure.cause,
                    "ranks": sorted(worker_exceptions),
                    "wait_s": wait_s,
                    "level": "warning",
                    "message": f"{failure.kind} failure: {failure.cause}",
                }
            )
        if failure.kind == "user":
            raise failure.error  # becomes a ControllerError, which Ray does not retry
        time.sleep(wait_s)


def _scaling(cluster: ClusterSpec) -> ScalingConfig:
    elastic = (cluster.min_workers, cluster.max_workers)
    return ScalingConfig(
        num_workers=cluster.workers if isinstance(cluster.workers, int) else elastic,
        use_gpu=cluster.gpus_per_worker > 0,
        resources_per_worker={"CPU": cluster.cpus_per_worker}
        | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {}),
    )


def unwrap(error: BaseException) -> BaseException:
    """The worker's own exception, from inside Ray's."""
    for name in ("_base_exc", "controller_failure", "cause"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException):
            return unwrap(inner)
    return error


def _cause(error: Exception, work: TrainWork) -> RaymodelError:
    errors = list(getattr(error, "worker_failures", {}).values()) or [error]
    failure = classify([unwrap(inner) for inner in errors])
    if isinstance(failure.error, RaymodelError):
        return failure.error
    return TrainingError(
        f"{work.stage} failed after {work.spec.fault.retries} retries: {failure.cause}. "
        f"The attempts are in {work.run / EVENTS_FILE}, checkpoints in {work.run / CHECKPOINTS}; "
        "run the same command again to go on from the newest one"
    )
