"""`task:` of those whose records are sounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from raymodel.modality.spec import AudioAugmentSpec, AudioSpec, find_wrong_alphabet
from raymodel.spec.base import Text
from raymodel.tasks.spec.base import OF_TRAINING, AnyTask


class AudioClassificationSpec(AnyTask):
    """One class of a fixed set for each clip."""

    name: Literal["audio_classification"] = "audio_classification"
    """Which task."""
    audio: AudioSpec | None = None
    """What sounds a fresh model takes, and how long a clip may be; a longer one is cut at silence.
    Without it they are those of the base."""
    augment: Annotated[AudioAugmentSpec, OF_TRAINING] = AudioAugmentSpec()
    """How training changes what it hears, by chance; nothing is changed by default. What the model
    itself would hide or leave out by chance, as wav2vec2 does, is off."""


class AnySpeechSpec(AnyTask):
    """What the specs of speech share."""

    audio: AudioSpec | None = None
    """What sounds a fresh model takes, and how long a clip may be; a longer one with a transcript
    is left out. Without it they are those of the base."""
    augment: Annotated[AudioAugmentSpec, OF_TRAINING] = AudioAugmentSpec()
    """How training changes what it hears, by chance; nothing is changed by default. What the model
    itself would hide or leave out by chance, as wav2vec2 and Whisper can, is off."""


class SpeechRecognitionSpec(AnySpeechSpec):
    """What is said in a clip, by Whisper: an encoder and a decoder."""

    name: Literal["speech_recognition"] = "speech_recognition"
    """Which task."""
    language: str | None = Field(default=None, pattern="^[a-z]{2,3}$")
    """Code of the transcripts' language, such as `de`. A multilingual base needs it, one for
    English alone has none."""


class SpeechCTCSpec(AnySpeechSpec):
    """What is said in a clip, character by character, by wav2vec2 and its like."""

    name: Literal["speech_ctc"] = "speech_ctc"
    """Which task."""
    alphabet: Text | None = None
    """Of a fresh model: all characters that it writes besides the space, such as
    `abcdefghijklmnopqrstuvwxyz'`. Transcripts are put into its case; those with letters or
    digits that are not in it are left out."""

    @field_validator("alphabet")
    @classmethod
    def _is_one(cls, alphabet: str | None) -> str | None:
        if alphabet is not None and (problem := find_wrong_alphabet(alphabet)):
            raise ValueError(problem)
        return alphabet


AudioTask = AudioClassificationSpec | SpeechRecognitionSpec | SpeechCTCSpec
