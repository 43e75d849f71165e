"""Masked language modelling: guess the tokens of a text that are hidden (arXiv:1810.04805)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Limits, Measure, Sample
from raymodel.tasks.documents import ENCODERS, DocumentTask
from raymodel.tasks.fields import PLAIN_TEXT
from raymodel.tasks.spec.language import MaskedLMSpec

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.chance import Chance, Draw
    from raymodel.modality.text import TextProcessor
    from raymodel.tasks.loss import Scores
    from raymodel.tasks.masking import Flags, Ids

MASK_OF_REQUESTS = "[MASK]"
"""What hides a token in a request, whatever the tokenizer calls it; its own name does too."""
_NUM_FILLS = 5  # as the fill-mask pipeline of transformers gives


class MaskedLM(DocumentTask):
    """An encoder (`AutoModelForMaskedLM`) over one of two kinds of rows.

    Packed rows, from `prepare`: `tokens` (T ids), of which the first `length` are real. Examples,
    from `finetune`: `input_ids` with the tokenizer's special tokens. Tokens of both are hidden
    when a batch is made, anew at every step, and never special ones.

    Without chance, as in validation and evaluation, 15 % of the single tokens are hidden, whatever
    the training hides, and the same ones of a row always: so the figures of all models compare.
    """

    name = "masked_lm"
    modality = "text"
    auto_class = "AutoModelForMaskedLM"
    architectures = ("ForMaskedLM",)
    pipeline_tag = "fill-mask"
    peft_task = "FEATURE_EXTRACTION"  # of peft's the one that adds no head and trains none
    fields = PLAIN_TEXT
    measures = MappingProxyType({"perplexity": Measure(needs="loss", higher_is_better=False)})
    answers = "fills"
    logits = "BTV"
    has_scores = True
    can_pretrain = True
    needs_encoder = True
    apart_architectures = ENCODERS

    def check_model(self, config: PretrainedConfig) -> None:
        """Refuses decoders: they do not see what follows a hidden token."""
        from transformers import MODEL_FOR_MASKED_LM_MAPPING

        is_decoder = getattr(config, "is_decoder", False) or config.is_encoder_decoder
        if is_decoder or type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
            raise ValueError(
                f"a {config.model_type!r} model, so configured, is no encoder with a head that "
                "guesses hidden tokens, as masked_lm needs; take one such as bert, roberta or "
                "modernbert (without `is_decoder`)"
            )

    def check_processor(self, processor: TextProcessor) -> None:
        """A token that stands for a hidden one; with `whole_words`, tokens that tell words."""
        from raymodel.tasks.masking import word_starts

        _mask_of(processor)
        if self._training.whole_words:
            word_starts(processor.tokenizer)

    def special_tokens(self, row_tokens: int | None) -> Mapping[str, int]:
        """A mask."""
        return {"mask": 1}

    # ---- data ------------------------------------------------------------------------------------

    def schema(self) -> pa.Schema:
        """`input_ids` list<int32>."""
        import pyarrow as pa

        return pa.schema([("input_ids", pa.list_(pa.int32()))])

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """Token ids with the tokenizer's special tokens; a text that is too long loses its end.

        `[MASK]`, or what the tokenizer calls it, in a text is a hidden token.

        Raises:
            ValueError: the tokenizer has no token for a hidden one.
        """
        tokenizer, mask_id = self.processor.tokenizer, _mask_of(self.processor)
        text = values["text"].replace(MASK_OF_REQUESTS, tokenizer.mask_token)
        input_ids, is_cut = self.processor.encode(text, max_length)
        if set(input_ids) <= set(self._special_ids) - {mask_id}:
            return LeftOut("no token to guess")
        return Example(features={"input_ids": input_ids}, cut=("text",) if is_cut else ())

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """`input_ids`, some of them hidden, `attention_mask` and `labels`, all (B, T). Where
        documents are kept apart, their places instead of a mask, and all examples in one row.

        Without a `draw` what is hidden follows from the tokens of a row alone.
        """
        import numpy as np
        import torch

        from raymodel.tasks.documents import joined, with_documents
        from raymodel.tasks.loss import IGNORED

        inputs, mask = self._padded(rows)
        ids_BT, is_real_BT = inputs.numpy(), mask.numpy() == 1
        spec = self._training if draw else MaskedLMSpec()
        special_BT = ~is_real_BT | np.isin(ids_BT, self._special_ids)
        labels_BT = ids_BT.copy()
        for i, (ids_T, special_T) in enumerate(zip(ids_BT, special_BT, strict=True)):
            chance = draw.of_row(i) if draw else _own_chance(ids_T[is_real_BT[i]])
            ids_BT[i], labels_BT[i] = self._masked(ids_T, special_T, chance, spec)
        batch = {"input_ids": inputs, "labels": torch.from_numpy(labels_BT)}
        if not self.keeps_apart:
            return batch | {"attention_mask": mask}
        lengths = mask.sum(1).tolist()
        if "tokens" in rows:
            return with_documents(batch, rows["document_starts"], lengths)
        return joined(batch, lengths, {"input_ids": self.processor.padding, "labels": IGNORED})

    def _padded(self, rows: Columns) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask of either kind of rows, both (B, T)."""
        import numpy as np
        import torch

        from raymodel.tasks.batch import pad_right

        if "tokens" not in rows:
            return pad_right(rows["input_ids"], self.processor.padding)
        ids_BT = np.stack(rows["tokens"]).astype(np.int64)
        is_real_BT = np.arange(ids_BT.shape[1]) < np.asarray(rows["length"])[:, None]
        return torch.from_numpy(ids_BT), torch.from_numpy(is_real_BT.astype(np.int64))

    def _masked(
        self, ids_T: Ids, special_T: Flags, chance: Chance, spec: MaskedLMSpec
    ) -> tuple[Ids, Ids]:
        from raymodel.tasks.masking import mask_row, word_numbers

        words_T = word_numbers(ids_T, special_T, self._word_starts) if spec.whole_words else None
        return mask_row(
            ids_T,
            special_T,
            chance,
            mask_id=_mask_of(self.processor),
            random_ids=self._ordinary_ids,
            share=spec.mask,
            words_T=words_T,
        )

    @property
    def _training(self) -> MaskedLMSpec:
        """What the job says of the task."""
        return self.spec if isinstance(self.spec, MaskedLMSpec) else MaskedLMSpec()

    @cached_property
    def _special_ids(self) -> list[int]:
        return list(self.processor.tokenizer.all_special_ids)

    @cached_property
    def _ordinary_ids(self) -> Ids:
        from raymodel.tasks.masking import ordinary_ids

        return ordinary_ids(self.processor.tokenizer)

    @cached_property
    def _word_starts(self) -> Flags:
        from raymodel.tasks.masking import word_starts

        return word_starts(self.processor.tokenizer)

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the cross-entropy over the hidden tokens."""
        return self.scores(model, batch).loss()

    def scores(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> Scores:
        """Of each position."""
        from raymodel.tasks.documents import model_inputs
        from raymodel.tasks.loss import Scores

        logits_BTV = model(**model_inputs(batch)).logits
        return Scores(logits_NV=logits_BTV.flatten(0, 1), targets_N=batch["labels"].flatten())

    # ---- answers ---------------------------------------------------------------------------------

    def can_evaluate(self, columns: Collection[str]) -> bool:
        """Examples, and packed rows too."""
        return super().can_evaluate(columns) or {"tokens", "length"} <= set(columns)

    def has_answers(self, rows: Columns) -> bool:
        """Never: what stood where a text hides something, no row says."""
        return False

    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """`fills`, for each hidden place the five most probable tokens, as `token` and `prob`; and
        `text`, with the most probable in all places.

        Each place is guessed as if the others stayed hidden. The special tokens are no guesses,
        though their share of the probability is theirs.
        """
        import torch

        inputs, mask = self._padded(rows)
        # Rounded-up padding may reach beyond the last position that the model knows.
        width = int(mask.sum(1).max())
        places_BT = inputs[:, :width] == _mask_of(self.processor)
        with torch.inference_mode():
            logits_BTV = model(
                input_ids=inputs[:, :width].to(model.device),
                attention_mask=mask[:, :width].to(model.device),
            ).logits
            probs_NV = logits_BTV[places_BT.to(model.device)].float().softmax(-1).cpu()
        guesses = iter(self._guesses(probs_NV))
        return [
            self._answer(ids, [next(guesses) for _ in range(count)])
            for ids, count in zip(rows["input_ids"], places_BT.sum(1).tolist(), strict=True)
        ]

    def _guesses(self, probs_NV: torch.Tensor) -> list[list[tuple[int, float]]]:
        """The most probable ids, and how probable each is, for each of N hidden places."""
        ids = self._ordinary_ids
        best = probs_NV[:, ids].topk(min(_NUM_FILLS, len(ids)))
        found = zip(ids[best.indices.numpy()].tolist(), best.values.tolist(), strict=True)
        return [list(zip(tokens, probs, strict=True)) for tokens, probs in found]

    def _answer(self, ids: Sequence[int], guesses: list[list[tuple[int, float]]]) -> Answer:
        fills = [
            [{"token": self.processor.decode([token]), "prob": prob} for token, prob in guess]
            for guess in guesses
        ]
        return {"fills": fills, "text": self._text(ids, [guess[0][0] for guess in guesses])}

    def _text(self, ids: Sequence[int], fills: Sequence[int] | None = None) -> str:
        """The text of a row, what is hidden filled in; tokens that no text has are left out."""
        tokenizer = self.processor.tokenizer
        kept = {tokenizer.mask_token_id, tokenizer.unk_token_id}
        left_out = set(self._special_ids) - kept
        filled = iter(fills or ())
        shown = [
            next(filled, token) if token == tokenizer.mask_token_id else token
            for token in map(int, ids)
            if token not in left_out
        ]
        return str(tokenizer.decode(shown, clean_up_tokenization_spaces=False))

    def references(self, rows: Columns) -> list[Any]:
        """None is known."""
        return ["" for _ in rows["input_ids"]]

    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """No measure needs answers."""
        return {}

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """The text with its hidden tokens, and filled in."""
        text = self._text(rows["input_ids"][index])
        return Sample(
            prompt=text, answer=answer["text"], reference=reference, request={"text": text}
        )

    @classmethod
    def example_request(cls) -> dict[str, Any]:
        """A text with a hidden token."""
        return {"text": f"The {MASK_OF_REQUESTS}"}

    @staticmethod
    def answer_text(answer: Answer) -> str:
        return str(answer["text"])


def _mask_of(processor: TextProcessor) -> int:
    """The id that hides a token."""
    mask_id = processor.tokenizer.mask_token_id
    if mask_id is None:
        raise ValueError(
            "the tokenizer has no token that stands for a hidden one (`mask_token`), as masked_lm "
            "needs; train one with prepare.tokenizer: {vocab_size: …, mask: true}, or with "
            "tokens: characters, or load one that has it"
        )
    return int(mask_id)


def _own_chance(ids_T: np.ndarray) -> Chance:
    """Of a row by its real tokens alone."""
    from raymodel.chance import Chance

    return Chance("masked_lm", ids_T.astype("<i8").tobytes().hex())
