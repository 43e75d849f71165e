"""Causal language modelling: predict the next token of a text, or of a response to a prompt."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import Evaluation, Example, LeftOut, Sample, Task
from raymodel.tasks.prompt import end_of_prompt
from raymodel.tasks.template import check_template

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from raymodel.data.spec import SourceSpec


class CausalLM(Task):
    """A decoder (`AutoModelForCausalLM`) over one of two kinds of rows.

    Packed rows, from `prepare`: `tokens` (T ids), of which the first `length` are real. Every token
    but the first bears loss. Examples, from `finetune`: `input_ids`, of which the first
    `prompt_length` are the prompt. Only the response bears loss.
    """

    name = "causal_lm"
    auto_class = "AutoModelForCausalLM"
    peft_task = "CAUSAL_LM"
    roles = MappingProxyType({"prompt": "end", "response": "start"})
    measures = ("perplexity", "bits_per_byte", "bleu", "chrf", "exact_match")
    example_measures = ("bleu", "chrf", "exact_match")
    cuts_rows = True

    def check_model(self, config: PretrainedConfig) -> None:
        """Refuses encoders: they see the token to predict, so their loss means nothing."""
        if getattr(config, "is_encoder_decoder", False) or not getattr(config, "is_decoder", True):
            raise ValueError(
                f"a {config.model_type!r} model reads its text in both directions; causal_lm needs "
                "a decoder, such as llama or qwen3 (or set `is_decoder: true` in its configuration)"
            )

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """An end-of-text token, which closes each answer."""
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end-of-text token (`eos_token`); set one")

    def check_source(self, source: SourceSpec) -> None:
        """A prompt and a response, each a template that names at least one field."""
        for name in ("prompt", "response"):
            if getattr(source, name) is None:
                raise ValueError(
                    f"source {source.path!r} has no `{name}`; write a template over the record's "
                    'fields, such as prompt: "{code}" and response: "{docstring}"'
                )
            check_template(source, name)

    def schema(self) -> pa.Schema:
        """`input_ids` list<int32>, `prompt_length` int32."""
        import pyarrow as pa

        return pa.schema([("input_ids", pa.list_(pa.int32())), ("prompt_length", pa.int32())])

    def features(
        self,
        texts: Mapping[str, str],
        label: str | None,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
    ) -> Example | LeftOut:
        """Prompt and response ids, closed by end-of-text; nothing is learnt of an empty response.

        The two are tokenised apart, so that the boundary is where it is when the model is served.
        An example that is too long loses the *start* of its prompt's text (what the tokenizer puts
        in front, such as a beginning-of-text token, stays), and of a response of more than half of
        `max_length` the end (without end-of-text then, since it does not end there).

        Raises:
            ValueError: the tokenizer has no end-of-text token.
        """
        self.check_tokenizer(tokenizer)
        if not texts["response"].strip():
            return LeftOut("empty response")
        prompt = tokenizer(texts["prompt"])["input_ids"]
        response = tokenizer(texts["response"], add_special_tokens=False)["input_ids"]
        response.append(tokenizer.eos_token_id)
        cut = []
        if len(prompt) + len(response) > max_length:
            room = max(max_length // 2, max_length - len(prompt))
            cut += ["response"] if len(response) > room else []
            response = response[:room]
            room = max_length - len(response)
            cut += ["prompt"] if len(prompt) > room else []
            prompt = end_of_prompt(prompt, room, tokenizer)
        features = {"input_ids": prompt + response, "prompt_length": len(prompt)}
        return Example(features=features, cut=tuple(cut))

    def collate(self, rows: Mapping[str, Any], pad_token_id: int) -> dict[str, torch.Tensor]:
        """`input_ids` and `labels`, both (B, T).

        There is no attention mask: padding is on the right, where the causal mask already hides it
        from every real token, and without a mask attention takes its fast causal path.
        """
        import numpy as np
        import torch

        from raymodel.tasks.batch import pad_right
        from raymodel.tasks.loss import IGNORED

        if "tokens" in rows:
            input_ids = torch.from_numpy(np.stack(rows["tokens"]).astype(np.int64))
            first, end = np.zeros(len(input_ids), dtype=np.int64), np.asarray(rows["length"])
        else:
            input_ids, _ = pad_right(rows["input_ids"], pad_token_id)
            first = np.asarray(rows["prompt_length"])
            end = np.asarray([len(ids) for ids in rows["input_ids"]])
        position = np.arange(input_ids.shape[1])
        bears_loss = (position >= first[:, None]) & (position < end[:, None])
        labels = input_ids.masked_fill(~torch.from_numpy(bears_loss), IGNORED)
        return {"input_ids": input_ids, "labels": labels}

    def num_targets(self, batch: Mapping[str, torch.Tensor]) -> int:
        """Predicted tokens: the first token of a row has nothing before it to be predicted from."""
        return int((batch["labels"][:, 1:] != -100).sum())

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the next-token cross-entropy; `model` may be wrapped by DeepSpeed or peft."""
        from raymodel.tasks.loss import cross_entropy_sum, next_token_loss

        names = ("input_ids", "attention_mask", "position_ids")
        inputs = {name: batch[name] for name in names if name in batch}
        logits = model(**inputs, use_cache=False).logits
        if "targets" in batch:
            return cross_entropy_sum(logits.flatten(0, 1), batch["targets"].flatten())
        return next_token_loss(logits, batch["labels"])

    def sequence_part(
        self, batch: Mapping[str, torch.Tensor], part: int, parts: int
    ) -> dict[str, torch.Tensor]:
        """`input_ids`, `position_ids` and `targets`, all (B, T / parts).

        The target of the last position is in the next part, so the labels are shifted before they
        are cut. Padding on the right makes the parts as long as each other.
        """
        import torch
        from torch.nn.functional import pad

        from raymodel.tasks.loss import IGNORED, shifted

        width = batch["input_ids"].shape[1]
        more = -width % parts
        positions = torch.arange(width + more).expand(len(batch["input_ids"]), -1)
        whole = {
            "input_ids": pad(batch["input_ids"], (0, more)),
            "position_ids": positions,
            "targets": pad(shifted(batch["labels"]), (0, more), value=IGNORED),
        }
        return {name: rows.chunk(parts, dim=1)[part].contiguous() for name, rows in whole.items()}

    def can_evaluate(self, columns: Collection[str]) -> bool:
        """Examples, and packed rows too."""
        return super().can_evaluate(columns) or {"tokens", "length"} <= set(columns)

    def evaluate(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: Mapping[str, Any],
        measures: Sequence[str],
        **limits: int,
    ) -> Evaluation:
        """Perplexity and bits per byte of all rows; BLEU, chrF and exact matches of
        answers to some prompts.

        Args:
            limits: `batch_rows`; `generate_rows` prompts are answered with `max_new_tokens` each.
                Packed rows have no prompts: their BLEU and chrF are left out of the result.
        """
        from raymodel.tasks.generation import measure_answers
        from raymodel.tasks.likelihood import measure_likelihood

        metrics: dict[str, float] = {}
        if {"perplexity", "bits_per_byte"} & set(measures):
            metrics |= measure_likelihood(self, model, tokenizer, rows, limits.get("batch_rows", 8))
        samples: tuple[Sample, ...] = ()
        if set(self.example_measures) & set(measures) and "prompt_length" in rows:
            scores, samples = measure_answers(model, tokenizer, rows, limits)
            metrics |= scores
        chosen = {name: metrics[name] for name in measures if name in metrics}
        return Evaluation(metrics=chosen, samples=samples)
