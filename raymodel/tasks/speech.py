"""What the tasks share that write down what is said in a clip."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Limits, Sample, Task
from raymodel.tasks.clips import a_tone, batch_of, pieces_of, without_chance
from raymodel.tasks.fields import Field
from raymodel.tasks.transcript import ERROR_RATES, error_rates

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.chance import Draw
    from raymodel.modality.audio_decode import Samples
    from raymodel.tasks.spec.audio import AnySpeechSpec

NOTHING_SAID = "empty transcript"
UNKNOWN_CHARACTERS = "transcript with characters that the tokenizer does not have"


class Speech(Task):
    """Rows hold a clip, `audio`, and the ids of what is said in it, `transcript_ids`.

    A clip that is too long cannot be learnt from: nobody knows where its transcript would have to
    be cut. To answer it is cut at silence, and the answers to the pieces are put together.
    """

    modality = "audio+text"
    pipeline_tag = "automatic-speech-recognition"
    peft_task = None
    fields = MappingProxyType(
        {
            "audio": Field(kind="audio", default="audio"),
            "text": Field(kind="text", default="{text}", is_target=True),
        }
    )
    measures = MappingProxyType(ERROR_RATES)
    answers = "text"

    @property
    def _said(self) -> AnySpeechSpec:
        from raymodel.tasks.spec import default_spec

        return cast("AnySpeechSpec", self.spec or default_spec(self.name))

    # ---- what a kind of model makes of it ----------------------------------------------------

    @abstractmethod
    def target_ids(self, text: str, samples: int) -> list[int] | LeftOut:
        """What the model has to write.

        Args:
            samples: of the clip.
        """

    @abstractmethod
    def add_targets(self, batch: dict[str, torch.Tensor], targets: Sequence[Any]) -> None:
        """Adds at least `labels` (B, T) to a batch of clips.

        Args:
            targets: the ids of each row.
        """

    @abstractmethod
    def transcribe(self, model: PreTrainedModel, clips: Sequence[Samples]) -> list[str]:
        """What is said in clips that fit."""

    # ---- data --------------------------------------------------------------------------------

    def adapt_processor(self, files: Mapping[str, str]) -> None:
        """Clips are as long as the job says."""
        if self._said.audio is not None:
            self._processor = self.processor.up_to(self._said.audio.max_seconds)

    def model_arguments(self) -> dict[str, Any]:
        """No chance inside of the model."""
        return without_chance()

    def check_model(self, config: PretrainedConfig) -> None:
        """The model goes with how the processor fills up a batch."""
        if self._processor is not None:
            self.processor.check_config(config)

    def schema(self) -> pa.Schema:
        """`audio` binary, FLAC at the model's rate; `transcript_ids` list<int32>."""
        import pyarrow as pa

        return pa.schema([("audio", pa.binary()), ("transcript_ids", pa.list_(pa.int32()))])

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """The clip, resampled, and the ids of its transcript."""
        from raymodel.modality.audio_decode import AudioError, encode_audio

        audio = self.processor.audio
        try:
            samples = audio.decode(values["audio"])
        except AudioError as error:
            return LeftOut(error.reason)
        features: dict[str, Any] = {"audio": encode_audio(samples, audio.rate)}
        if "text" in values:
            if len(samples) > audio.max_seconds * audio.rate:
                return LeftOut(f"audio of more than {audio.max_seconds:g} s with a transcript")
            if not values["text"].strip():
                return LeftOut(NOTHING_SAID)
            ids = self.target_ids(values["text"], len(samples))
            if isinstance(ids, LeftOut):
                return ids
            features["transcript_ids"] = ids
        return Example(features=features)

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """What `AudioProcessor.features_of` makes, and the targets, where rows have them."""
        batch = batch_of(self._clips(rows), self.processor.audio, self._said.augment, draw)
        if "transcript_ids" in rows:
            self.add_targets(batch, rows["transcript_ids"])
        return batch

    def _clips(self, rows: Columns) -> list[Samples]:
        return [self.processor.audio.decode(bytes(data)) for data in rows["audio"]]

    # ---- answers -----------------------------------------------------------------------------

    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """`text`, stripped. How long it may be, the model's own positions say."""
        pieces = [pieces_of(clip, self.processor.audio) for clip in self._clips(rows)]
        flat = [piece for each in pieces for piece in each]
        step = len(pieces)  # of the rows that were asked for; a long clip must not fill the memory
        texts: list[str] = []
        for start in range(0, len(flat), step):
            texts += self.transcribe(model, flat[start : start + step])
        left = iter(texts)
        found = [[next(left).strip() for _ in each] for each in pieces]
        return [{"text": " ".join(filter(None, parts))} for parts in found]

    def references(self, rows: Columns) -> list[Any]:
        """The transcripts, as far as the tokenizer can write them."""
        return [self.processor.text.decode(ids).strip() for ids in rows["transcript_ids"]]

    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """`wer` and `cer`, without case and punctuation."""
        return error_rates([answer["text"] for answer in answers], references)

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """Both texts; the clip itself is in the request."""
        return Sample.of_file(
            "clip", "audio", rows, index, answer=answer["text"], reference=reference
        )

    @classmethod
    def example_request(cls) -> dict[str, Any]:
        """A tone."""
        return {"audio": a_tone()}

    @staticmethod
    def answer_text(answer: Answer) -> str:
        return str(answer["text"])
