"""Cleans texts as a job with some steps does."""

from typing import Any

from raymodel.data.cleaning.cleaner import Cleaner
from raymodel.data.cleaning.record import Record
from raymodel.data.spec import CleanSpec
from raymodel.tasks.template import RecordError


def cleaner_of(*steps: Any, **clean: Any) -> Cleaner:
    """Steps as a job file has them."""
    return Cleaner(CleanSpec.model_validate({"steps": list(steps), **clean}))


def cleaned(text: str, name: str, **settings: Any) -> str:
    """A text after one step."""
    return clean(text, name, **settings).texts[0]


def clean(text: str, name: str, **settings: Any) -> Record:
    return cleaner_of({"name": name, **settings}).clean([text])


def reason_of(text: str, name: str, **settings: Any) -> str | None:
    """Why one step leaves a text out; None where it does not. A reason is one that its spec
    tells."""
    cleaner = cleaner_of({"name": name, **settings})
    (spec,) = cleaner.spec.steps
    try:
        cleaner.clean([text])
    except RecordError as error:
        known = {reason: reason.removeprefix(f"{name}: ") for reason in spec.reasons.values()}
        return known[error.reason]
    return None


def check_bound(kept: str, left_out: str, reason: str, name: str, **settings: Any) -> None:
    """Two texts on both sides of the bound of a rule."""
    assert reason_of(kept, name, **settings) is None
    assert reason_of(left_out, name, **settings) == reason
