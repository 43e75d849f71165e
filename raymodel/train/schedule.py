"""The learning rate as a pure function of the step.

DeepSpeed's own warm-up schedulers make the first two updates with a rate of zero; computing the
rate here and writing it into the optimizer also means that nothing of it is kept in a checkpoint.
"""

from __future__ import annotations

import math

from raymodel.train.spec import ScheduleSpec


def learning_rate_at(step: int, total_steps: int, peak: float, schedule: ScheduleSpec) -> float:
    """The rate for the update that completes `step` (1 … total_steps)."""
    warmup_steps = math.ceil(schedule.warmup * total_steps)
    if step <= warmup_steps:
        return peak * step / (warmup_steps + 1)
    if schedule.name == "constant":
        return peak
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    shape = (1 + math.cos(math.pi * progress)) / 2 if schedule.name == "cosine" else 1 - progress
    return peak * (schedule.final + (1 - schedule.final) * shape)
