"""`duration`, `silence`, `clipping` and `loudness`: sounds that are no good to learn from."""

from __future__ import annotations

from typing import ClassVar

from raymodel.data.cleaning.base import JudgeSound
from raymodel.data.cleaning.media import Sound
from raymodel.data.cleaning.spec import StepSpec
from raymodel.data.cleaning.spec.audio import (
    ClippingSpec,
    DurationSpec,
    LoudnessSpec,
    SilenceSpec,
)


class Duration(JudgeSound[DurationSpec]):
    """Seconds."""

    spec_class: ClassVar[type[StepSpec]] = DurationSpec

    def broken_rule(self, sound: Sound) -> str | None:
        """The least first."""
        low, high = self.spec.min_seconds, self.spec.max_seconds
        if low is not None and sound.seconds < low:
            return "min_seconds"
        return "max_seconds" if high is not None and sound.seconds > high else None


class Silence(JudgeSound[SilenceSpec]):
    """The share of quiet frames."""

    spec_class: ClassVar[type[StepSpec]] = SilenceSpec

    def broken_rule(self, sound: Sound) -> str | None:
        """One rule."""
        share = sound.silent_share(self.spec.below_dbfs)
        return "max_share" if share > self.spec.max_share else None


class Clipping(JudgeSound[ClippingSpec]):
    """The share of samples at full scale."""

    spec_class: ClassVar[type[StepSpec]] = ClippingSpec

    def broken_rule(self, sound: Sound) -> str | None:
        """One rule."""
        return "max_share" if sound.clipped_share > self.spec.max_share else None


class Loudness(JudgeSound[LoudnessSpec]):
    """What people hear of the whole."""

    spec_class: ClassVar[type[StepSpec]] = LoudnessSpec

    def broken_rule(self, sound: Sound) -> str | None:
        """The least first; by silence it is broken whatever it is."""
        low, high = self.spec.min_lufs, self.spec.max_lufs
        if low is not None and sound.lufs < low:
            return "min_lufs"
        return "max_lufs" if high is not None and sound.lufs > high else None
