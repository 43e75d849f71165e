"""The learning rate as a pure function of the step.

DeepSpeed's own warm-up schedulers make the first two updates with a rate of zero; computing the
rate here and writing it into the optimizer also means that nothing of it is kept in a checkpoint.
"""

from __future__ import annotations

import math

from raymodel.train.update.schedule_spec import ScheduleSpec


def learning_rate_at(step: int, total_steps: int, peak: float, schedule: ScheduleSpec) -> float:
    """The rate for the update that completes `step` (1 … total_steps).

    Raises:
        SpecError: the run is shorter than the warm-up, or than that and the decay.
    """
    warmup_steps, decay_steps = schedule.phases(total_steps)
    if step <= warmup_steps:
        return peak * step / (warmup_steps + 1)
    if schedule.name == "constant":
        return peak
    if schedule.name == "inverse_sqrt":
        # The line of the warm-up reaches the peak one step after it, without any at step 1.
        return peak * math.sqrt((warmup_steps + 1) / step)
    flat_until = total_steps - decay_steps if schedule.name == "wsd" else warmup_steps
    if step <= flat_until:
        return peak
    progress = (step - flat_until) / (total_steps - flat_until)
    shape = (1 + math.cos(math.pi * progress)) / 2 if schedule.name == "cosine" else 1 - progress
    return peak * (schedule.final + (1 - schedule.final) * shape)
