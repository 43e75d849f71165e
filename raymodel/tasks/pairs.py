"""Pairs of answers to one prompt, of which one is wanted: what tasks on them have in common.

Shapes: B pairs, 2 sides (chosen, rejected), T tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from raymodel.tasks.base import Columns, Example, LeftOut, Measure, Reading
from raymodel.tasks.causal_lm import CausalLM
from raymodel.tasks.prompt import TOO_LONG, fit_answers
from raymodel.tasks.spec.language import AnyPreferenceSpec, PreferenceSpec

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PreTrainedModel

    from raymodel.chance import Draw

SIDES = ("chosen", "rejected")


class PairTask(CausalLM):
    """A causal language model that is taught by pairs: what it is, takes and answers is the same.

    A row holds both sides, each with the prompt before it: `chosen_ids` and `rejected_ids`, of
    which the first `prompt_length` are the prompt. Unless the job wants no reference, it also holds
    the log-probability of each answer under the base, in nats: `chosen_reference` and
    `rejected_reference`. So training needs no second model, and a row no other row.
    """

    measures = MappingProxyType(
        {
            "preference_accuracy": Measure(needs="readings", higher_is_better=True),
            "reward_margin": Measure(needs="readings", higher_is_better=True),
            "chosen_loss": Measure(needs="readings", higher_is_better=False),
            "chosen_loss_change": Measure(needs="readings", higher_is_better=False),
            **{n: m for n, m in CausalLM.measures.items() if m.needs == "answers"},
        }
    )
    cuts_rows = False  # the loss of a pair is no sum over its tokens
    has_scores = False
    can_pretrain = False
    apart_architectures: ClassVar[tuple[str, ...]] = ()  # each side is a row of its own

    @property
    def _spec(self) -> AnyPreferenceSpec:
        return self.spec if isinstance(self.spec, AnyPreferenceSpec) else PreferenceSpec()

    # ---- data --------------------------------------------------------------------------------

    def schema(self) -> pa.Schema:
        """`chosen_ids` and `rejected_ids` list<int32>, `prompt_length` int32; with a reference also
        `chosen_reference` and `rejected_reference` float64."""
        import pyarrow as pa

        ids = [(f"{side}_ids", pa.list_(pa.int32())) for side in SIDES]
        references = [(column, pa.float64()) for column in self.base_readings]
        return pa.schema([*ids, ("prompt_length", pa.int32()), *references])

    @property
    def base_readings(self) -> Mapping[str, str]:
        """The log-probability of each side, unless the job wants no reference."""
        wanted = SIDES if self._spec.reference == "base" else ()
        return {f"{side}_reference": side for side in wanted}

    def _pair(
        self,
        prompt: Sequence[int],
        answers: Mapping[str, Sequence[int]],
        max_length: int | None,
        roles: Mapping[str, str],
    ) -> Example | LeftOut:
        """The ids of both sides after one prompt. What is too long is cut as by `causal_lm`, and
        the prompt is the same before both.

        Args:
            answers: by side, each with what closes it.
            roles: `prompt` and each side → the role that says it.
        """
        whole = {"prompt": prompt, **answers}
        prompt, fitted = fit_answers(
            prompt, [answers[side] for side in SIDES], max_length, self.processor.tokenizer
        )
        kept = {"prompt": prompt, **dict(zip(SIDES, fitted, strict=True))}
        cut = {roles[part] for part in whole if len(kept[part]) < len(whole[part])}
        if cut and self._drops_too_long:
            return LeftOut(TOO_LONG)
        if kept["chosen"] == kept["rejected"]:
            return LeftOut("pair whose sides are equal up to where they are cut")
        features = {f"{side}_ids": [*prompt, *kept[side]] for side in SIDES}
        in_order = tuple(role for role in self.fields if role in cut)
        return Example(features=features | {"prompt_length": len(prompt)}, cut=in_order)

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """`input_ids` and `labels`, both (B, 2, T), and `references` (B, 2) in nats, 0 where there
        are none."""
        import numpy as np
        import torch

        batch = self._both(rows)
        known = [np.asarray(rows[column], np.float64) for column in self.base_readings]
        references = np.stack(known, 1) if known else np.zeros((len(batch["labels"]), 2))
        return batch | {"references": torch.from_numpy(references)}

    def _both(self, rows: Columns) -> dict[str, torch.Tensor]:
        """The same without the references."""
        import numpy as np

        sides = [rows[f"{side}_ids"] for side in SIDES]
        turns = [ids for pair in zip(*sides, strict=True) for ids in pair]
        prompts = np.repeat(rows["prompt_length"], 2)
        flat = super().collate({"input_ids": turns, "prompt_length": prompts})
        return {name: ids.view(-1, 2, ids.shape[1]) for name, ids in flat.items()}

    # ---- training ----------------------------------------------------------------------------

    def num_targets(self, batch: Mapping[str, torch.Tensor]) -> int:
        """Pairs."""
        return int(_bears_loss(batch).sum())

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum over the pairs; `model` may be wrapped by DeepSpeed or peft."""
        import torch

        log_probs, lengths = self._log_probs(model, batch), _lengths(batch).clamp(min=1)
        gains = log_probs - batch["references"]
        if self._spec.by_token:
            gains = gains / lengths
        losses = pair_losses(gains[:, 0] - gains[:, 1], self._spec)
        if self._spec.chosen_weight:
            losses = losses - self._spec.chosen_weight * log_probs[:, 0] / lengths[:, 0]
        # `where`, not a product: a blank pair may have any loss.
        return torch.where(_bears_loss(batch), losses, 0.0).sum().float()

    @staticmethod
    def _log_probs(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Of both answers of each pair, in nats. (B, 2) fp64: their difference is far smaller than
        they are."""
        from raymodel.tasks.loss import next_token_losses

        input_ids, labels = (batch[name].flatten(0, 1) for name in ("input_ids", "labels"))
        logits = model(input_ids=input_ids, use_cache=False).logits
        return -next_token_losses(logits, labels).double().sum(1).view(-1, 2)

    # ---- readings and answers ----------------------------------------------------------------

    def readings(self, model: PreTrainedModel, rows: Columns) -> list[Reading]:
        """The log-probability of each answer in nats, its tokens, and its reference where the rows
        have one."""
        import torch

        batch = self._both(rows)
        moved = {name: ids.to(model.device) for name, ids in batch.items()}
        with torch.inference_mode():
            log_probs = self._log_probs(model, moved).tolist()
        lengths = _lengths(batch).tolist()
        found: list[Reading] = []
        for index, (both, counts) in enumerate(zip(log_probs, lengths, strict=True)):
            reading = dict(zip(SIDES, both, strict=True))
            for side, count in zip(SIDES, counts, strict=True):
                reading[f"{side}_tokens"] = count
                if f"{side}_reference" in rows:
                    reading[f"{side}_reference"] = float(rows[f"{side}_reference"][index])
            found.append(reading)
        return found

    def measure_readings(self, readings: Sequence[Reading]) -> dict[str, float]:
        """`preference_accuracy`, the share of pairs whose chosen side is the better rewarded, of a
        tie a half; `reward_margin`, the mean difference of the rewards; `chosen_loss`, in nats a
        token; `chosen_loss_change`, since the base and as a share of that, 0.05 for 5 % worse.

        The reward of an answer is what its log-probability has gained over the reference, in nats
        (that of the formula is beta times it); without a reference it is its mean over the tokens.
        """
        chosen, rejected = ([_reward(reading, side) for reading in readings] for side in SIDES)
        margins = [one - other for one, other in zip(chosen, rejected, strict=True)]
        tokens = sum(reading["chosen_tokens"] for reading in readings)
        loss = -sum(reading["chosen"] for reading in readings) / tokens
        scores = {
            "preference_accuracy": sum((m > 0) + (m == 0) / 2 for m in margins) / len(margins),
            "reward_margin": sum(margins) / len(margins),
            "chosen_loss": loss,
        }
        if "chosen_reference" in readings[0]:
            before = -sum(reading["chosen_reference"] for reading in readings) / tokens
            scores["chosen_loss_change"] = loss / before - 1
        return scores

    def can_evaluate(self, columns: Collection[str]) -> bool:
        """Pairs, with a reference or without."""
        return {f"{side}_ids" for side in SIDES} <= set(columns)

    @staticmethod
    def _parted(rows: Columns) -> list[tuple[Any, Any]]:
        """The ids of prompt and chosen answer of each row."""
        ids = rows["chosen_ids"] if "chosen_ids" in rows else rows["input_ids"]
        return CausalLM._parted({"input_ids": ids, "prompt_length": rows["prompt_length"]})


def pair_losses(advantages: torch.Tensor, spec: AnyPreferenceSpec) -> torch.Tensor:
    """The loss of each pair by its advantage. Both (B,); see `AnyPreferenceSpec`."""
    from torch.nn.functional import logsigmoid

    if spec.loss == "ipo":
        return (advantages - 1 / (2 * spec.beta)) ** 2
    rewards = spec.beta * advantages - spec.margin
    smoothing = spec.label_smoothing
    return -(1 - smoothing) * logsigmoid(rewards) - smoothing * logsigmoid(-rewards)


def _lengths(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Targets of each side: the first token of a row has nothing before it to be predicted from.
    (B, 2)"""
    return (batch["labels"][:, :, 1:] != -100).sum(2)


def _bears_loss(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Whether a pair is one: a blank batch has rows without a label. (B,)"""
    return (_lengths(batch) > 0).all(1)


def _reward(reading: Reading, side: str) -> float:
    if f"{side}_reference" in reading:
        return reading[side] - reading[f"{side}_reference"]
    return reading[side] / max(1.0, reading[f"{side}_tokens"])
