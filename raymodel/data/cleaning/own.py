"""A function of the user's own as a step."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from raymodel.data.clean import clean_text
from raymodel.data.cleaning.base import Mend
from raymodel.data.cleaning.spec import OwnStepSpec, StepSpec
from raymodel.errors import SpecError
from raymodel.tasks.own import own_step


class StepError(ValueError):
    """A cleaning step of the user's that ended in an error, or gave no text."""


class Own(Mend[OwnStepSpec]):
    """Each text by itself; the record is left out where it gives nothing for one of them."""

    spec_class: ClassVar[type[StepSpec]] = OwnStepSpec

    def mend(self, text: str, counts: Counter[str]) -> str:
        """Raises StepError, beside what leaves the record out: the step failed."""
        name = self.spec.name
        try:
            kept = own_step(name)(text)
        except SpecError as error:
            raise StepError(str(error)) from error
        except Exception as error:  # a user's function may end in anything
            raise StepError(
                f"the cleaning step {name!r} ended in {type(error).__name__}: {error}; a step "
                "takes any text, and gives None for one to leave out"
            ) from error
        if isinstance(kept, str):
            return clean_text(kept)
        if kept is None:
            raise self.leave_out("dropped")
        raise StepError(
            f"the cleaning step {name!r} gave a {type(kept).__name__}; it must give the text to "
            "keep, or None to leave its document out"
        )
