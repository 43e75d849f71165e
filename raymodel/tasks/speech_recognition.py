"""Speech recognition by an encoder and a decoder: Whisper (arXiv:2212.04356).

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import LeftOut, Measure
from raymodel.tasks.clips import batch_of
from raymodel.tasks.speech import Speech
from raymodel.tasks.transcript import ERROR_RATES

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.modality.audio_decode import Samples
    from raymodel.modality.speech import SpeechProcessor

_START, _END, _PLAIN = "<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>"
_TRANSCRIBE = "<|transcribe|>"
_MULTILINGUAL_FROM = 51_865
"""Ids: models of English alone have one fewer (`is_multilingual` in openai/whisper)."""
_MAX_TARGETS = 440
"""Of the 448 positions of every published model, with room for what comes before the text."""


class SpeechRecognition(Speech):
    """Whisper (`AutoModelForSpeechSeq2Seq`).

    What comes before the text – its start, for models of many languages the language and that it is
    to be transcribed, that there are no times – is given, in training as in answering, and bears no
    loss; the text and its end do.
    """

    name = "speech_recognition"
    auto_class = "AutoModelForSpeechSeq2Seq"
    architectures = ("WhisperForConditionalGeneration",)
    measures = MappingProxyType(
        {"perplexity": Measure(needs="loss", higher_is_better=False), **ERROR_RATES}
    )

    def check_model(self, config: PretrainedConfig) -> None:
        """Whisper; of many languages where the job names one, which it must where it trains."""
        super().check_model(config)
        if config.model_type != "whisper":
            raise ValueError(
                f"a {config.model_type!r} model is no Whisper, the one kind of encoder and decoder "
                "that speech_recognition knows; for wav2vec2 and its like take speech_ctc"
            )
        language = self._language
        is_multilingual = config.vocab_size >= _MULTILINGUAL_FROM
        if language and not is_multilingual:
            raise ValueError(
                f"the task's language is {language!r}, and a model of {config.vocab_size:,} ids "
                "knows English alone; leave `language` out, or take a multilingual base"
            )
        if self.spec is not None and is_multilingual and not language:
            raise ValueError(
                "the model knows many languages, and learns in one of them; say which one with "
                "task: {name: speech_recognition, language: de}"
            )

    def check_processor(self, processor: SpeechProcessor) -> None:
        """Windows of a spectrogram, and the tokens that Whisper begins with."""
        if processor.audio.argument != "input_features":
            raise ValueError("Whisper takes spectrograms, and the base's features are others")
        self._prefix_of(processor.tokenizer, self._language)

    @property
    def _language(self) -> str | None:
        language: str | None = getattr(self._said, "language", None)
        return language

    @staticmethod
    def _prefix_of(tokenizer: Any, language: str | None) -> list[int]:
        words = [_START, *((f"<|{language}|>", _TRANSCRIBE) if language else ()), _PLAIN]
        vocabulary = tokenizer.get_vocab()
        unknown = [word for word in (*words, _END) if word not in vocabulary]
        if unknown:
            raise ValueError(
                f"the tokenizer lacks {', '.join(unknown)}, with which a Whisper's answer begins "
                "or ends; take that of the base, and a language by its code, such as `de`"
            )
        return [vocabulary[word] for word in words]

    @cached_property
    def _prefix(self) -> list[int]:
        return self._prefix_of(self.processor.tokenizer, self._language)

    @cached_property
    def _end(self) -> int:
        return int(self.processor.tokenizer.get_vocab()[_END])

    # ---- data --------------------------------------------------------------------------------

    def target_ids(self, text: str, samples: int) -> list[int] | LeftOut:
        """The text's ids, without special ones."""
        # Whisper's own texts begin with a space, as its words do.
        ids = self.processor.tokenizer(f" {text.strip()}", add_special_tokens=False)["input_ids"]
        if len(ids) > _MAX_TARGETS:
            return LeftOut(f"transcript of more than {_MAX_TARGETS} tokens")
        return [int(number) for number in ids]

    def add_targets(self, batch: dict[str, torch.Tensor], targets: Sequence[Any]) -> None:
        """`decoder_input_ids` and `labels`, both (B, T)."""
        from raymodel.tasks.batch import pad_right
        from raymodel.tasks.loss import IGNORED

        inputs = [[*self._prefix, *map(int, ids)] for ids in targets]
        ignored = [IGNORED] * (len(self._prefix) - 1)
        labels = [[*ignored, *map(int, ids), self._end] for ids in targets]
        batch["decoder_input_ids"], _ = pad_right(inputs, self._end)
        batch["labels"], mask = pad_right(labels, IGNORED)
        assert mask.shape == batch["decoder_input_ids"].shape, "shifted by one"

    # ---- training ----------------------------------------------------------------------------

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the cross-entropy over the tokens of the text and its end."""
        from raymodel.tasks.loss import cross_entropy_sum

        # Without a mask: padding is on the right, where the causal mask hides it.
        logits_BTV = model(
            input_features=batch["input_features"].to(next(model.parameters()).dtype),
            decoder_input_ids=batch["decoder_input_ids"],
            use_cache=False,
        ).logits
        return cross_entropy_sum(logits_BTV.flatten(0, 1), batch["labels"].flatten())

    # ---- answers -----------------------------------------------------------------------------

    def transcribe(self, model: PreTrainedModel, clips: Sequence[Samples]) -> list[str]:
        """The most probable token after the other. A model of many languages is asked first which
        one it hears."""
        from raymodel.tasks.whisper import greedy_ids, languages_heard

        features = batch_of(clips, self.processor.audio)["input_features"]
        features = features.to(model.device, model.dtype)
        prefixes = [self._prefix] * len(clips)
        if model.config.vocab_size >= _MULTILINGUAL_FROM and not self._language:
            heard = languages_heard(model, features, self.processor.tokenizer)
            prefixes = [self._prefix_of(self.processor.tokenizer, each) for each in heard]
        answers = greedy_ids(model, features, prefixes, self._end)
        return [self.processor.text.decode(ids) for ids in answers]
