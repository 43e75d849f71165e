"""What the tasks share that are given sounds: from files to what lies in a row, and to a batch."""

from __future__ import annotations

import io
import math
import wave
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from raymodel.chance import Draw
    from raymodel.modality.audio import AudioProcessor
    from raymodel.modality.audio_decode import Samples
    from raymodel.modality.spec import AudioAugmentSpec

WAVE_FAMILIES = (
    *("Wav2Vec2", "Hubert", "WavLM", "UniSpeech", "UniSpeechSat", "Data2VecAudio", "SEW", "SEWD"),
)
"""Of models that take samples, as the names of their classes begin."""
_MODEL_CHANCE: Mapping[str, Any] = {
    "apply_spec_augment": False,
    "layerdrop": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}


def without_chance() -> dict[str, Any]:
    """For `Task.model_arguments`: no masks and no layers that are left out inside of the model.

    They are drawn from numpy's global stream, and once for all rows that happen to come together,
    so that the loss would depend on how a batch was cut; `augment` hides by the run's own chance.
    """
    return dict(_MODEL_CHANCE)


def pieces_of(samples: Samples, audio: AudioProcessor) -> list[Samples]:
    """The clip in as few pieces as it takes to fit, cut at silence."""
    from raymodel.modality.audio_decode import cut_at_silence

    return cut_at_silence(samples, audio.rate, audio.max_seconds)


def batch_of(
    clips: Sequence[Samples],
    audio: AudioProcessor,
    augment: AudioAugmentSpec | None = None,
    draw: Draw | None = None,
) -> dict[str, torch.Tensor]:
    """`AudioProcessor.features_of` as tensors on the CPU."""
    import torch

    found = audio.features_of(clips, augment=augment, draw=draw, threads=torch.get_num_threads())
    return {name: torch.from_numpy(values) for name, values in found.items()}


def a_tone() -> str:
    """Half a second of a quiet tone as WAV, in base64: something that every model can be asked."""
    rate = 8_000
    wavelength = 2 * math.pi * 440 / rate
    samples = bytes(round(128 + 20 * math.sin(wavelength * n)) for n in range(rate // 2))
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(rate)
        file.writeframes(samples)
    return b64encode(stream.getvalue()).decode()
