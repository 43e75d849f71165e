"""Pure arithmetic of a training run: steps, intervals, and how a batch is cut up for workers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from raymodel.errors import SpecError
from raymodel.observe.text import many
from raymodel.spec.quantity import Amount
from raymodel.train.spec import TrainSpec

LOG_RECORDS = 200  # enough points for a curve, few enough that logging costs nothing
CHECKPOINTS = 10  # a failure then loses a twentieth of the run on average
VALIDATIONS = 5

MAX_REWINDS = 5  # when other data does not help, the cause is not the data


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """What the spec means for a dataset of a known size."""

    total_steps: int
    global_batch: int
    tokens_per_row: float
    rows_per_epoch: int
    log_every_steps: int
    validate_every_steps: int
    checkpoint_every_steps: int

    @property
    def total_tokens(self) -> int:
        return round(self.total_steps * self.global_batch * self.tokens_per_row)

    @property
    def repeats(self) -> str | None:
        """What to say where the data does not fill a single step; None where it does."""
        if self.rows_per_epoch >= self.global_batch:
            return None
        in_a_step = self.global_batch / self.rows_per_epoch
        return (
            f"the data has {many(self.rows_per_epoch, 'row')} and `global_batch` is "
            f"{self.global_batch}: each row is in every step {in_a_step:.3g} times, and is visited "
            f"{in_a_step * self.total_steps:.4g} times in {self.total_steps} steps; lower "
            "`global_batch`, or give more data"
        )


def check_rows(spec: TrainSpec, rows_per_epoch: int) -> None:
    """Refuses epochs that have no whole step: who counts in passes does not mean to see the same
    row many times in one step. Who does, gives the duration in steps.

    Raises:
        SpecError: the duration is in epochs, and the rows do not fill one step.
    """
    if spec.duration.unit == "epochs" and rows_per_epoch < spec.global_batch:
        raise SpecError(
            f"`duration` is {spec.duration}, but an epoch has {many(rows_per_epoch, 'row')} and a "
            f"step takes `global_batch` = {spec.global_batch}, so that no epoch has a whole step; "
            f"lower `global_batch` to {rows_per_epoch} or less, give more data, or give `duration` "
            "in steps, which then see the same rows many times"
        )


def plan_training(spec: TrainSpec, *, rows_per_epoch: int, tokens_per_row: float) -> TrainPlan:
    """Turns durations and intervals into whole steps.

    Args:
        spec: the stage's spec.
        rows_per_epoch: rows of the training split.
        tokens_per_row: mean tokens of a row, for amounts given in tokens.

    Raises:
        SpecError: the run is shorter than the warm-up, or than that and the decay.
    """

    def steps(amount: Amount | None, parts: int, total: int) -> int:
        if amount is None:
            return max(1, total // parts)
        return in_steps(amount)

    def in_steps(amount: Amount) -> int:
        return amount.steps(
            tokens_per_step=spec.global_batch * tokens_per_row,
            rows_per_step=spec.global_batch,
            rows_per_epoch=rows_per_epoch,
        )

    total = in_steps(spec.duration)
    spec.schedule.phases(total)
    return TrainPlan(
        total_steps=total,
        global_batch=spec.global_batch,
        tokens_per_row=tokens_per_row,
        rows_per_epoch=rows_per_epoch,
        log_every_steps=steps(spec.log_every, LOG_RECORDS, total),
        validate_every_steps=steps(spec.validate_every, VALIDATIONS, total),
        checkpoint_every_steps=steps(spec.checkpoint.every, CHECKPOINTS, total),
    )


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How one global batch is cut for one world size. Uneven cuts are allowed: the loss is
    normalised by the targets of the global batch, so the curve does not see them."""

    micro_batch: int
    """Largest number of rows in one forward pass."""
    accumulation: int
    """Forward passes of each worker in one step; the same on all workers."""


def plan_batch(global_batch: int, micro_batch: int | None, world_size: int) -> BatchPlan:
    """The micro batch and accumulation that follow from the global batch and the world size."""
    worker_rows = -(-global_batch // world_size)
    micro = min(micro_batch or worker_rows, worker_rows)
    accumulation = -(-worker_rows // micro)
    return BatchPlan(micro_batch=-(-worker_rows // accumulation), accumulation=accumulation)


def stage_to_run(zero: int, *, workers: int, precision: str, offload: bool) -> int:
    """The ZeRO stage that DeepSpeed is given for the one of the spec.

    One worker has nobody to spread state over. In fp32, stage 0 then hands torch the model's own
    weights, where every other stage keeps a flat copy of them and moves all gradients and weights
    through it in each step. In 16 bits, where a copy in fp32 is needed, it would update parameter
    by parameter.

    Args:
        zero: Of the spec.
        workers: Of the whole group.
    """
    return 0 if workers == 1 and precision == "fp32" and not offload else zero


def find_step_conflict(spec: TrainSpec, batch: BatchPlan) -> str | None:
    """Why a worker does not compute all its rows of a step, and those alone, in one pass, with the
    fix: what looks at several rows of a step needs that to see the whole of it. None where it does.
    """
    if batch.accumulation > 1:
        enough = -(-spec.global_batch // (spec.micro_batch or spec.global_batch))
        return (
            f"micro_batch is {spec.micro_batch}, so that a worker computes its rows in "
            f"{batch.accumulation} passes, of which none sees the others; leave out micro_batch, "
            f"use {enough} workers or more"
        )
    for field, workers in (
        ("tensor", spec.parallel.tensor),
        ("sequence", spec.parallel.sequence),
    ):
        if workers > 1:
            return (
                f"parallel.{field} is {workers}, so that workers have rows in common, which would "
                "count more than once; leave it out"
            )
    return None


def cut(num_rows: int, pieces: int) -> list[tuple[int, int]]:
    """Cuts rows into `pieces` runs that differ by at most one row: [(start, stop), …].

    A piece may be empty when there are fewer rows than pieces.
    """
    short, longer = divmod(num_rows, pieces)
    bounds = [0]
    for index in range(pieces):
        bounds.append(bounds[-1] + short + (index < longer))
    return list(pairwise(bounds))


def data_end(spec: TrainSpec, plan: TrainPlan) -> int:
    """The data step after the last that may be read: a rewind leaves data out and needs more."""
    if spec.fault.non_finite_loss != "rewind":
        return plan.total_steps
    # A rewind leaves out one interval; two when the newest checkpoint turns out to be torn.
    return plan.total_steps + MAX_REWINDS * 2 * plan.checkpoint_every_steps
