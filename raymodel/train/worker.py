"""One training worker from start to end: build, resume, train, export.

The same function runs under Ray Train (`run.py`) and under `torchrun`.
"""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from raymodel.data.shard import Dataset, open_dataset
from raymodel.data.tokenizer import load_tokenizer
from raymodel.errors import CheckpointError, SpecError
from raymodel.model.count import count_model
from raymodel.model.precision import copy_buffers, restore_buffers
from raymodel.storage.artifact import Artifact
from raymodel.storage.execution import Execution
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.base import Task
from raymodel.tasks.batch import pad_id
from raymodel.train.batches import Collator
from raymodel.train.checkpoint import TrainState
from raymodel.train.clock import Clock
from raymodel.train.engine import Engine, build_engine, join_group
from raymodel.train.export import export_model
from raymodel.train.hang import Watchdog
from raymodel.train.journal import Journal
from raymodel.train.loop import Training, train
from raymodel.train.network import build_network
from raymodel.train.nonfinite import BadSteps, data_end
from raymodel.train.notice import LeaveNotice
from raymodel.train.plan import TrainPlan, plan_batch, plan_training
from raymodel.train.resume import resume
from raymodel.train.saver import Saver
from raymodel.train.session import Session
from raymodel.train.spec import TrainSpec
from raymodel.train.validation import Validation


@dataclass(frozen=True, kw_only=True)
class TrainWork:
    """What a worker is told; picklable."""

    job_name: str
    stage: str
    spec: TrainSpec
    task: str
    labels: tuple[str, ...]
    seed: int
    run: Location
    """Where metrics, events, checkpoints and the model go."""
    dataset: Artifact
    base: Location | None
    """Hugging Face folder to start from; None for a fresh model."""
    use_gpu: bool = False
    threads: int | None = None
    runs_at_a_time: int = 1
    """Runs that share a machine's cores, as the trials of a sweep do."""
    attempt: int = 1
    """How often the command was run, this time included."""
    started_at: float | None = None
    """Unix time at which the command asked for workers."""
    export: bool = True
    """Write `model/` at the end."""


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


def run_worker(work: TrainWork, session: Session) -> None:
    """Trains one worker's share of `work` and, on rank 0, writes the model at the end.

    Raises:
        UserError: what trying again cannot mend.
    """
    clock = Clock()
    _prepare_torch(work, session)
    join_group(work.use_gpu)
    task = get_task(work.task)(work.labels)
    dataset = open_dataset(work.dataset, "train")
    plan = plan_for(work.spec, dataset, work.dataset)
    engine = _build_engine(work, task, dataset, session)
    torn: list[CheckpointError] = []
    state = resume(work.run, engine, session.world_rank, session.world_size, torn.append)
    training = _assemble(work, session, task, dataset, plan, engine, state, clock)
    for error in torn:
        training.journal.passed_over(error)
    training.journal.begin(work.started_at, _about(work, engine))
    try:
        train(training)
        if work.export and session.world_rank == 0:
            with clock.during("other"):
                export_model(work, task, dataset)
        with clock.during("validation"):
            session.report({"step": state.step, "validation_loss": training.validation.last_loss()})
    finally:
        training.notice.close()
        training.journal.close()
    engine.close()


def _about(work: TrainWork, engine: Engine) -> dict[str, Any]:
    """What the record of an attempt says besides its place in the run."""
    processes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(processes, (os.getpid(), socket.gethostname()))
    trained = (p for p in engine.deepspeed.module.parameters() if p.requires_grad)
    return {
        "command": work.attempt,
        "pids": [pid for pid, _ in processes],
        "hosts": [host for _, host in processes],
        # ZeRO-3 keeps the whole size of a parameter aside.
        "parameters": sum(getattr(p, "ds_numel", p.numel()) for p in trained),
        "zero": work.spec.parallel.zero,
        "micro_batch": engine.batch.micro_batch,
    }


def plan_for(spec: TrainSpec, dataset: Dataset, artifact: Artifact) -> TrainPlan:
    """The plan for a dataset, from the counts in its manifest."""
    split = artifact.content["splits"][dataset.split]
    return plan_training(
        spec,
        rows_per_epoch=dataset.order(0, spec.global_batch).rows_per_epoch,
        tokens_per_row=split["tokens"] / split["rows"],
    )


