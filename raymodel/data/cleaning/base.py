"""What a cleaning step is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import ClassVar, Generic, TypeVar

from raymodel.data.cleaning.media import Picture, Sound
from raymodel.data.cleaning.record import Record, Whole
from raymodel.data.cleaning.spec import StepSpec
from raymodel.tasks.template import RecordError

S = TypeVar("S", bound=StepSpec)


class CleaningStep(ABC, Generic[S]):
    """One step, made of its spec once in each process: what it needs it compiles and loads when it
    is made. It keeps nothing of a record, so what it does depends on that alone."""

    spec_class: ClassVar[type[StepSpec]]

    def __init__(self, spec: S) -> None:
        self.spec = spec
        self._reasons = dict(spec.reasons)

    @abstractmethod
    def clean(self, record: Record) -> None:
        """Changes the texts of a record, or looks at what it has and leaves it out.

        Raises:
            RecordError: it is left out.
        """

    def leave_out(self, rule: str) -> RecordError:
        """The error that leaves a record out for a rule of the spec."""
        return RecordError(self._reasons[rule], self._reasons[rule])


class Mend(CleaningStep[S]):
    """A step that changes each text by itself."""

    mends_pieces: ClassVar[bool] = False
    """Whether a piece of a text is changed as it is within the text, so that an answer that stands
    in it is found again."""

    def clean(self, record: Record) -> None:
        counts = Counter[str]()
        record.change(self.spec.name, [self.mend(text, counts) for text in record.texts], counts)

    @abstractmethod
    def mend(self, text: str, counts: Counter[str]) -> str:
        """The text after the step.

        Args:
            counts: takes what was changed → how often, where there is more to tell than that.
        """


class Judge(CleaningStep[S]):
    """A step that leaves records out by what all of their texts are together, and changes none."""

    def clean(self, record: Record) -> None:
        rule = self.broken_rule(record.whole)
        if rule is not None:
            raise self.leave_out(rule)

    @abstractmethod
    def broken_rule(self, whole: Whole) -> str | None:
        """The first rule of the spec that a text breaks; None where it breaks none."""


class JudgePicture(CleaningStep[S]):
    """A step that leaves records out by what an image of theirs is."""

    def clean(self, record: Record) -> None:
        for picture in record.pictures:
            rule = self.broken_rule(picture)
            if rule is not None:
                raise self.leave_out(rule)

    @abstractmethod
    def broken_rule(self, picture: Picture) -> str | None:
        """The first rule of the spec that an image breaks; None where it breaks none."""


class JudgeSound(CleaningStep[S]):
    """A step that leaves records out by what a sound of theirs is."""

    def clean(self, record: Record) -> None:
        for sound in record.sounds:
            rule = self.broken_rule(sound)
            if rule is not None:
                raise self.leave_out(rule)

    @abstractmethod
    def broken_rule(self, sound: Sound) -> str | None:
        """The first rule of the spec that a sound breaks; None where it breaks none."""
