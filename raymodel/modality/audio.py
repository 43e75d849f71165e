"""What a sound is to a model: samples at one rate, or the spectrogram that is made of them.

The features are those of transformers' own extractors, one row at a time, so that a row has the
same ones in whatever batch it comes. They are loaded when the first clip is read.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raymodel.chance import Draw
from raymodel.errors import ArtifactError
from raymodel.modality.audio_augment import changed, masked
from raymodel.modality.audio_config import KINDS, OWN_KEY, fresh_config, read_config, window_of
from raymodel.modality.audio_decode import Samples, decode_audio
from raymodel.modality.base import ModelFields, Processor
from raymodel.modality.spec import AudioAugmentSpec, AudioSpec
from raymodel.storage.uri import Location

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FILE = "preprocessor_config.json"
_PROCESSOR_FILE = "processor_config.json"
"""In which transformers 5 writes the extractor where a processor has a tokenizer too."""
_WAVE = "Wav2Vec2FeatureExtractor"
_WHISPER = "WhisperFeatureExtractor"
_PLACES = {
    _WAVE: "transformers.models.wav2vec2",
    _WHISPER: "transformers.models.whisper",
    "ASTFeatureExtractor": "transformers.models.audio_spectrogram_transformer",
}
MASKED_FAMILIES = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
"""Which, with layer norm, say the same of a clip however far its batch is filled up: a test holds
it. The convolutions over positions of data2vec-audio and others carry the filling into the clip."""
_PAD_MULTIPLE = 1600
"""Samples, a tenth of a second: it bounds the number of different shapes."""


@dataclass(frozen=True, kw_only=True)
class AudioProcessor(Processor):
    """Sounds as a model was trained on them."""

    modality = "audio"
    unit = "clips"
    file = FILE

    said: Mapping[str, Any]
    """What transformers' extractor is made with."""
    max_seconds: float
    """Of a clip."""

    @classmethod
    def fresh(cls, spec: AudioSpec) -> AudioProcessor:
        """For a model without a base."""
        said = fresh_config(spec.features, spec.max_seconds)
        return cls(said=said, max_seconds=spec.max_seconds)

    @classmethod
    def load(cls, place: Location) -> AudioProcessor:
        """Reads `preprocessor_config.json` of a Hugging Face folder.

        Raises:
            ArtifactError: there is none, or it is of a kind that is not followed.
        """
        file, whole = place / FILE, place / _PROCESSOR_FILE
        said: Any = None
        if file.exists():
            said = file.read_json()
        elif whole.exists():
            file = whole
            said = whole.read_json().get("feature_extractor")
        if not isinstance(said, dict):
            raise ArtifactError(
                f"{place} holds no {FILE}; it says what sounds a model takes. Copy it there from "
                "where the model comes from, or write one with AutoFeatureExtractor.save_pretrained"
            )
        try:
            known, longest = read_config(said)
        except ValueError as error:
            raise ArtifactError(f"{file}: {error}") from error
        return cls(said=known, max_seconds=longest)

    def save_pretrained(self, folder: Path) -> None:
        """Writes `preprocessor_config.json`, for `load` and for AutoFeatureExtractor."""
        text = json.dumps({**self.said, OWN_KEY: self.max_seconds}, indent=2, sort_keys=True)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    def up_to(self, max_seconds: float) -> AudioProcessor:
        """The same for clips of at most so many seconds.

        Raises:
            ValueError: the model takes fewer at a time.
        """
        _, longest = read_config({**self.said, OWN_KEY: max_seconds})
        return replace(self, max_seconds=longest)

    @property
    def rate(self) -> int:
        """Samples a second."""
        return int(self.said["sampling_rate"])

    @property
    def argument(self) -> str:
        """Of the model's forward: what the features are called."""
        return KINDS[self._kind].argument

    @property
    def has_mask(self) -> bool:
        """Whether the model is told where a clip ends. Without, every clip is filled up to the same
        length: a model that does not know the end computes something else with every length."""
        return self._kind == _WAVE and bool(self.said["return_attention_mask"])

    @property
    def _kind(self) -> str:
        return str(self.said["feature_extractor_type"])

    # ---- the model -------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """`sampling_rate`, `max_seconds`, and `inputs`: argument → shape of the longest clip."""
        return {
            "sampling_rate": self.rate,
            "max_seconds": self.max_seconds,
            "inputs": {self.argument: list(self._longest_shape)},
        }

    def model_fields(self, max_length: int | None) -> ModelFields:
        """Bins and frames of a spectrogram; of samples the norm that goes with their mask."""
        return ModelFields(given=self._wanted_fields())

    def _wanted_fields(self) -> dict[str, Any]:
        if self._kind == _WAVE:
            return {"feat_extract_norm": "layer"} if self.has_mask else {}
        bins, frames = self._spectrogram
        if self._kind == _WHISPER:
            return {"num_mel_bins": bins, "max_source_positions": frames // 2}
        return {"num_mel_bins": bins, "max_length": frames}

    def check_config(self, config: PretrainedConfig) -> None:
        """Raises ValueError when a model so configured cannot take the features, or would compute
        another loss with every length that a batch is filled up to."""
        heeds_mask = config.model_type in MASKED_FAMILIES or getattr(config, "own_mask", False)
        if self.has_mask and not heeds_mask:
            raise ValueError(
                f"{FILE} tells a model where clips end (return_attention_mask), and of a "
                f"{config.model_type!r} model it is not known that what fills a batch up changes "
                f"nothing, as it is of {', '.join(MASKED_FAMILIES)}; set it to false: then all "
                "clips are filled up to the same length"
            )
        for name, made in self._wanted_fields().items():
            taken = getattr(config, name, None)
            if name == "feat_extract_norm" and taken == "group":
                raise ValueError(
                    "the model normalises over the whole length (feat_extract_norm is 'group'), "
                    f"also over what fills a batch up, and {FILE} tells it where clips end; such "
                    "models are used without that: set return_attention_mask to false"
                )
            if taken is not None and taken != made:
                raise ValueError(
                    f"{FILE} makes sounds of {name} {made}, and config.json says {taken}; the two "
                    "files belong to different models. Copy both from one"
                )

    def check_fits(self, model: PreTrainedModel) -> None:
        """The model takes what the features are called, and their sizes."""
        takes = model.main_input_name  # empty where the network calls it as it likes
        if takes and takes != self.argument:
            raise ValueError(
                f"{FILE} makes {self.argument}, and a {type(model).__name__} takes {takes}; the "
                "files belong to different models. Copy both from one"
            )
        self.check_config(model.config)

    # ---- from files to features ------------------------------------------------------------------

    def decode(self, data: bytes) -> Samples:
        """The samples of a file at the model's rate. (N,)

        Raises:
            AudioError: it holds no sound that can be read.
        """
        return decode_audio(data, self.rate)

    def features_of(
        self,
        clips: Sequence[Samples],
        augment: AudioAugmentSpec | None = None,
        draw: Draw | None = None,
        threads: int = 1,
    ) -> dict[str, NDArray[Any]]:
        """What the model takes; the same for any number of threads.

        Args:
            clips: of at most `max_seconds`.
            augment: changes by chance; none without `draw`.
            draw: the chance of these rows; None for evaluation and serving.

        Returns:
            `input_values` (B, samples) with `attention_mask` where the model takes one, or a
            spectrogram: `input_features` (B, bins, frames), `input_values` (B, frames, bins).
        """
        assert draw is None or len(draw) == len(clips), (draw, len(clips))

        _ = self._extractor  # made once, and not by several threads

        def make(row: int) -> NDArray[np.float32]:
            chance = None if draw is None or augment is None else draw.of_row(row)
            samples = clips[row]
            if chance is not None and augment is not None:
                samples = changed(samples, augment, chance)[: self._most_samples]
            found = self._extract(samples)
            if chance is not None and augment is not None:
                frames_first = found.T if self._kind == _WHISPER else found
                masked(frames_first, augment, chance)
            return found

        if threads == 1:
            made = [make(row) for row in range(len(clips))]
        else:
            with ThreadPoolExecutor(threads, "sounds") as pool:
                made = list(pool.map(make, range(len(clips))))
        return self._together(made)

    def _extract(self, samples: Samples) -> NDArray[np.float32]:
        made = self._extractor(samples, sampling_rate=self.rate, return_tensors="np")
        # A copy: `masked` writes into it.
        return np.array(made[self.argument][0], np.float32)

    def _together(self, made: Sequence[NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
        if self._kind != _WAVE:
            return {self.argument: np.stack(made)}
        longest = max(map(len, made)) if self.has_mask else self._most_samples
        width = -(-longest // _PAD_MULTIPLE) * _PAD_MULTIPLE
        padding = self.said.get("padding_value", 0.0)
        values = np.full((len(made), width), padding, np.float32)
        mask = np.zeros((len(made), width), np.int64)
        for row, samples in enumerate(made):
            values[row, : len(samples)] = samples
            mask[row, : len(samples)] = 1
        return {self.argument: values, **({"attention_mask": mask} if self.has_mask else {})}

    @property
    def _most_samples(self) -> int:
        return int(self.max_seconds * self.rate)

    @property
    def _longest_shape(self) -> tuple[int, ...]:
        if self._kind == _WAVE:
            return (-(-self._most_samples // _PAD_MULTIPLE) * _PAD_MULTIPLE,)
        bins, frames = self._spectrogram
        return (bins, frames) if self._kind == _WHISPER else (frames, bins)

    @property
    def _spectrogram(self) -> tuple[int, int]:
        """Bins and frames."""
        if self._kind == _WHISPER:
            frames = self.said["chunk_length"] * self.rate // self.said["hop_length"]
            return self.said["feature_size"], frames
        return self.said["num_mel_bins"], self.said["max_length"]

    @property
    def window(self) -> float | None:
        """Seconds that the model takes at a time, whatever the clip's length; None for any."""
        return window_of(self.said)

    @cached_property
    def _extractor(self) -> Any:
        kind = getattr(importlib.import_module(_PLACES[self._kind]), self._kind)
        with warnings.catch_warnings():
            # That some of AST's 128 bins are empty: it was published so.
            warnings.filterwarnings("ignore", message="At least one mel filter has all zero")
            return kind.from_dict(dict(self.said))
