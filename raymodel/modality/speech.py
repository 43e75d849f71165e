"""Speech: sounds with what is said in them. Two processors in one folder, as transformers has it:
a feature extractor for what a model hears, a tokenizer for what it writes."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from raymodel.modality.audio import FILE, AudioProcessor
from raymodel.modality.base import ModelFields, Processor
from raymodel.modality.spec import AudioSpec, find_wrong_alphabet
from raymodel.modality.text import TextProcessor
from raymodel.storage.uri import Location

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_CLASS = "Wav2Vec2Processor"
"""Of transformers, which holds both."""
_SPACE, _PADDING, _UNKNOWN = "|", "<pad>", "<unk>"
"""As the CTC tokenizers of transformers call them; the padding is CTC's blank."""


class SpeechProcessor(Processor):
    """Both: `audio` and `text`."""

    modality = "audio+text"
    unit = AudioProcessor.unit
    file = FILE

    def __init__(self, audio: AudioProcessor, text: TextProcessor) -> None:
        self.audio, self.text = audio, text

    @classmethod
    def fresh(cls, spec: AudioSpec, alphabet: str) -> Self:
        """For a model without a base, which writes character by character.

        Raises:
            ValueError: as of `character_tokenizer`.
        """
        audio = AudioProcessor.fresh(spec)
        audio = dataclasses.replace(audio, said={**audio.said, "processor_class": _CLASS})
        return cls(audio, TextProcessor(character_tokenizer(alphabet)))

    @classmethod
    def load(cls, place: Location) -> Self:
        """Both of a Hugging Face folder. Raises ArtifactError where one is missing."""
        return cls(AudioProcessor.load(place), TextProcessor.load(place))

    def save_pretrained(self, folder: Path) -> None:
        """`preprocessor_config.json`, and the files of the tokenizer."""
        self.audio.save_pretrained(folder)
        self.text.save_pretrained(folder)

    def up_to(self, max_seconds: float) -> SpeechProcessor:
        """The same for clips of at most so many seconds; ValueError as of `AudioProcessor`."""
        return SpeechProcessor(self.audio.up_to(max_seconds), self.text)

    @property
    def tokenizer(self) -> Any:
        """That of `text`."""
        return self.text.tokenizer

    @property
    def unknown(self) -> int | None:
        """Of what is written."""
        return self.text.unknown

    def facts(self) -> dict[str, Any]:
        """Those of both."""
        return {**self.text.facts(), **self.audio.facts()}

    def model_fields(self, max_length: int | None) -> ModelFields:
        """A row of logits for each id, the blank, and what the sounds need."""
        given = self.audio.model_fields(None).given
        return ModelFields(
            at_least={"vocab_size": self.text.num_ids},
            given={**given, "pad_token_id": self.text.padding},
        )

    def check_config(self, config: PretrainedConfig) -> None:
        """Raises ValueError as of `AudioProcessor`."""
        self.audio.check_config(config)

    def check_fits(self, model: PreTrainedModel) -> None:
        """The features are the model's, and there is a row of logits for every id."""
        self.audio.check_fits(model)
        ids, rows = self.text.num_ids, model.config.get_text_config().vocab_size
        if ids > rows:
            raise ValueError(
                f"the tokenizer has {ids:,} ids and its model {rows:,} of them; they belong to "
                "different models. Copy both from one"
            )


def character_tokenizer(alphabet: str) -> Any:
    """A tokenizer for CTC: a token for each character, one for the space, which need not be said,
    and the blank, which is the padding.

    Raises:
        ValueError: the alphabet is empty, or holds a character twice or one that cannot be in it.
    """
    from transformers import Wav2Vec2CTCTokenizer

    if problem := find_wrong_alphabet(alphabet):
        raise ValueError(problem)
    tokens = [_PADDING, _UNKNOWN, _SPACE, *alphabet.replace(" ", "")]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        vocab = {token: number for number, token in enumerate(tokens)}
        file.write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(  # type: ignore[no-untyped-call]
            str(file),
            bos_token=None,
            eos_token=None,
            pad_token=_PADDING,
            unk_token=_UNKNOWN,
            word_delimiter_token=_SPACE,
        )
