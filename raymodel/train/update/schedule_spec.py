"""`schedule:` the learning rate over time."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import model_validator

from raymodel.errors import SpecError
from raymodel.spec.base import Spec
from raymodel.spec.quantity import Amount, Fraction, Part

WSD_DECAY = 0.1
"""Share of a run that is enough to decay in (arXiv:2404.06395, section 4)."""


class ScheduleSpec(Spec):
    """The learning rate over time, relative to its peak."""

    name: Literal["cosine", "linear", "constant", "inverse_sqrt", "wsd"] = "cosine"
    """Shape after the warm-up. `inverse_sqrt` falls with the root of the step and never ends
    (arXiv:1706.03762); `wsd` stays at the peak and falls in a line over the last steps
    (arXiv:2404.06395)."""
    warmup: Part = 0.02
    """Share of all steps over which the rate rises linearly from near zero, or how many they
    are."""
    final: Fraction = 0.1
    """The rate at the end, as a share of the peak; not used by `constant` and `inverse_sqrt`."""
    decay: Part | None = None
    """Share of all steps over which `wsd` falls, or how many they are; by default a tenth, which
    was enough in arXiv:2404.06395. Of `wsd` only."""

    @model_validator(mode="after")
    def _only_wsd_has_a_decay(self) -> ScheduleSpec:
        if self.decay is not None and self.name != "wsd":
            raise ValueError(
                f"decay is {self.decay}, and {self.name} falls over the whole run or not at all; "
                "leave decay out, or use name: wsd"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Of `wsd` alone the decay: what the other schedules made keeps its name."""
        own = super().identity()
        if self.name != "wsd":
            del own["decay"]
        return own

    def phases(self, total_steps: int) -> tuple[int, int]:
        """Steps of the warm-up, and of the decay that `wsd` ends with.

        Raises:
            SpecError: the run has fewer.
        """
        warmup = _steps_of(self.warmup, total_steps)
        if warmup > total_steps:
            raise SpecError(
                f"schedule.warmup is {self.warmup} and the run has {total_steps}; give a share, "
                'such as "2%", fewer steps, or a longer duration'
            )
        rest = total_steps - math.ceil(warmup)
        if self.name != "wsd":
            return math.ceil(warmup), 0
        if self.decay is None:
            return math.ceil(warmup), min(math.ceil(WSD_DECAY * total_steps), rest)
        decay = _steps_of(self.decay, total_steps)
        if warmup + decay > total_steps * (1 + 1e-9):  # two shares may be all, but for rounding
            raise SpecError(
                f"schedule.warmup of {self.warmup} and schedule.decay of {self.decay} are more "
                f"than the {total_steps} steps of the run; lower one of them"
            )
        return math.ceil(warmup), min(math.ceil(decay), rest)


def _steps_of(part: float | Amount, total_steps: int) -> float:
    return part.value if isinstance(part, Amount) else part * total_steps
