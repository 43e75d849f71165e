"""The Ray wiring of training: a worker group, its data, its failures."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig

from raymodel.cluster.placement import ReplicaTrainer
from raymodel.cluster.ray_errors import unwrap
from raymodel.cluster.room import count_train_workers
from raymodel.cluster.spec import ClusterSpec
from raymodel.data.feed import Feed
from raymodel.data.mixture import Mixture, mixture_of
from raymodel.data.order import Order
from raymodel.data.shard import Dataset, open_dataset
from raymodel.data.stream import RayFeed, start_helpers
from raymodel.errors import RaymodelError, TrainingError
from raymodel.observe.goodput import activity_rows, loss_rows
from raymodel.observe.records import RecordWriter, read_records
from raymodel.observe.story import Story
from raymodel.observe.trackers import build_tracker
from raymodel.observe.watch import watch_training
from raymodel.storage.execution import Execution
from raymodel.storage.uri import Location
from raymodel.train.checkpoint import FOLDER as CHECKPOINTS
from raymodel.train.checkpoint import committed_steps
from raymodel.train.fault import (
    Decision,
    Failure,
    Kind,
    classify,
    decide,
    is_out_of_memory,
    lost_ranks,
    out_of_memory_error,
)
from raymodel.train.hang import find_hang
from raymodel.train.interrupt import run_interruptibly
from raymodel.train.layout import Layout
from raymodel.train.notice import (
    ask_to_leave,
    forget_to_leave,
    is_asked_to_leave,
    watch_sigterm,
)
from raymodel.train.room import await_room, watch_room
from raymodel.train.spec import FinetuneSpec, PretrainSpec
from raymodel.train.work import (
    EVENTS_FILE,
    FAILURES_FILE,
    TrainWork,
    plan_for,
    read_ledger,
    summary,
    work_for,
)

T = TypeVar("T")
logger = logging.getLogger(__name__)


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
    spec: PretrainSpec, execution: Execution, story: Story, data: Mixture
) -> dict[str, Any]:
    """Trains a fresh model on `data`; returns the manifest's content."""
    work = work_for(spec, execution, task=spec.objective, dataset=data)
    return train_on_ray(work, execution.cluster, story, execution.trackers)


def run_finetune(
    spec: FinetuneSpec, execution: Execution, story: Story, base: Location
) -> dict[str, Any]:
    """Adapts the model folder `base` to `execution.inputs["examples"]`."""
    dataset = mixture_of(execution.inputs["examples"])
    work = work_for(spec, execution, task=spec.task, dataset=dataset, base=base)
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
    dataset = open_dataset(work.dataset, "train")
    plan = plan_for(work.spec, dataset)
    run_name = f"{work.job_name}/{work.stage}"
    built = [build_tracker(name, work.run, run_name) for name in trackers]

    def ask_to_end() -> None:
        if not count_train_workers():
            raise KeyboardInterrupt  # nobody would hear, and there is nothing to save
        story.warn("interrupted: the workers save a checkpoint and leave; again to end at once")
        ask_to_leave(work.run)

    start_helpers()
    await_room(cluster, story, "places for the workers")
    with (
        watch_training(work.run, story, plan.total_steps, built),
        watch_room(cluster, story),
    ):
        run_interruptibly(lambda: fit(work, cluster), ask_to_end)
    books = read_ledger(work.run).books()
    story.table(activity_rows(books))
    story.table(loss_rows(books))
    return {"task": work.task, **summary(work.run, work.spec), "goodput": books.goodput}