def _prepare_torch(work: TrainWork, session: Session) -> None:
    cores = len(os.sched_getaffinity(0))
    sharing = session.local_world_size * work.runs_at_a_time
    torch.set_num_threads(work.threads or max(1, cores // sharing))
    if work.use_gpu:
        torch.cuda.set_device(session.local_rank % torch.cuda.device_count())
    torch.manual_seed(work.seed + session.world_rank)  # dropout differs by rank, weights do not


def _build_engine(work: TrainWork, task: Task, dataset: Dataset, session: Session) -> Engine:
    network = build_network(work, task, dataset)
    buffers = copy_buffers(network)
    batch = plan_batch(work.spec.global_batch, work.spec.micro_batch, session.world_size)
    engine = build_engine(network, task, work.spec, batch)
    restore_buffers(engine.deepspeed.module, buffers)
    return engine


def _assemble(
    work: TrainWork,
    session: Session,
    task: Task,
    dataset: Dataset,
    plan: TrainPlan,
    engine: Engine,
    state: TrainState,
    clock: Clock,
) -> Training:
    spec, rank, world_size = work.spec, session.world_rank, session.world_size
    collator = Collator(task, pad_id(load_tokenizer(dataset.tokenizer)), engine.batch.accumulation)
    journal = Journal(
        work.run,
        spec=spec,
        plan=plan,
        state=state,
        engine=engine,
        session=session,
        clock=clock,
        flops_per_token=_flops_per_token(engine.deepspeed.module.config, task, plan),
    )
    token = torch.tensor(secrets.randbits(62), device=engine.device)
    dist.broadcast(token, src=0)
    saver = Saver(
        work.run,
        engine,
        rank=rank,
        world_size=world_size,
        token=f"{int(token):x}",
        keep=spec.checkpoint.keep,
        wait=spec.checkpoint.wait,
        on_event=journal.event,
    )
    order = dataset.order(work.seed, spec.global_batch)
    notice = LeaveNotice(session.leave_by, asks=rank == 0)
    if rank == 0:
        notice.watch_file(work.run)
    bad_steps = BadSteps(
        work.run, spec=spec, state=state, engine=engine, saver=saver, journal=journal
    )
    end = data_end(spec, plan)
    return Training(
        spec=spec,
        plan=plan,
        state=state,
        engine=engine,
        collator=collator,
        feed=session.feed(dataset, order, state.data_step, end, spec.on_bad_shard),
        validation=Validation(
            open_dataset(work.dataset, "holdout"),
            spec.validate_rows,
            engine,
            collator,
            rank,
            world_size,
        ),
        journal=journal,
        saver=saver,
        notice=notice,
        bad_steps=bad_steps,
        watchdog=Watchdog(work.run, rank, spec.fault.hang_after),
        clock=clock,
    )


def _flops_per_token(config: Any, task: Task, plan: TrainPlan) -> float | None:
    """None where no formula is known: no utilisation is better than a wrong one."""
    try:
        count = count_model(
            config.model_type,
            config.to_dict(),
            head="classification" if task.labels else "causal_lm",
            num_labels=max(len(task.labels), 1),
        )
    except SpecError:
        return None
    return count.train_flops_per_token(round(plan.tokens_per_row))


def summary(run: Location) -> dict[str, Any]:
    """What the manifest says about a finished run, from its records."""
    from raymodel.observe.records import read_records
    from raymodel.train.journal import METRICS_FILE

    records = read_records(run / METRICS_FILE)
    losses = [r for r in records if "loss" in r]
    validations = [r["validation_loss"] for r in records if "validation_loss" in r]
    last = losses[-1]
    rates = sorted(r["tokens_per_s"] for r in losses)
    return {
        "steps": last["step"],
        "tokens": last["tokens"],
        "first_loss": losses[0]["loss"],
        "loss": last["loss"],
        "validation_loss": validations[-1] if validations else None,
        "tokens_per_s": rates[len(rates) // 2],
        "data_digest": last["data_digest"],
    }
