"""`cluster:` where the job runs. Nothing here changes what is computed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from raymodel.spec.base import Spec
from raymodel.spec.quantity import Count

MAX_WORKERS = 100_000
"""Of one job: above the largest clusters that are known."""
MAX_CPUS = 4096
"""Of one machine, with all its threads."""


class ElasticSpec(Spec):
    """A number of workers that may change while a run goes on."""

    min: int = Field(ge=1, le=MAX_WORKERS)
    """The run waits while fewer than this many workers can be placed."""
    max: int = Field(ge=1, le=MAX_WORKERS)
    """The run grows up to this many workers when the cluster has room."""

    @model_validator(mode="after")
    def _ordered(self) -> ElasticSpec:
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max is {self.max}; min must not exceed max")
        return self


class ClusterSpec(Spec):
    """How many workers train, and what each one holds."""

    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] | ElasticSpec = 1
    """Training processes: a number, or `{min, max}` for a run that shrinks and grows."""
    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    """GPUs of each worker. One process drives one GPU; 0 trains on the CPU with gloo."""
    cpus_per_worker: int = Field(default=1, ge=1, le=MAX_CPUS)
    """Logical CPUs that Ray reserves for each training worker."""
    threads_per_worker: Annotated[Count, Field(ge=1, le=MAX_CPUS)] | None = None
    """Threads of torch in each worker; by default the machine's cores shared out evenly."""

    @property
    def min_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers.min

    @property
    def max_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers.max
