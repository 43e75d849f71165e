"""A forward pass with a cache: the one place that knows what transformers calls that.

The argument, and the field of the output, were `past_key_values` until transformers 5.23 and are
`cache` since 5.24. The old word is still taken for a while, but no longer stands in a signature.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import PreTrainedModel

_WORDS = ("cache", "past_key_values")


def takes(model: PreTrainedModel, argument: str) -> bool:
    """Whether a model's forward pass names an argument; what only `**kwargs` would take is not."""
    return argument in inspect.signature(model.forward).parameters


def find_cache_word(model: PreTrainedModel) -> str | None:
    """What a model calls its cache; None when it takes none."""
    return next((word for word in _WORDS if takes(model, word)), None)


class CachedForward:
    """A model that is run with the cache of what it has read.

    Attributes:
        word: what the model calls a cache; None when it has none, and reads everything again.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.word = find_cache_word(model)

    def __call__(
        self, input_ids: torch.Tensor, cache: Any = None, **arguments: Any
    ) -> tuple[torch.Tensor, Any]:
        """Reads more tokens.

        Args:
            input_ids: those after what the cache holds, (B, T).
            cache: of the call before; None at the beginning of the rows.

        Returns:
            Logits (B, T, V), of fewer positions where `logits_to_keep` says so, and the cache,
            None when the model has none.
        """
        if self.word is None:
            assert cache is None, "a model without a cache was given one"
            return self._model(input_ids=input_ids, **arguments).logits, None
        given = {} if cache is None else {self.word: cache}
        output = self._model(input_ids=input_ids, use_cache=True, **given, **arguments)
        return output.logits, output.get(self.word)
