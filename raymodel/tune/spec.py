"""`sweep:` which settings are searched, and how."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raymodel.cluster.spec import MAX_WORKERS
from raymodel.spec.base import OPERATIONAL, Many, Spec


class SearchSpec(Spec):
    """The range of one setting. Exactly one of the kinds."""

    choice: Many[Any] | None = Field(default=None, min_length=1, max_length=1000)
    """One of these values."""
    uniform: Many[float] | None = Field(default=None, min_length=2, max_length=2)
    """Between two numbers."""
    loguniform: Many[float] | None = Field(default=None, min_length=2, max_length=2)
    """Between two numbers above zero, evenly on a logarithmic scale."""

    @model_validator(mode="after")
    def _one_kind(self) -> SearchSpec:
        kinds = [k for k in ("choice", "uniform", "loguniform") if getattr(self, k) is not None]
        if len(kinds) != 1:
            raise ValueError(f"{kinds or 'nothing'} given; give one of choice, uniform, loguniform")
        bounds = self.uniform or self.loguniform
        if bounds and not (bounds[0] < bounds[1] and (self.uniform or bounds[0] > 0)):
            raise ValueError(f"{list(bounds)} is not a range; the first number must be the lower")
        return self


class SweepSpec(Spec):
    """Trials of fine-tuning with different settings."""

    trials: int = Field(ge=1, le=100_000)
    """How many settings are tried."""
    concurrent: Annotated[int, OPERATIONAL] = Field(default=2, ge=1, le=10_000)
    """Trials that run at the same time."""
    workers_per_trial: Annotated[int, OPERATIONAL] = Field(default=1, ge=1, le=MAX_WORKERS)
    """Training workers of one trial."""
    scheduler: Literal["asha", "none"] = "asha"
    """`asha` stops poor trials early (arXiv:1810.05934)."""
    metric: Literal["validation_loss"] = "validation_loss"
    """The measure that decides; lower is better."""
    search: dict[str, SearchSpec] = Field(min_length=1, max_length=100)
    """Field of `finetune:` by its path (`optimizer.learning_rate`) → its range."""
