"""Text to text by an encoder–decoder: translation, summaries, and the gaps of a text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Limits, Measure, Sample, Task
from raymodel.tasks.fields import Field
from raymodel.tasks.prompt import end_of_text
from raymodel.tasks.spec.language import Seq2SeqLMSpec

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.chance import Chance, Draw
    from raymodel.modality.text import TextProcessor
    from raymodel.tasks.span_corruption import Ids


class Seq2SeqLM(Task):
    """An encoder–decoder (`AutoModelForSeq2SeqLM`) over one of two kinds of rows.

    Packed rows, from `prepare`: `tokens` (T ids), of which the first `length` are real. Runs of
    them are taken out when a batch is made, anew at every step; the decoder writes these
    (`span_corruption.py`). Documents of one row see each other, as those of `causal_lm` do.
    Examples, from `finetune`: `input_ids` is read, `target_ids` is written.

    Without chance, as in validation and evaluation, 15 % of the tokens are taken out in runs of 3,
    whatever the training does, and the same ones of a row always: so figures compare.
    """

    name = "seq2seq_lm"
    modality = "text"
    auto_class = "AutoModelForSeq2SeqLM"
    # Of those that read text: others are called ForConditionalGeneration too.
    architectures = (
        *("T5ForConditionalGeneration", "BartForConditionalGeneration", "MTModel"),
        *("PegasusForConditionalGeneration", "M2M100ForConditionalGeneration"),
    )
    pipeline_tag = "text2text-generation"
    peft_task = "SEQ_2_SEQ_LM"
    fields = MappingProxyType(
        {
            "source": Field(kind="text"),
            "target": Field(kind="text", is_target=True),
        }
    )
    measures = MappingProxyType(
        {
            "perplexity": Measure(needs="loss", higher_is_better=False),
            "bleu": Measure(needs="answers", higher_is_better=True),
            "chrf": Measure(needs="answers", higher_is_better=True),
            "rouge1": Measure(needs="answers", higher_is_better=True),
            "rouge2": Measure(needs="answers", higher_is_better=True),
            "rougeL": Measure(needs="answers", higher_is_better=True),
            "exact_match": Measure(needs="answers", higher_is_better=True),
        }
    )
    answers = "text"
    can_pretrain = True
    needs_encoder = True

    def check_model(self, config: PretrainedConfig) -> None:
        """Refuses models that are a decoder alone, or an encoder alone."""
        from transformers import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

        known = type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
        if not (known and config.is_encoder_decoder):
            raise ValueError(
                f"a {config.model_type!r} model is no encoder with a decoder beside it, as "
                "seq2seq_lm needs; take one such as t5, bart or marian"
            )

    def check_processor(self, processor: TextProcessor) -> None:
        """An end-of-text token, which closes each answer."""
        end_of_text(processor.tokenizer)

    def special_tokens(self, row_tokens: int | None) -> Mapping[str, int]:
        """A sentinel for each run of a packed row; examples need none."""
        from raymodel.tasks.span_corruption import count_spans

        if row_tokens is None:
            return {}
        spec = self._training
        asked = count_spans(row_tokens, spec.corrupt, spec.mean_span)[1]
        return {"sentinels": max(asked, count_spans(row_tokens)[1])}

    def settle(self, model: PreTrainedModel) -> str | None:
        """Raises ValueError where a folder does not say with what its decoder begins."""
        config = model.config
        if getattr(config, "decoder_start_token_id", None) is None:
            raise ValueError(
                f"the config.json of this {config.model_type} model does not say with which token "
                "its decoder begins; set decoder_start_token_id (t5 and marian begin with their "
                "padding, bart with its end of text)"
            )
        return None

    # ---- data ------------------------------------------------------------------------------------

    def schema(self) -> pa.Schema:
        """`input_ids` and `target_ids`, both list<int32>."""
        import pyarrow as pa

        numbers = pa.list_(pa.int32())
        return pa.schema([("input_ids", numbers), ("target_ids", numbers)])

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """Ids of both texts, each closed by end-of-text, as documents of packed rows are.

        A source that is too long loses the end of its text. A target that is too long loses its end
        and is not closed then: a model must not learn to stop where it was cut.

        Raises:
            ValueError: the tokenizer has no end-of-text token.
        """
        if not values["source"].strip():
            return LeftOut("empty source")
        source, is_cut = self._source(values["source"], max_length)
        if "target" not in values:
            return Example(features={"input_ids": source})
        if not values["target"].strip():
            return LeftOut("empty target")
        target, room = self._target(values["target"]), self.longest_target(max_length)
        features = {"input_ids": source, "target_ids": target[:room]}
        cut = ["source"] if is_cut else []
        cut += ["target"] if len(target) > len(features["target_ids"]) else []
        return Example(features=features, cut=tuple(cut))

    def _source(self, text: str, max_length: int | None) -> tuple[list[int], bool]:
        end = end_of_text(self.processor.tokenizer)
        ids, is_cut = self.processor.encode(text, max_length)
        if ids[-1:] == [end]:
            return ids, is_cut
        is_full = max_length is not None and len(ids) >= max_length
        return [*(ids[:-1] if is_full else ids), end], is_cut or is_full

    def _target(self, text: str) -> list[int]:
        # Some tokenizers read the two texts with a vocabulary of its own each.
        ids: list[int] = self.processor.tokenizer(text_target=text, verbose=False)["input_ids"]
        end = end_of_text(self.processor.tokenizer)
        return ids if ids[-1:] == [end] else [*ids, end]

    def longest_target(self, max_length: int | None) -> int | None:
        """Tokens of a target, where sources have at most `max_length`."""
        limits = [limit for limit in (max_length, self._training.max_target_length) if limit]
        return min(limits, default=None)

    # ---- training --------------------------------------------------------------------------------

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` (B, S); `labels` (B, U), where there are targets.

        Without a `draw` what is taken out of a packed row follows from its tokens alone.
        """
        from raymodel.tasks.batch import pad_right
        from raymodel.tasks.loss import IGNORED

        read, written = rows.get("input_ids"), rows.get("target_ids")
        if "tokens" in rows:
            pairs = [self._corrupted(rows, index, draw) for index in range(len(rows["tokens"]))]
            read, written = zip(*pairs, strict=True)
        assert read is not None, "rows are packed, or examples"
        inputs, mask = pad_right(read, self.processor.padding)
        batch = {"input_ids": inputs, "attention_mask": mask}
        if written is not None:
            batch["labels"], _ = pad_right(written, IGNORED)
        return batch

    def _corrupted(self, rows: Columns, index: int, draw: Draw | None) -> tuple[Ids, Ids]:
        import numpy as np

        from raymodel.tasks.span_corruption import corrupt_row

        ids_T = np.asarray(rows["tokens"][index], dtype=np.int64)[: int(rows["length"][index])]
        spec = self._training if draw else Seq2SeqLMSpec()
        return corrupt_row(
            ids_T,
            np.isin(ids_T, self._special_ids),
            draw.of_row(index) if draw else _own_chance(ids_T),
            sentinels=self._sentinels,
            end=end_of_text(self.processor.tokenizer),
            share=spec.corrupt,
            mean_span=spec.mean_span,
        )

    @property
    def _training(self) -> Seq2SeqLMSpec:
        """What the job says of the task."""
        return self.spec if isinstance(self.spec, Seq2SeqLMSpec) else Seq2SeqLMSpec()

    @cached_property
    def _special_ids(self) -> list[int]:
        return list(self.processor.tokenizer.all_special_ids)

    @cached_property
    def _sentinels(self) -> Ids:
        import numpy as np

        if not self.processor.sentinels:
            raise ValueError(
                "the tokenizer has no tokens that stand for runs of hidden ones (`<extra_id_0>` "
                "and so on), as seq2seq_lm needs for plain text; train one with "
                "prepare.tokenizer: {vocab_size: …, sentinels: 100}, or load that of a t5"
            )
        return np.asarray(self.processor.sentinels, dtype=np.int64)

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the cross-entropy over what is to be written; `model` may be wrapped by DeepSpeed
        or peft."""
        from raymodel.tasks.batch import text_inputs
        from raymodel.tasks.loss import cross_entropy_sum

        config = getattr(model, "module", model).config  # DeepSpeed calls something else its own
        # What lies beyond the positions of a model is padding, as `text_inputs` says of the source.
        positions = getattr(config, "max_position_embeddings", None)
        labels_BU = batch["labels"][:, :positions]
        logits_BUV = model(
            **text_inputs(batch, model),
            decoder_input_ids=self._read_before(labels_BU, config.decoder_start_token_id),
            use_cache=False,
        ).logits
        return cross_entropy_sum(logits_BUV.flatten(0, 1), labels_BU.flatten())

    def _read_before(self, labels_BU: torch.Tensor, start: int) -> torch.Tensor:
        """What the decoder reads where it is to write each label: the label before it, or `start`.
        (B, U)"""
        import torch

        before_BU = torch.full_like(labels_BU, start)
        before_BU[:, 1:] = labels_BU[:, :-1]
        return before_BU.masked_fill(before_BU < 0, self.processor.padding)

    # ---- size ------------------------------------------------------------------------------------

    def longest_row(self, max_length: int) -> int:
        """Of the longest source and the longest target."""
        return max_length + (self.longest_target(max_length) or 0)

    def forward_lengths(self, tokens: int, max_length: int | None) -> dict[str, int]:
        """Of a packed row what is left of it, and what was taken out; of an example its source and
        its target, as long to each other as the longest."""
        from raymodel.tasks.span_corruption import corrupted_lengths

        spec = self._training
        if max_length is None:
            read, written = corrupted_lengths(tokens, spec.corrupt, spec.mean_span)
        else:
            read = max(1, round(tokens * max_length / self.longest_row(max_length)))
            written = max(1, tokens - read)
        return {"input_ids": read, "attention_mask": read, "decoder_input_ids": written}

    # ---- answers ---------------------------------------------------------------------------------

    def can_evaluate(self, columns: Collection[str]) -> bool:
        """Examples, and packed rows too."""
        return super().can_evaluate(columns) or {"tokens", "length"} <= set(columns)

    def has_answers(self, rows: Columns) -> bool:
        """Of packed rows there is nothing that a person would ask."""
        return "target_ids" in rows

    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """The most probable answers that greedy or beam search finds, as `text`."""
        from raymodel.tasks.generation import generate_targets

        texts = generate_targets(model, self.processor, rows["input_ids"], limits)
        return [{"text": text} for text in texts]

    def references(self, rows: Columns) -> list[Any]:
        """The targets, stripped as answers are."""
        return [self.processor.decode(ids).strip() for ids in rows["target_ids"]]

    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """`bleu`, `chrf`, `exact_match`, and the kinds of `rouge` that are asked for."""
        from raymodel.tasks.text_scores import rouge_scores, score_answers

        texts = [answer["text"] for answer in answers]
        asked = [name for name in names if name.startswith("rouge")]
        return score_answers(texts, references) | rouge_scores(texts, references, asked)

    def signatures(self) -> Mapping[str, str]:
        from raymodel.tasks.text_scores import signatures

        return signatures()

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """Source, answer and target."""
        source = self.processor.decode(rows["input_ids"][index])
        return Sample(
            prompt=source, answer=answer["text"], reference=reference, request={"source": source}
        )

    @staticmethod
    def answer_text(answer: Answer) -> str:
        return str(answer["text"])


def _own_chance(ids_T: Ids) -> Chance:
    """Of a row by its real tokens alone."""
    from raymodel.chance import Chance

    return Chance("seq2seq_lm", ids_T.astype("<i8").tobytes().hex())
