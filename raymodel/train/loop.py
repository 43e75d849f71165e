"""The training loop, in the order of time.

next batch → agree → forward/backward → update → log? → validate? → checkpoint? → leave?

It runs the same under Ray Train and under `torchrun`; `worker.py` builds what it uses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from raymodel.data.feed import Feed, StepRows
from raymodel.data.order import DataDigest
from raymodel.errors import NonFiniteLossError, PreemptedError
from raymodel.train.checkpoint.saver import Saver
from raymodel.train.checkpoint.state import TrainState
from raymodel.train.clock import Clock
from raymodel.train.fault.hang import Watchdog
from raymodel.train.fault.notice import LeaveNotice
from raymodel.train.journal import Journal
from raymodel.train.plan import TrainPlan
from raymodel.train.spec import TrainSpec
from raymodel.train.step.batches import Collator, GlobalStep, StepBatch, agree, collated, first_text
from raymodel.train.step.engine import Engine
from raymodel.train.step.nonfinite import BadSteps
from raymodel.train.step.validation import Validation
from raymodel.train.update.schedule import learning_rate_at


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything one worker trains with."""

    spec: TrainSpec
    plan: TrainPlan
    state: TrainState
    engine: Engine
    collator: Collator
    feed: Feed
    validation: Validation
    journal: Journal
    saver: Saver
    notice: LeaveNotice
    bad_steps: BadSteps
    watchdog: Watchdog
    clock: Clock

    @property
    def ranks_checkpoints(self) -> bool:
        """Whether each checkpoint needs a validation loss, by which the best is found."""
        return self.spec.export == "best"


def train(t: Training) -> None:
    """Trains until the planned number of steps, or until a notice to leave.

    Raises:
        NonFiniteLossError: a loss or gradient became NaN or infinite, and the spec says to stop.
        StorageUnavailableError: the last checkpoint could not be written.
        PreemptedError: a notice came; the state was saved.
    """
    if t.state.step == 0 and t.spec.fault.non_finite_loss == "rewind":
        t.saver.save(t.state)  # a rewind needs a place to go back to
    t.clock.switch("data_wait")
    leave = False
    with t.watchdog:
        for rows, batch in _unless_done(t):
            t.clock.switch("train")
            _check_rows(t, rows)
            agreed = agree(
                batch, t.engine.layout, t.notice.given, t.engine.device, ask=t.notice.is_due()
            )
            loss = _forward_backward_update(t, batch, agreed)
            if _is_bad(t, loss) and not t.bad_steps.handle(loss):
                t.clock.switch("data_wait")
                continue
            sums = agreed.read()
            _advance(t.state, rows, sums)
            leave = sums["leave"] > 0 or (sums["ask"] > 0 and t.notice.ask())

            step, last = t.state.step, t.state.step == t.plan.total_steps
            if step % t.plan.log_every_steps == 0 or last or leave:
                t.journal.log(loss, padding=1 - sums["tokens"] / max(sums["positions"], 1))
            saves = step % t.plan.checkpoint_every_steps == 0 or last or leave
            if step % t.plan.validate_every_steps == 0 or last or (saves and t.ranks_checkpoints):
                with t.clock.during("validation"):
                    t.state.validation_loss = t.validation.loss()
                    t.journal.log_validation(t.state.validation_loss)
            if saves:
                with t.clock.during("checkpoint_stall"):
                    t.saver.save(t.state)
                t.journal.book(now=True)
            t.journal.book()
            t.watchdog.step(step)
            if last or leave:
                break
            t.clock.switch("data_wait")
    with t.clock.during("checkpoint_stall"):
        t.saver.close()
    _check_end(t, leave)


def _unless_done(t: Training) -> Iterable[tuple[StepRows, StepBatch]]:
    """A run that died after its last step has nothing left to read."""
    return collated(t.feed, t.collator) if t.state.step < t.plan.total_steps else ()


def _check_rows(t: Training, rows: StepRows) -> None:
    """A feed that went wrong must not go unseen: it would only show in the digest."""
    expected = t.state.data_step
    assert rows.step == expected, f"the feed gave step {rows.step}, not {expected}"
    assert not rows.skipped or t.spec.on_bad_shard == "skip", f"rows of {rows.step} are missing"


def _forward_backward_update(t: Training, batch: StepBatch, agreed: GlobalStep) -> float:
    """One optimizer step. Returns the loss of the global batch; when it is bad, nothing changed."""
    rate = learning_rate_at(
        t.state.step + 1, t.plan.total_steps, t.spec.optimizer.peak, t.spec.schedule
    )
    loss_sum = torch.zeros((), dtype=torch.float64, device=t.engine.device)
    *others, last = batch.micro_batches
    is_blank = batch.rows == 0
    for micro_batch in others:
        loss_sum += t.engine.forward_backward(micro_batch, agreed.targets, is_blank=is_blank)
        t.engine.update(rate)
    loss_sum += t.engine.forward_backward(last, agreed.targets, is_blank=is_blank)
    loss = agreed.mean(loss_sum)
    with t.clock.during("checkpoint_stall"):
        t.saver.wait_for_copy()
    t.engine.update(rate, leave_out=not math.isfinite(loss))
    return loss


def _is_bad(t: Training, loss: float) -> bool:
    """Under fp16 a gradient that is not finite only means that the loss scale comes down."""
    return not math.isfinite(loss) or (t.engine.left_out_update and t.spec.precision != "fp16")


def _advance(state: TrainState, rows: StepRows, sums: dict[str, int]) -> None:
    """Counts a completed step."""
    state.step += 1
    state.validation_loss = None
    state.tokens += sums["tokens"]
    state.rows += sums["rows"]
    state.targets += sums["targets"]
    state.bad_rows += sums["bad_rows"]
    digest = DataDigest(state.data_digest).update(rows.step, sums["digest_term"])
    state.data_digest = digest.hex


def _check_end(t: Training, leave: bool) -> None:
    """A run that is not done must not look as if it were."""
    step = t.state.step
    if step == t.plan.total_steps:
        return
    if leave:
        cause = first_text(t.notice.reason)
        t.journal.event({"event": "left", "cause": cause, "step": step})
        raise PreemptedError(f"{cause}; step {step} is saved")
    raise NonFiniteLossError(
        f"rewinds left out so much that no data is left at step {step} of {t.plan.total_steps}; "
        "look at the steps in the events, and shorten `checkpoint.every`"
    )
