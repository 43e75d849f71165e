"""The training loop, in the order of time.

next batch → agree → forward/backward → update → log? → validate? → checkpoint? → leave?

It runs the same under Ray Train and under `torchrun`; `worker.py` builds what it uses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from raymodel.data.feed import StepRows
from raymodel.data.order import DataDigest
from raymodel.train.batches import Collator, GlobalStep, StepBatch, agree
from raymodel.train.checkpoint import TrainState
from raymodel.train.clock import Clock
from raymodel.train.engine import Engine
from raymodel.train.journal import Journal
from raymodel.train.notice import LeaveNotice
from raymodel.train.plan import TrainPlan
from raymodel.train.saver import Saver
from raymodel.train.schedule import learning_rate_at
from raymodel.train.spec import TrainSpec
from raymodel.train.validation import Validation


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything one worker trains with."""

    spec: TrainSpec
    plan: TrainPlan
    state: TrainState
    engine: Engine
    collator: Collator
    feed: Iterable[StepRows]
    validation: Validation
    journal: Journal
    saver: Saver
    notice: LeaveNotice
    clock: Clock


def train(t: Training) -> None:
    """Trains until the planned number of steps, or until a notice to leave.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite and the spec says to stop.
        CheckpointError: the last checkpoint could not be written.
    """
    t.clock.switch("data_wait")
    for rows in t.feed:
        t.clock.switch("train")
        _check_rows(t, rows)
        batch = t.collator.step_batch(rows)
        agreed = agree(batch, t.notice.given, t.engine.device)
        loss_sum = _forward_backward_update(t, batch, agreed)
        leave = _advance(t.state, rows, agreed)

        step, last = t.state.step, t.state.step == t.plan.total_steps
        if step % t.plan.log_every_steps == 0 or last or leave:
            t.journal.log(loss_sum / agreed.targets)
        if step % t.plan.validate_every_steps == 0 or last:
            with t.clock.during("validation"):
                t.journal.log_validation(t.validation.loss())
        if step % t.plan.checkpoint_every_steps == 0 or last or leave:
            with t.clock.during("checkpoint_stall"):
                t.journal.check_finite(loss_sum / agreed.targets)
                t.saver.save(t.state)
        if leave:
            break
        t.clock.switch("data_wait")
    with t.clock.during("checkpoint_stall"):
        t.saver.close()


def _check_rows(t: Training, rows: StepRows) -> None:
    """A feed that went wrong must not go unseen: it would only show in the digest."""
    assert rows.step == t.state.step, f"the feed gave step {rows.step}, not {t.state.step}"
    assert not rows.skipped or t.spec.on_bad_shard == "skip", f"rows of {rows.step} are missing"


def _forward_backward_update(t: Training, batch: StepBatch, agreed: GlobalStep) -> torch.Tensor:
    """One optimizer step. Returns this worker's sum of the loss, on the device."""
    rate = learning_rate_at(
        t.state.step + 1, t.plan.total_steps, t.spec.optimizer.learning_rate, t.spec.schedule
    )
    loss_sum = torch.zeros((), device=t.engine.device)
    last = len(batch.micro_batches) - 1
    for index, micro_batch in enumerate(batch.micro_batches):
        loss_sum += t.engine.forward_backward(micro_batch, agreed.targets)
        if index == last:
            with t.clock.during("checkpoint_stall"):
                t.saver.wait_for_copy()
        t.engine.update(rate)
    return loss_sum


def _advance(state: TrainState, rows: StepRows, agreed: GlobalStep) -> bool:
    """Books a completed step. Returns whether some worker must leave."""
    sums = agreed.read()
    state.step += 1
    state.tokens += sums["tokens"]
    state.rows += sums["rows"]
    state.targets += sums["targets"]
    state.bad_rows += sums["bad_rows"]
    digest = DataDigest(state.data_digest).update(rows.step, sums["digest_term"])
    state.data_digest = digest.hex
    return sums["leave"] > 0
