"""Steps whose loss or gradient is NaN or infinite: stop, skip or rewind.

The loss is that of the global batch, so all ranks decide alike. The update of such a step is always
left out. A rewind depends on nothing but the data, so when it is interrupted and comes again, the
same steps are left out.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace

import torch.distributed as dist

from raymodel.errors import NonFiniteLossError
from raymodel.storage.uri import Location
from raymodel.train.checkpoint.index import load_index, save_index
from raymodel.train.checkpoint.resume import resume
from raymodel.train.checkpoint.saver import Saver
from raymodel.train.checkpoint.state import TrainState, checkpoint_location
from raymodel.train.journal import Journal
from raymodel.train.plan import MAX_REWINDS
from raymodel.train.spec import TrainSpec
from raymodel.train.step.engine import Engine

MAX_SKIPS_IN_A_ROW = 10  # a run that is lost skips for ever

_ADVICE = (
    "Lower `optimizer.learning_rate`, lengthen `schedule.warmup`, lower `optimizer.gradient_clip`, "
    "or look at the data of that step; the last good checkpoint is kept"
)


class BadSteps:
    """Does what the spec says about a bad step, on every rank."""

    def __init__(
        self,
        run: Location,
        *,
        spec: TrainSpec,
        state: TrainState,
        engine: Engine,
        saver: Saver,
        journal: Journal,
    ) -> None:
        self._run, self._policy, self._state = run, spec.fault.non_finite_loss, state
        self._engine, self._saver, self._journal = engine, saver, journal
        self._last_skipped, self._skips_in_a_row = -1, 0

    def handle(self, loss: float) -> bool:
        """The update of the step at hand was left out; decides how to go on.

        Args:
            loss: of the step's global batch. Finite when only the gradient is not.

        Returns:
            Whether the step counts as done. When not, the state is that of a checkpoint, and
            training goes on from there with the data after the bad step.

        Raises:
            NonFiniteLossError: training cannot go on; nothing bad was saved.
        """
        seen = f"at step {self._state.step + 1} the loss is {loss}"
        if math.isfinite(loss):
            seen += " but its gradient is not finite"
        if self._policy == "stop":
            self._give_up(f"{seen}. {_ADVICE}, or set `fault.non_finite_loss` to skip or rewind")
        if self._policy == "skip":
            self._skip(seen)
            return True
        self._rewind(seen)
        return False

    def _skip(self, seen: str) -> None:
        step = self._state.step
        self._skips_in_a_row = self._skips_in_a_row + 1 if step == self._last_skipped + 1 else 1
        self._last_skipped = step
        if self._skips_in_a_row > MAX_SKIPS_IN_A_ROW:
            self._give_up(f"{seen}, as at the {MAX_SKIPS_IN_A_ROW} steps before. {_ADVICE}")
        self._state.non_finite_steps += 1
        self._journal.tell("skip", f"{seen}; its update is left out", step=step + 1)

    def _rewind(self, seen: str) -> None:
        if len(self._state.left_out) >= MAX_REWINDS:
            self._give_up(f"{seen}, after {MAX_REWINDS} rewinds. {_ADVICE}")
        bad, bad_steps = self._state.data_step, self._state.non_finite_steps + 1
        self._saver.close()
        dist.barrier()  # all parts of the checkpoint under way are written
        rank = dist.get_rank()
        went_back = resume(
            self._run, self._engine, rank, dist.get_world_size(), self._journal.passed_over
        )
        went_back.left_out.append([went_back.data_step, bad + 1])
        went_back.non_finite_steps = bad_steps
        for field in fields(went_back):
            setattr(self._state, field.name, getattr(went_back, field.name))
        if rank == 0:
            _save_state(self._run, self._state)
        first, stop = self._state.left_out[-1]
        self._journal.rewind()
        self._journal.tell(
            "rewind",
            f"{seen}; back to step {self._state.step}, without the data of steps {first + 1} to "
            f"{stop}",
            step=self._state.step,
        )

    def _give_up(self, message: str) -> None:
        self._saver.close()  # the checkpoint under way is a good one
        raise NonFiniteLossError(message)


def _save_state(run: Location, state: TrainState) -> None:
    """From now on the checkpoint that training went back to says which data comes next."""
    folder = checkpoint_location(run, state.step)
    save_index(folder, replace(load_index(folder), state=state.to_dict()))
