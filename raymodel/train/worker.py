"""One training worker from start to end: build, resume, train, export.

The same function runs under Ray Train (`run.py`) and under `torchrun`.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from raymodel.data.shard import Dataset, open_dataset
from raymodel.errors import CheckpointError
from raymodel.heap import keep_freed_memory
from raymodel.model.build import first_line
from raymodel.model.kernels import note_compilation
from raymodel.model.positions import find_max_tokens
from raymodel.observe.measures import holds
from raymodel.observe.slow_paths import SlowPath, slow_paths
from raymodel.storage.local import near
from raymodel.tasks import make_task
from raymodel.tasks.base import Task
from raymodel.train.checkpoint.export import export_model
from raymodel.train.checkpoint.resume import resume
from raymodel.train.checkpoint.saver import Saver
from raymodel.train.checkpoint.state import TrainState
from raymodel.train.clock import Clock
from raymodel.train.distill.hidden import with_projections
from raymodel.train.distill.teacher import OpenTeacher, open_teacher, task_of_both
from raymodel.train.fault.hang import Watchdog
from raymodel.train.fault.notice import LeaveNotice
from raymodel.train.fault.policy import memory_record
from raymodel.train.forecast.counts import NOT_COUNTED, find_shape, flops_per_token
from raymodel.train.forecast.matmul import peak_of_workers
from raymodel.train.forecast.memory import Setup
from raymodel.train.forecast.support import Trained, check_support
from raymodel.train.journal import Journal
from raymodel.train.layout import Layout, check_nodes
from raymodel.train.loop import Training, train
from raymodel.train.network import build_network
from raymodel.train.plan import TrainPlan, data_end, plan_batch
from raymodel.train.session import Session
from raymodel.train.spec import FinetuneSpec
from raymodel.train.step import zero
from raymodel.train.step.batches import Collator
from raymodel.train.step.engine import DTYPES, Engine, build_engine, join_group
from raymodel.train.step.nonfinite import BadSteps
from raymodel.train.step.validation import Validation
from raymodel.train.work import TrainWork, legs_for, open_train, plan_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# What is told of a model whose loss is this near to that of the targets' frequencies.
_LEARNT_FRAC = 0.98


def run_worker(work: TrainWork, session: Session) -> None:
    """Trains one worker's share of `work` and, on rank 0, writes the model at the end.

    Raises:
        UserError: what trying again cannot mend.
    """
    clock = Clock()
    _prepare_torch(work, session)
    _fetch_models(work)
    join_group(work.use_gpu)
    _check_nodes(work, session)
    dataset = open_train(work.spec, work.dataset)
    task = make_task(work.task, labels=work.labels).reading_as(dataset.processor)
    plan = plan_for(work.spec, dataset)
    engine = _build_engine(work, task, dataset, session)
    torn: list[CheckpointError] = []
    state = resume(work.run, engine, session.world_rank, session.world_size, torn.append)
    training = _assemble(work, session, dataset, plan, engine, state, clock)
    for error in torn:
        training.journal.passed_over(error)
    training.journal.begin(work.started_at, _about(work, engine, dataset))
    told = _tell_slow_paths(training.journal)
    if not work.use_gpu:
        keep_freed_memory()  # not sooner: what making the model frees is not needed again
    try:
        train(training)
        if work.spec.compile:
            note_compilation()
            _tell_slow_paths(training.journal, told)
        with clock.during("validation"):
            loss = training.validation.last_loss()
        if work.export and session.world_rank == 0:
            with clock.during("other"):
                exported = export_model(work, task, dataset).state["validation_loss"]
                loss = loss if exported is None else exported
        if work.export:
            with clock.during("validation"):
                _tell_what_was_learnt(training, loss)
        session.report({"step": state.step, "validation_loss": loss})  # rank 0's is heard
    finally:
        training.feed.close()
        training.notice.close()
        training.journal.close()
    engine.close()


def _fetch_models(work: TrainWork) -> None:
    """What lies on the Hugging Face Hub is here before the workers wait for one another, which they
    do for so long only."""
    for model in (work.base, work.teacher.location if work.teacher else None):
        if model is not None:
            near(model)


def _tell_what_was_learnt(training: Training, loss: float) -> None:
    """Warns of a model that is no better than one answer to everything.

    A learning rate that is too high ends so, with a curve that falls at first and then lies flat.
    """
    of_frequencies = training.validation.loss_of_frequencies()
    if of_frequencies and holds(loss, ">", _LEARNT_FRAC * of_frequencies):
        training.journal.tell(
            "nothing_learnt",
            f"nothing was learnt from the input: the held-out loss is {loss:.4g}, and knowing only "
            f"how often each target is gives {of_frequencies:.4g}; take a lower learning rate, a "
            "longer warm-up or more steps",
            validation_loss=loss,
            loss_of_frequencies=of_frequencies,
        )


def _check_nodes(work: TrainWork, session: Session) -> None:
    layout = Layout.of(work.spec.parallel, session.world_rank, session.world_size)
    nodes = [""] * session.world_size
    dist.all_gather_object(nodes, session.node)
    check_nodes(layout, nodes)


def _tell_slow_paths(journal: Journal, told: Collection[SlowPath] = ()) -> Collection[SlowPath]:
    """Tells of those that any worker took, one of which holds up the others. Returns them."""
    by_rank: list[list[SlowPath]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(by_rank, slow_paths())
    taken = dict.fromkeys(path for paths in by_rank for path in paths)
    for path in taken:
        if path not in told:
            journal.tell("slow_path", f"slow: {path.what} ({path.why})", **path._asdict())
    return taken


def _about(work: TrainWork, engine: Engine, dataset: Dataset) -> dict[str, Any]:
    """What the record of an attempt says besides its place in the run."""
    processes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(processes, (os.getpid(), socket.gethostname()))
    return {
        "command": work.attempt,
        "pids": [pid for pid, _ in processes],
        "hosts": [host for _, host in processes],
        "parameters": zero.num_trained(engine.deepspeed),
        "zero": work.spec.parallel.zero,
        "tensor": engine.layout.tensor,
        "sequence": engine.layout.sequence,
        "micro_batch": engine.batch.micro_batch,
        "memory": _memory_record(work, engine, dataset),
    }


def _memory_record(work: TrainWork, engine: Engine, dataset: Dataset) -> dict[str, Any] | None:
    """For the advice when memory runs out; None where nothing can be counted."""
    spec, config = work.spec, engine.deepspeed.module.config
    # An image counts as one of what rows are counted in.
    adapter, row_tokens, max_length = None, dataset.sequence_length or 1, None
    if isinstance(spec, FinetuneSpec):
        adapter, max_length = spec.adapter, spec.max_length
        row_tokens = engine.task.longest_row(max_length)
    setup = Setup.of(spec, dist.get_world_size(), on_gpu=work.use_gpu)
    find = partial(find_shape, task=engine.task, row_tokens=row_tokens, max_length=max_length)
    shape = find(config, setup=setup, adapter=adapter)
    if engine.teacher is not None:
        teacher = find(engine.teacher.config, setup=setup, adapter=None)
        setup = Setup.of(
            spec,
            dist.get_world_size(),
            on_gpu=work.use_gpu,
            teacher=teacher,
            row_tokens=row_tokens,
        )
    return None if shape is None else memory_record(shape, setup, row_tokens=row_tokens)


def _prepare_torch(work: TrainWork, session: Session) -> None:
    cores = len(os.sched_getaffinity(0))
    sharing = session.local_world_size * work.runs_at_a_time
    torch.set_num_threads(work.threads or max(1, cores // sharing))
    if work.use_gpu:
        torch.cuda.set_device(session.local_rank % torch.cuda.device_count())
    # Dropout differs by rank, weights do not. Tensor neighbours compute the same activations.
    torch.manual_seed(work.seed + session.world_rank // work.spec.parallel.tensor)


def _build_engine(work: TrainWork, task: Task, dataset: Dataset, session: Session) -> Engine:
    network = build_network(work, task, dataset)
    _check_support(work, task, dataset, network.plain)
    teacher = _open_teacher(work, task, dataset, network.plain)
    layout = Layout.of(work.spec.parallel, session.world_rank, session.world_size)
    batch = plan_batch(work.spec.global_batch, work.spec.micro_batch, layout.data_world_size)
    if teacher is None:
        task = task.for_model(network.plain.config)
    else:
        task = task_of_both(task, network.plain, teacher.outline)
        assert work.spec.distill is not None, "there is a teacher"
        if work.spec.distill.hidden is not None:
            network = with_projections(network, teacher.outline, work.seed)
    return build_engine(network.module, task, work.spec, batch, network.weights, teacher)


def _open_teacher(
    work: TrainWork, task: Task, dataset: Dataset, student: PreTrainedModel
) -> OpenTeacher | None:
    if work.teacher is None:
        return None
    row_tokens = dataset.sequence_length
    if isinstance(work.spec, FinetuneSpec) and work.base is not None and task.modality == "text":
        # A fresh model's examples are as long as its teacher takes.
        row_tokens = work.spec.max_length_for(find_max_tokens(student.config.to_dict()))
    teacher = open_teacher(work.teacher.location, task, row_tokens)
    _check_support(work, task, dataset, teacher.outline)
    return teacher


def _check_support(work: TrainWork, task: Task, dataset: Dataset, network: Any) -> None:
    config = network.config
    length = dataset.sequence_length
    if isinstance(work.spec, FinetuneSpec):
        length = work.spec.max_length
    model = Trained(
        config.model_type, config.to_dict(), task.cuts_rows, length, task.apart_architectures
    )
    check_support(work.spec, model)


def _assemble(
    work: TrainWork,
    session: Session,
    dataset: Dataset,
    plan: TrainPlan,
    engine: Engine,
    state: TrainState,
    clock: Clock,
) -> Training:
    spec, task = work.spec, engine.task
    rank, world_size = session.world_rank, session.world_size
    collator = Collator(task, engine.batch.accumulation, work.seed)
    config = engine.deepspeed.module.config
    max_length = spec.max_length if isinstance(spec, FinetuneSpec) else None
    flops, peak, not_counted = None, None, ""
    try:
        texts = 1 if task.spec is None else task.spec.row_texts
        row_tokens = max(1, round(plan.tokens_per_row / texts))
        count = partial(flops_per_token, task=task, row_tokens=row_tokens, max_length=max_length)
        flops = count(config)
        if engine.teacher is not None:  # its forward pass
            flops += count(engine.teacher.config) / 3
    except NOT_COUNTED as error:  # no utilisation is better than a wrong one
        not_counted = first_line(error)
    else:
        peak = peak_of_workers(DTYPES[spec.precision], engine.device)
    journal = Journal(
        work.run,
        spec=spec,
        plan=plan,
        state=state,
        engine=engine,
        session=session,
        clock=clock,
        flops_per_token=flops,
        peak=peak,
    )
    if not_counted:
        journal.tell(
            "not_counted",
            f"the arithmetic of this {config.model_type} model cannot be counted, so its records "
            f"have no mfu ({not_counted})",
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
        keep_best=spec.export == "best",
        wait=spec.checkpoint.wait,
        before_commit=journal.store,
        on_event=journal.event,
    )
    order = dataset.order(
        work.seed,
        spec.global_batch,
        with_partners=work.task.wants_partners,
        legs=legs_for(spec, dataset, plan.total_steps),
    )
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
        feed=session.feed(dataset, order, state.data_step, end, spec.on_bad_shard, engine.layout),
        validation=Validation(
            open_dataset(work.dataset, "holdout"),
            spec.validate_rows,
            spec.global_batch,
            engine,
            collator,
        ),
        journal=journal,
        saver=saver,
        notice=notice,
        bad_steps=bad_steps,
        watchdog=Watchdog(work.run, rank, spec.fault.hang_after),
        clock=clock,
    )
