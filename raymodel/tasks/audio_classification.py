"""Audio classification: one label of a fixed set for each clip."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Limits, Sample
from raymodel.tasks.classification import Classification
from raymodel.tasks.clips import (
    WAVE_FAMILIES,
    a_tone,
    batch_of,
    pieces_of,
    without_chance,
)
from raymodel.tasks.fields import Field
from raymodel.tasks.label import number_of

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.chance import Draw
    from raymodel.modality.audio import AudioProcessor
    from raymodel.tasks.loss import Scores
    from raymodel.tasks.spec.audio import AudioClassificationSpec


class AudioClassification(Classification):
    """An encoder of sounds with a classification head (`AutoModelForAudioClassification`)."""

    name = "audio_classification"
    modality = "audio"
    auto_class = "AutoModelForAudioClassification"
    architectures = (
        "ForAudioClassification",
        # Of wav2vec2 and its like, whose sequences are sounds.
        *(f"{family}ForSequenceClassification" for family in WAVE_FAMILIES),
    )
    pipeline_tag = "audio-classification"
    peft_task = None
    has_scores = True
    fields = MappingProxyType(
        {
            "audio": Field(kind="audio", default="audio"),
            "label": Field(kind="label", default="label", is_target=True),
        }
    )

    @property
    def _said(self) -> AudioClassificationSpec:
        from raymodel.tasks.spec.audio import AudioClassificationSpec

        return cast("AudioClassificationSpec", self.spec or AudioClassificationSpec())

    def fresh_processor(self) -> AudioProcessor | None:
        """As the job says what sounds are; None where it leaves that to a base."""
        from raymodel.modality.audio import AudioProcessor

        return None if self._said.audio is None else AudioProcessor.fresh(self._said.audio)

    def adapt_processor(self, files: Mapping[str, str]) -> None:
        """Clips are as long as the job says."""
        if self._said.audio is not None:
            self._processor = self.processor.up_to(self._said.audio.max_seconds)

    def model_arguments(self) -> dict[str, Any]:
        """The names of the classes, and no chance inside of the model."""
        return {**super().model_arguments(), **without_chance()}

    def check_model(self, config: PretrainedConfig) -> None:
        """The model's norm goes with how the processor fills up a batch."""
        if self._processor is not None:
            self.processor.check_config(config)

    def schema(self) -> pa.Schema:
        """`audio` binary, FLAC at the model's rate; `label` int32."""
        import pyarrow as pa

        return pa.schema([("audio", pa.binary()), ("label", pa.int32())])

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """The clip, resampled; one that is too long ends at the last silence that fits.

        Raises:
            ValueError: the label is not one of `labels`.
        """
        from raymodel.modality.audio_decode import AudioError, encode_audio

        try:
            pieces = pieces_of(self.processor.decode(values["audio"]), self.processor)
        except AudioError as error:
            return LeftOut(error.reason)
        features: dict[str, Any] = {"audio": encode_audio(pieces[0], self.processor.rate)}
        if "label" in values:
            features["label"] = number_of(values["label"], self.labels)
        return Example(features=features, cut=("audio",) if len(pieces) > 1 else ())

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """What `AudioProcessor.features_of` makes; `labels` (B,), where rows have labels."""
        from raymodel.tasks.batch import class_labels

        clips = [self.processor.decode(bytes(data)) for data in rows["audio"]]
        augment = self._said.augment
        return {**batch_of(clips, self.processor, augment, draw), **class_labels(rows)}

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the cross-entropy over the clips."""
        return self.scores(model, batch).loss()

    def scores(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> Scores:
        """Of each clip."""
        from raymodel.tasks.loss import Scores

        dtype = next(model.parameters()).dtype
        inputs = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in batch.items()
            if name != "labels"
        }
        return Scores(logits_NV=model(**inputs).logits, targets_N=batch["labels"])

    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """`label`, and `probs` of all labels in the order of their numbers."""
        from raymodel.tasks.classes import class_answers

        inputs = self.collate(rows)
        inputs.pop("labels", None)
        return class_answers(model, inputs)

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """Both labels; the clip itself is in the request."""
        return Sample.of_file(
            "clip", "audio", rows, index, answer=answer["label"], reference=reference
        )

    @classmethod
    def example_request(cls) -> dict[str, Any]:
        """A tone."""
        return {"audio": a_tone()}