def fit(work: TrainWork, cluster: ClusterSpec, callbacks: Iterable[Any] = ()) -> None:
    """One `TorchTrainer.fit`. Raises like `train_on_ray`."""
    work = replace(work, started_at=time.time())
    forget_to_leave(work.run)
    # Ray's annotation names Tune's callbacks, its check these.
    all_callbacks: Any = [FailureKeeper(work), *callbacks]
    trainer = ReplicaTrainer(
        _worker,
        replica_workers=work.spec.parallel.model_workers,
        train_loop_config={"work": work},
        scaling_config=_scaling(cluster),
        torch_config=WatchedTorchConfig(backend="nccl" if work.use_gpu else "gloo", timeout_s=1800),
        run_config=RunConfig(
            # Only Ray's own bookkeeping goes here; checkpoints are ours.
            name=work.run.name,
            storage_path=(work.run / "ray").uri,
            # Without a limit here: `FailureKeeper` ends the run, by its own budget.
            failure_config=FailureConfig(max_failures=-1),
            callbacks=all_callbacks,
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray wraps the cause in several of its own classes
        raise _cause(error, work) from error


def _worker(config: dict[str, Any]) -> None:
    # Here, since Ray's controllers and the trials of a sweep read this module too and would pay
    # seconds for what only a worker needs.
    from raymodel.train.worker import run_worker

    run_worker(config["work"], RaySession())


class _WatchedBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Torch's set-up on each worker, from the main thread: only there a signal can be taken."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(watch_sigterm)
        super().on_start(worker_group, backend_config)


class WatchedTorchConfig(TorchConfig):
    """Torch's set-up, and SIGTERM as a notice to leave."""

    @property
    def backend_cls(self) -> type[Any]:
        return _WatchedBackend


class FailureKeeper(UserCallback):
    """Sees every failed attempt in Ray's controller: writes it down, ends hopeless ones."""

    def __init__(self, work: TrainWork) -> None:
        self._work = work
        self._seen: Counter[Kind] = Counter()
        self._since = time.time()
        self._last: list[str] = []
        self._in_a_row = 0
        self._step_of_last = 0
        self._records: RecordWriter | None = None

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Waits before the next attempt, or raises, which Ray takes as the end of the run."""
        by_rank = {rank: unwrap(error) for rank, error in worker_exceptions.items()}
        errors = list(by_rank.values())
        run = self._work.run
        attempt = _unless_unreadable(lambda: last_attempt(run, self._since))
        lost = lost_ranks(by_rank, attempt["workers"] if attempt else 0)
        hang = _unless_unreadable(lambda: find_hang(run, self._since))
        failure = classify(errors, hang, lost)
        if failure.kind == "preemption" and self._is_known(errors):
            return  # Ray tells it again and again until the node is gone
        self._seen[failure.kind] += 1
        self._count_in_a_row()
        decision = decide(failure, self._seen, self._work.spec.fault, in_a_row=self._in_a_row)
        if _unless_unreadable(lambda: is_asked_to_leave(run)):
            decision = Decision(False, 0.0, "run the same command again to go on")
        self._write(failure, decision)
        if not decision.is_retried:
            raise final_error(failure, decision, self._work)
        time.sleep(decision.wait_s)
        self._since = time.time()

    def _count_in_a_row(self) -> None:
        """A new checkpoint since the last failure is progress: the count begins anew."""
        steps = _unless_unreadable(lambda: committed_steps(self._work.run))
        newest = max(steps or (), default=self._step_of_last)
        self._in_a_row = 1 if newest > self._step_of_last else self._in_a_row + 1
        self._step_of_last = newest

    def _is_known(self, errors: list[BaseException]) -> bool:
        before, self._last = self._last, [str(error) for error in errors]
        return before == self._last

    def _write(self, failure: Failure, decision: Decision) -> None:
        told = {}
        if decision.is_retried:  # else the command ends with the same words
            told = {"level": "warning", "message": f"{failure.cause}; {decision.words}"}
        try:
            if self._records is None:  # kept open: what a storage refuses goes with the next one
                self._records = RecordWriter(self._work.run / FAILURES_FILE)
            self._records.write(
                {
                    "time_s": round(time.time(), 3),
                    "event": "failure",
                    "kind": failure.kind,
                    "cause": failure.cause,
                    "is_retried": decision.is_retried,
                    "wait_s": decision.wait_s,
                    **told,
                }
            )
            self._records.store()
        except OSError as error:
            logger.warning("a failure (%s) is not written down: %s", failure.cause, error)


def _unless_unreadable(ask: Callable[[], T]) -> T | None:
    """None where the storage fails: perhaps the workers did for that, and the run must go on."""
    try:
        return ask()
    except OSError as error:
        logger.warning("what the workers left cannot be read: %s", error)
        return None


def _scaling(cluster: ClusterSpec) -> ScalingConfig:
    elastic: Any = (cluster.min_workers, cluster.max_workers)  # typed too narrowly upstream
    return ScalingConfig(
        num_workers=cluster.workers if isinstance(cluster.workers, int) else elastic,
        use_gpu=cluster.gpus_per_worker > 0,
        resources_per_worker={"CPU": cluster.cpus_per_worker}
        | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {}),
    )


def _cause(error: Exception, work: TrainWork) -> RaymodelError:
    """Ours, out of what Ray raises at the end of a run."""
    errors = list(getattr(error, "worker_failures", {}).values()) or [error]
    failure = classify([unwrap(inner) for inner in errors])
    if isinstance(failure.error, RaymodelError):
        return failure.error
    return final_error(failure, Decision(False, 0.0, "Ray gave up"), work)


def final_error(failure: Failure, decision: Decision, work: TrainWork) -> RaymodelError:
    """What the user reads when a run ends by this failure."""
    if is_out_of_memory(failure):
        return out_of_memory_error(failure.error, last_attempt(work.run))
    if failure.kind != "infrastructure" and isinstance(failure.error, RaymodelError):
        return failure.error
    return TrainingError(
        f"{work.stage} failed: {failure.cause}; {decision.words}. The attempts are in "
        f"{work.run / EVENTS_FILE} and {work.run / FAILURES_FILE}, checkpoints in "
        f"{work.run / CHECKPOINTS}; run the same command again to go on from the newest one"
    )


def last_attempt(run: Location, since: float = 0.0) -> dict[str, Any] | None:
    """The newest `attempt` event; None when no workers got ready since then."""
    events = [event for event in read_records(run / EVENTS_FILE) if event["event"] == "attempt"]
    return events[-1] if events and events[-1]["time_s"] >= since else None
