"""`clean.steps:` what records go through before all else; one class a step.

Each file has the steps of a kind. A step that is added to `OurStep` is known here, and by
`cleaner.py` when its class says that it has this spec.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import Field, SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator

from raymodel.data.cleaning.spec.audio import (
    ClippingSpec,
    DurationSpec,
    LoudnessSpec,
    SilenceSpec,
)
from raymodel.data.cleaning.spec.base import OwnStepSpec, Sees, StepSpec
from raymodel.data.cleaning.spec.choice import LanguageSpec, WordsSpec
from raymodel.data.cleaning.spec.image import AspectSpec, BlurSpec, SizeSpec
from raymodel.data.cleaning.spec.mend import PIISpec, UnicodeSpec
from raymodel.data.cleaning.spec.quality import GopherSpec, RepetitionSpec
from raymodel.data.cleaning.spec.web import C4Spec, FineWebSpec
from raymodel.spec.fields import WrittenByName, by_name, own_name
from raymodel.spec.own import check_reference, is_own
from raymodel.spec.show import show

__all__ = ["STEP_SPECS", "AnyStepSpec", "OwnStepSpec", "StepSpec", "steps_for"]

OurStep = (
    UnicodeSpec
    | LanguageSpec
    | GopherSpec
    | RepetitionSpec
    | C4Spec
    | FineWebSpec
    | WordsSpec
    | PIISpec
    | SizeSpec
    | AspectSpec
    | BlurSpec
    | DurationSpec
    | SilenceSpec
    | ClippingSpec
    | LoudnessSpec
)
STEP_SPECS: tuple[type[StepSpec], ...] = get_args(OurStep)


def steps_for(sees: Sees) -> list[str]:
    """The names of those that look at texts, at images or at sounds."""
    return [str(own_name(step)) for step in STEP_SPECS if step.sees == sees]


def _read_step(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """A step of this package by its name, a user's own by where its function is."""
    if isinstance(value, StepSpec):
        return value
    name = value.get("name") if isinstance(value, dict) else value
    if isinstance(name, str) and is_own(name):
        if isinstance(value, dict) and len(value) > 1:
            raise ValueError(f"{show(name)} is a step of your own, which takes its name alone")
        return OwnStepSpec(name=check_reference(name))
    key = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else None
    if key in map(own_name, STEP_SPECS):
        raise ValueError(f"write {{name: {key}, …}} with its settings beside it")
    return read(by_name(value, STEP_SPECS, "a cleaning step, nor a module.path:Name of your own"))


AnyStepSpec = Annotated[
    SerializeAsAny[OurStep],
    Field(discriminator="name"),
    WrapValidator(_read_step),
    WrittenByName(takes_own=True),
]
"""A name, such as `gopher`, or a mapping with `name` and what the step takes. The name
`module.path:Name` is a function of the user's own."""
