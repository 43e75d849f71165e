"""Causal language modelling: predict the next token of a text, or of a response to a prompt."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Limits, Measure, Sample
from raymodel.tasks.documents import DECODERS, DocumentTask
from raymodel.tasks.fields import Field
from raymodel.tasks.prompt import TOO_LONG, end_of_text, fit_answers
from raymodel.tasks.spec.language import AnyAnswerSpec

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.chance import Draw
    from raymodel.modality.text import TextProcessor
    from raymodel.tasks.loss import Scores


class CausalLM(DocumentTask):
    """A decoder (`AutoModelForCausalLM`) over one of two kinds of rows.

    Packed rows, from `prepare`: `tokens` (T ids), of which the first `length` are real. Every token
    bears loss but the first of a row, and of each document where they are kept apart. Examples,
    from `finetune`: `input_ids`, of which the first `prompt_length` are the prompt. Only the
    response bears loss.
    """

    name = "causal_lm"
    modality = "text"
    auto_class = "AutoModelForCausalLM"
    architectures = ("ForCausalLM", "LMHeadModel")
    pipeline_tag = "text-generation"
    peft_task = "CAUSAL_LM"
    fields = MappingProxyType(
        {
            "prompt": Field(kind="text", keeps="end"),
            "response": Field(kind="text", is_target=True),
        }
    )
    measures = MappingProxyType(
        {
            "perplexity": Measure(needs="loss", higher_is_better=False),
            "bits_per_byte": Measure(needs="loss", higher_is_better=False),
            "bleu": Measure(needs="answers", higher_is_better=True),
            "chrf": Measure(needs="answers", higher_is_better=True),
            "exact_match": Measure(needs="answers", higher_is_better=True),
        }
    )
    answers = "stream"
    cuts_rows = True
    has_scores = True
    can_pretrain = True
    apart_architectures: ClassVar[tuple[str, ...]] = DECODERS

    def check_model(self, config: PretrainedConfig) -> None:
        """Refuses encoders: they see the token to predict, so their loss means nothing."""
        if getattr(config, "is_encoder_decoder", False) or not getattr(config, "is_decoder", True):
            raise ValueError(
                f"a {config.model_type!r} model reads its text in both directions; causal_lm needs "
                "a decoder, such as llama or qwen3 (or set `is_decoder: true` in its configuration)"
            )

    def check_processor(self, processor: TextProcessor) -> None:
        """An end-of-text token, which closes each answer."""
        end_of_text(processor.tokenizer)

    def schema(self) -> pa.Schema:
        """`input_ids` list<int32>, `prompt_length` int32."""
        import pyarrow as pa

        return pa.schema([("input_ids", pa.list_(pa.int32())), ("prompt_length", pa.int32())])

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """Prompt and response ids, closed by end-of-text; nothing is learnt of an empty response.

        The two are tokenised apart, so that the boundary is where it is when the model is served.
        An example that is too long loses the *start* of its prompt's text (what the tokenizer puts
        in front, such as a beginning-of-text token, stays), and of a response of more than half of
        `max_length` the end (without end-of-text then, since it does not end there); or it is left
        out, where the job says so.

        Raises:
            ValueError: the tokenizer has no end-of-text token.
        """
        self.check_processor(self.processor)
        tokenizer = self.processor.tokenizer
        prompt = tokenizer(values["prompt"])["input_ids"]
        if "response" not in values:
            return Example(features={"input_ids": prompt, "prompt_length": len(prompt)})
        if not values["response"].strip():
            return LeftOut("empty response")
        whole = {"response": self._answer_ids(values["response"]), "prompt": prompt}
        prompt, [response] = fit_answers(prompt, [whole["response"]], max_length, tokenizer)
        kept = {"response": response, "prompt": prompt}
        cut = tuple(role for role in whole if len(kept[role]) < len(whole[role]))
        if cut and self._drops_too_long:
            return LeftOut(TOO_LONG)
        features = {"input_ids": prompt + response, "prompt_length": len(prompt)}
        return Example(features=features, cut=cut)

    @property
    def _drops_too_long(self) -> bool:
        return isinstance(self.spec, AnyAnswerSpec) and self.spec.too_long == "drop"

    def _answer_ids(self, text: str) -> list[int]:
        """Closed by end-of-text."""
        tokenizer = self.processor.tokenizer
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, tokenizer.eos_token_id]

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """`input_ids` and `labels`, both (B, T); where documents are kept apart, their places too,
        and all examples in one row.

        There is no attention mask: padding is on the right, where the causal mask already hides it
        from every real token, and without a mask attention takes its fast causal path.
        """
        import numpy as np
        import torch

        from raymodel.tasks.batch import pad_right
        from raymodel.tasks.documents import joined, with_documents, without_first_tokens
        from raymodel.tasks.loss import IGNORED

        if "tokens" in rows:
            input_ids = torch.from_numpy(np.stack(rows["tokens"]).astype(np.int64))
            first, end = np.zeros(len(input_ids), dtype=np.int64), np.asarray(rows["length"])
        else:
            input_ids, _ = pad_right(rows["input_ids"], self.processor.padding)
            first = np.asarray(rows["prompt_length"])
            end = np.asarray([len(ids) for ids in rows["input_ids"]])
        position = np.arange(input_ids.shape[1])
        bears_loss = (position >= first[:, None]) & (position < end[:, None])
        labels = input_ids.masked_fill(~torch.from_numpy(bears_loss), IGNORED)
        batch = {"input_ids": input_ids, "labels": labels}
        if not self.keeps_apart:
            return batch
        if "tokens" in rows:
            batch = with_documents(batch, rows["document_starts"], end.tolist())
            return without_first_tokens(batch)
        fill = {"input_ids": self.processor.padding, "labels": IGNORED}
        return without_first_tokens(joined(batch, end.tolist(), fill))

    def num_targets(self, batch: Mapping[str, torch.Tensor]) -> int:
        """Predicted tokens: the first token of a row has nothing before it to be predicted from."""
        return int((batch["labels"][:, 1:] != -100).sum())

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the next-token cross-entropy; `model` may be wrapped by DeepSpeed or peft."""
        return self.scores(model, batch).loss()

    def scores(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> Scores:
        """Of each position, with the id after it as its target. The labels are shifted, not the
        logits: a shifted view of the logits would have to be copied to become a matrix."""
        from raymodel.tasks.documents import model_inputs
        from raymodel.tasks.loss import Scores, shifted

        logits = model(**model_inputs(batch), use_cache=False).logits
        targets = batch["targets"] if "targets" in batch else shifted(batch["labels"])
        return Scores(logits_NV=logits.flatten(0, 1), targets_N=targets.flatten())

    def sequence_part(
        self, batch: Mapping[str, torch.Tensor], part: int, parts: int
    ) -> dict[str, torch.Tensor]:
        """`input_ids`, `position_ids` and `targets`, all (B, T / parts); and the bounds of the
        documents in the whole rows, where they are kept apart.

        The target of the last position is in the next part, so the labels are shifted before they
        are cut. Padding on the right makes the parts as long as each other.
        """
        import torch
        from torch.nn.functional import pad

        from raymodel.tasks.documents import widened
        from raymodel.tasks.loss import IGNORED, shifted

        width = batch["input_ids"].shape[1]
        more = -width % parts
        positions = torch.arange(width + more).expand(len(batch["input_ids"]), -1)
        bounds = {}
        if "position_ids" in batch:
            bounds = widened(batch["position_ids"], more)
            positions = bounds.pop("position_ids")
        whole = {
            "input_ids": pad(batch["input_ids"], (0, more)),
            "position_ids": positions,
            "targets": pad(shifted(batch["labels"]), (0, more), value=IGNORED),
        }
        cut = {name: rows.chunk(parts, dim=1)[part].contiguous() for name, rows in whole.items()}
        return cut | bounds

    def can_evaluate(self, columns: Collection[str]) -> bool:
        """Examples, and packed rows too."""
        return super().can_evaluate(columns) or {"tokens", "length"} <= set(columns)

    def has_answers(self, rows: Columns) -> bool:
        """Packed rows have no prompts."""
        return "prompt_length" in rows

    def target_bytes(self, batch: Mapping[str, torch.Tensor]) -> int:
        """Of the predicted text. End-of-text tokens have none, though they bear loss."""
        from raymodel.tasks.token_bytes import target_bytes, token_bytes

        labels, sizes = batch["labels"], token_bytes(self.processor)
        if "position_ids" not in batch:
            return target_bytes(labels, sizes)
        is_first = batch["position_ids"] == 0
        return target_bytes(labels, sizes, batch["input_ids"].where(is_first, labels))

    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """Greedy answers to the prompts, as `text`."""
        from raymodel.tasks.generation import generate_answers

        prompts = [prompt for prompt, _ in self._parted(rows)]
        texts = generate_answers(model, self.processor, prompts, limits.max_new_tokens)
        return [{"text": text} for text in texts]

    def references(self, rows: Columns) -> list[Any]:
        """The responses, stripped as answers are."""
        return [self.processor.decode(response).strip() for _, response in self._parted(rows)]

    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """`bleu`, `chrf` and `exact_match`."""
        from raymodel.tasks.text_scores import score_answers

        return score_answers([answer["text"] for answer in answers], references)

    def signatures(self) -> Mapping[str, str]:
        from raymodel.tasks.text_scores import signatures

        return signatures()

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """Prompt, answer and response."""
        prompt = self.processor.decode(self._parted(rows)[index][0])
        return Sample(
            prompt=prompt, answer=answer["text"], reference=reference, request={"prompt": prompt}
        )

    @staticmethod
    def answer_text(answer: Answer) -> str:
        return str(answer["text"])

    @staticmethod
    def _parted(rows: Columns) -> list[tuple[Any, Any]]:
        """The ids of prompt and response of each row."""
        pairs = zip(rows["input_ids"], rows["prompt_length"], strict=True)
        return [(ids[: int(length)], ids[int(length) :]) for ids, length in pairs]
