"""Steps that judge sounds, as they are in their files: at their own rate, all channels. What is
wrong is left out; nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from raymodel.data.cleaning.spec.base import Sees, StepSpec, percent
from raymodel.spec.quantity import Fraction

MAX_SECONDS = 36_000.0
QUIETEST = -120.0
"""dBFS; below the noise of 16 bits, and of all that is recorded."""
QUIETEST_LUFS = -70.0
"""The standard's gate: what is quieter has no loudness."""


class _Between(StepSpec):
    """What those share that have a least and a most."""

    bounds: ClassVar[tuple[str, str]]
    """The names of both."""

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        low, high = (getattr(self, name) for name in self.bounds)
        if low is None and high is None:
            raise ValueError(f"there is no bound; give `{self.bounds[0]}` or `{self.bounds[1]}`")
        if low is not None and high is not None and low > high:
            raise ValueError(
                f"{self.bounds[0]} is {low:g} and {self.bounds[1]} {high:g}, so that no sound is "
                f"kept; {self.bounds[0]} must not exceed {self.bounds[1]}"
            )
        return self


class DurationSpec(_Between):
    """Leaves out sounds that are too short or too long. What is longer than a model takes is cut
    without it, or left out where it has a transcript."""

    sees: ClassVar[Sees] = "audio"
    bounds: ClassVar[tuple[str, str]] = ("min_seconds", "max_seconds")

    name: Literal["duration"] = "duration"
    """Which step."""
    min_seconds: float | None = Field(default=None, gt=0, le=MAX_SECONDS)
    """Shorter ones are left out."""
    max_seconds: float | None = Field(default=None, gt=0, le=MAX_SECONDS)
    """Longer ones are left out."""

    @property
    def rules(self) -> Mapping[str, str]:
        return {
            **({"min_seconds": f"shorter than {self.min_seconds:g} s"} if self.min_seconds else {}),
            **({"max_seconds": f"longer than {self.max_seconds:g} s"} if self.max_seconds else {}),
        }


class SilenceSpec(StepSpec):
    """Leaves out sounds in which little is to be heard."""

    sees: ClassVar[Sees] = "audio"

    name: Literal["silence"] = "silence"
    """Which step."""
    below_dbfs: float = Field(default=-60.0, ge=QUIETEST, lt=0)
    """A frame of 20 ms is silent whose RMS over all channels is below it, in dB of full scale. -60
    is the default of ffmpeg's filter silencedetect; a recording in a noisy room is not silent at
    any time by that, and -40 tells its pauses."""
    max_share: Fraction = 0.5
    """More silence than this share of all frames is left out. Half, a choice of ours: speech that
    was cut into sentences has a fifth or less."""

    @property
    def rules(self) -> Mapping[str, str]:
        return {"max_share": f"more than {percent(self.max_share)} below {self.below_dbfs:g} dBFS"}


class ClippingSpec(StepSpec):
    """Leaves out sounds that were recorded too loud, so that the tops of the waves are cut off.

    A sample is clipped that lies with two neighbours or more at 0.1 dB below full scale or above:
    three in a row is what Audacity's "Find Clipping" asks for. Each channel is looked at by itself,
    before channels are mixed and rates changed, which hide it.
    """

    sees: ClassVar[Sees] = "audio"

    name: Literal["clipping"] = "clipping"
    """Which step."""
    max_share: Fraction = 0.001
    """More clipped samples than this share are left out: by default one in a thousand, a choice of
    ours. Music that was made as loud as can be has more."""

    @property
    def rules(self) -> Mapping[str, str]:
        return {"max_share": f"more than {percent(self.max_share)} of the samples at full scale"}


class LoudnessSpec(_Between):
    """Leaves out sounds that are too quiet or too loud on the whole, to people.

    Measured is the integrated loudness in LUFS (ITU-R BS.1770-5): weighted by what ears hear, over
    blocks of 0.4 s without pauses and quiet passages. The energy of channels is added up, so the
    same sound in two channels is 3 LUFS louder than in one. Broadcasts of the European Broadcasting
    Union have -23 (EBU R 128).
    """

    sees: ClassVar[Sees] = "audio"
    bounds: ClassVar[tuple[str, str]] = ("min_lufs", "max_lufs")

    name: Literal["loudness"] = "loudness"
    """Which step."""
    min_lufs: float | None = Field(default=None, ge=QUIETEST_LUFS, le=0)
    """Quieter ones are left out, in LUFS. Below -70 nothing is heard: it leaves out what is silence
    to the standard."""
    max_lufs: float | None = Field(default=None, ge=QUIETEST_LUFS, le=0)
    """Louder ones are left out, in LUFS."""

    @property
    def rules(self) -> Mapping[str, str]:
        low, high = self.min_lufs, self.max_lufs
        return {
            **({} if low is None else {"min_lufs": f"quieter than {low:g} LUFS"}),
            **({} if high is None else {"max_lufs": f"louder than {high:g} LUFS"}),
        }
