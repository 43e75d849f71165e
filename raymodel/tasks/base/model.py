"""What a task wants of its model, and what it says of the size of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base.declared import Declared

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class OfModel(Declared):
    """What those call who build, load and plan models."""

    def takes_over(self, config: PretrainedConfig) -> PretrainedConfig:
        """The configuration of what does the task with the weights of a base.

        That of the base, unless an architecture was pretrained under a name of its own: then of the
        one that has the same weights under the same names. What the base has besides is left
        behind, and what it lacks is a head that fine-tuning draws.
        """
        return config

    @classmethod
    def is_named_by(cls, config: Mapping[str, Any]) -> bool:
        """Whether a folder's config.json, of which an architecture fits, says that it is this task
        and no other of that architecture."""
        return cls.problem_type is not None and config.get("problem_type") == cls.problem_type

    def model_arguments(self) -> dict[str, Any]:
        """What the model's configuration must say of the task: the names of the classes, and what
        it calls the task. Nothing where it is not known which classes there are; fields that an
        architecture lacks are left out."""
        if not self.labels:
            return {}
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
            **({"problem_type": self.problem_type} if self.problem_type else {}),
        }

    @property
    def num_outputs(self) -> int:
        """Of the head that fine-tuning gives the model; 0 where it gives none."""
        return int(self.model_arguments().get("num_labels", 0))

    def trim(self, model: PreTrainedModel) -> None:
        """Takes out of a model what the task has no use for, so that a base may lack it and no
        weight is kept that nothing teaches; and says what of the rest learns, where the model's own
        class does not."""

    def check_model(self, config: PretrainedConfig) -> None:
        """Raises ValueError when a model of this configuration would learn the wrong thing."""

    def check_processor(self, processor: Any) -> None:
        """Raises ValueError when a processor lacks what the examples need."""

    def special_tokens(self, row_tokens: int | None) -> Mapping[str, int]:
        """Kind of special token → how many of it a tokenizer must have: `mask`, which stands for a
        hidden token, `sentinels`, for runs of them, and `separator`, which parts two texts.

        Args:
            row_tokens: of packed rows; None for examples.
        """
        return {}

    def settle(self, model: PreTrainedModel) -> str | None:
        """Tells a model's configurations what they must know of the processor.

        Returns: what was changed, in words; None when nothing was.

        Raises:
            ValueError: the processor lacks it.
        """
        return None

    def longest_row(self, max_length: int) -> int:
        """Tokens of the longest example, where `features` is given this `max_length`. Images and
        sounds have none, and count as one."""
        return max_length if self.modality == "text" else 1

    def forward_lengths(self, tokens: int, max_length: int | None) -> dict[str, int]:
        """Argument of the model's forward → its length, for a row of text of so many tokens.

        Args:
            max_length: of examples, as `features` is given it; None for packed rows.
        """
        return {"input_ids": tokens, "attention_mask": tokens}
