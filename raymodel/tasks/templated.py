"""Tasks whose texts a chat template writes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from raymodel.modality.spec import TEMPLATES
from raymodel.tasks.causal_lm import CausalLM
from raymodel.tasks.spec.language import AnyChatSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raymodel.modality.text import TextProcessor


class TemplatedTask(CausalLM):
    """A causal language model that learns conversations, and is served with the same template."""

    can_pretrain = False

    def adapt_processor(self, files: Mapping[str, str]) -> None:
        """The tokenizer gets the template that the job names."""
        from raymodel.modality.chat import template_text

        named = self.spec.chat_template if isinstance(self.spec, AnyChatSpec) else None
        if named is not None:
            text = template_text(named) if named in TEMPLATES else files[named]
            self.processor.tokenizer.chat_template = text

    def check_processor(self, processor: TextProcessor) -> None:
        """A chat template, which closes answers with a special token."""
        processor.chat.end_of_turn()

    @cached_property
    def _end_of_turn(self) -> int:
        return int(self.processor.chat.end_of_turn())

    def settle(self, model: PreTrainedModel) -> str | None:
        """The token that closes an answer is one at which the model's answers end.

        Raises:
            ValueError: the model has no embedding for a token that the template writes.
        """
        from raymodel.tasks.boundaries import end_tokens

        self._check_rows(model)
        end, tokenizer = self._end_of_turn, self.processor.tokenizer
        known = end_tokens(model, tokenizer)
        # The file that other programs, too, take the ends of answers from.
        config: Any = model.generation_config
        config.eos_token_id = sorted({end, *known})
        if end in known:
            return None
        return (
            f"an answer of the model ends at {tokenizer.convert_ids_to_tokens(end)!r} too, with "
            "which its chat template closes one"
        )

    def _check_rows(self, model: PreTrainedModel) -> None:
        """`check_fits` passes over special tokens that no plain text becomes; a template writes
        some of them."""
        embedding: Any = model.get_input_embeddings()
        rows = embedding.weight.shape[0]
        for name, token in self.processor.chat.control_tokens().items():
            if token >= rows:
                raise ValueError(
                    f"the chat template writes {name!r}, the tokenizer's id {token:,}, and its "
                    f"model has {rows:,} rows of embeddings; each id needs one. Take the "
                    "tokenizer that the model was trained with, or another chat_template"
                )

    @classmethod
    def example_request(cls) -> dict[str, Any]:
        """A greeting."""
        return {"messages": [{"role": "user", "content": "Hello"}]}
