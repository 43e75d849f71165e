"""All steps of a job, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from raymodel.data.cleaning.audio import Clipping, Duration, Loudness, Silence
from raymodel.data.cleaning.base import CleaningStep, Mend
from raymodel.data.cleaning.c4 import C4
from raymodel.data.cleaning.fineweb import FineWeb
from raymodel.data.cleaning.gopher import Gopher
from raymodel.data.cleaning.image import Aspect, Blur, Size
from raymodel.data.cleaning.language import Language
from raymodel.data.cleaning.own import Own
from raymodel.data.cleaning.pii import PII
from raymodel.data.cleaning.record import Record
from raymodel.data.cleaning.repetition import Repetition
from raymodel.data.cleaning.spec import StepSpec
from raymodel.data.cleaning.unicode import Unicode
from raymodel.data.cleaning.words import Words
from raymodel.data.spec import CleanSpec

STEPS: tuple[type[CleaningStep[Any]], ...] = (
    Unicode,
    Language,
    Gopher,
    Repetition,
    C4,
    FineWeb,
    Words,
    PII,
    Size,
    Aspect,
    Blur,
    Duration,
    Silence,
    Clipping,
    Loudness,
    Own,
)
"""Each made of the spec that its class names."""


@lru_cache(maxsize=64)
def build_step(spec: StepSpec) -> CleaningStep[Any]:
    """The step that a job asks for, made once in a process, which reads many partitions."""
    kind = next(step for step in STEPS if isinstance(spec, step.spec_class))
    return kind(spec)


class Cleaner:
    """What a job says of cleaning, with its steps ready to be used."""

    def __init__(self, spec: CleanSpec) -> None:
        self.spec = spec
        self._steps = [build_step(step) for step in spec.steps]

    @property
    def compares_decoded(self) -> bool:
        """Whether images and sounds are compared by what is in their files."""
        return self.spec.dedup.name == "decoded"

    def clean(
        self, texts: Sequence[str], images: Sequence[bytes] = (), sounds: Sequence[bytes] = ()
    ) -> Record:
        """The texts of a record after all steps, with what they changed.

        Args:
            images: files, which are decoded where a step looks at them.
            sounds: the same.

        Raises:
            RecordError: a step leaves the record out, or cannot decode what it looks at.
            StepError: a step of the user's own failed.
        """
        record = Record(texts, images, sounds, channels=3 if self.compares_decoded else 1)
        for step in self._steps:
            step.clean(record)
        return record

    def clean_piece(self, text: str) -> str:
        """A piece of a text as it is within the text after all steps, as far as they are of a kind
        that tells."""
        record = Record([text])
        for step in self._steps:
            if isinstance(step, Mend) and step.mends_pieces:
                step.clean(record)
        return record.texts[0]
