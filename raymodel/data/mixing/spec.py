"""`mixture:` of a training stage: how its sources are mixed over the run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from raymodel.errors import SpecError
from raymodel.spec.base import OPERATIONAL, Many, Spec, Text
from raymodel.spec.quantity import Amount, Part

MOST_WEIGHT = 10_000.0
"""As of a source."""
Name = Annotated[Text, Field(max_length=1000)]
"""The `path` of a source, or of a dataset of `pretrain.data`, as the job file has it."""


class MixtureStage(Spec):
    """A stretch of the run with weights of its own."""

    until: Part | None = None
    """Where it ends: a share of the run's steps, such as 80%, or "2000 steps". The last stage has
    none and goes on to the end."""
    weights: dict[Name, Annotated[float, Field(ge=0, le=MOST_WEIGHT)]] = Field(
        default_factory=dict, max_length=1000
    )
    """Name → the weight that takes the place of its own as long as the stage lasts. A name is the
    `path` of a source, or of a dataset of `pretrain.data`. At 0 it is left out; what is not named
    keeps its weight."""


class MixtureSpec(Spec):
    """How the sources of a stage are mixed. By default by their sizes and weights, all the time."""

    temperature: float = Field(default=1.0, ge=1, le=1000)
    """Above 1 small sources come more often and large ones more rarely: the share of a source is
    its weight times the number of its rows to the power of 1 / temperature (arXiv:1907.05019,
    section 4). 5 is common for languages; at 1000 all sources have nearly the same share. An epoch
    has as many rows as without."""
    max_visits: Annotated[float | None, OPERATIONAL] = Field(default=None, gt=0, le=1e9)
    """The run is refused if rows of a source were visited more often than this by its end. Beyond
    four visits repeats teach less and less (arXiv:2305.16264)."""
    max_visits_of: Annotated[dict[Name, Annotated[float, Field(gt=0, le=1e9)]], OPERATIONAL] = (
        Field(default_factory=dict, max_length=1000)
    )
    """Name → the same of one source, or of the sources of one dataset, before `max_visits`."""
    stages: Many[MixtureStage] = Field(default=(), max_length=100)
    """A curriculum: stretches of the run, one after the other, each with weights of its own. Rows
    that a stage has not come to are the first of the next one."""

    @property
    def is_plain(self) -> bool:
        """Whether it leaves the order of the rows as it is without."""
        return self.temperature == 1 and not self.stages

    @property
    def names(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Where a name stands → the name."""
        yield from ((("max_visits_of", name), name) for name in self.max_visits_of)
        for index, stage in enumerate(self.stages):
            yield from ((("stages", index, "weights", name), name) for name in stage.weights)

    @model_validator(mode="after")
    def _stages_follow_each_other(self) -> MixtureSpec:
        for index, stage in enumerate(self.stages, start=1):
            is_last = index == len(self.stages)
            if is_last and stage.until is not None:
                raise ValueError("the last stage goes on to the end of the run; leave `until` out")
            if not is_last and stage.until is None:
                raise ValueError(
                    f"stage {index} of {len(self.stages)} has no `until`; write where it ends, "
                    'such as 80% or "2000 steps"'
                )
        for first, second in pairwise(self.stages[:-1]):
            a, b = first.until, second.until
            is_alike = isinstance(a, Amount) == isinstance(b, Amount)
            if is_alike and _number(a) >= _number(b):
                raise ValueError(f"a stage ends at {a} and the next one at {b}; put them in order")
        return self

    def ends(self, total_steps: int) -> list[int]:
        """The step after the last of each stage.

        Raises:
            SpecError: a stage has no step, or ends after the run.
        """
        ends = []
        for stage in self.stages[:-1]:
            if isinstance(stage.until, Amount):
                ends.append(math.ceil(stage.until.value))
            else:
                ends.append(round((stage.until or 0.0) * total_steps))
        ends.append(total_steps)
        for index, (start, end) in enumerate(pairwise([0, *ends]), start=1):
            if end <= start:
                raise SpecError(
                    f"stage {index} of `mixture` would go from step {start} to step {end} of "
                    f"{total_steps}; each needs a step at least. Change `until`, or train longer"
                )
        return ends


def _number(until: float | Amount | None) -> float:
    return until.value if isinstance(until, Amount) else until or 0.0
