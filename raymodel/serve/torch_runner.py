"""The model in torch: slots of keys and values, and the choice of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from raymodel.serve.answer import Answer
from raymodel.serve.decoder import build_decoder
from raymodel.serve.runner import Runner, Tokens
from raymodel.serve.sampling import choose_tokens

# Prompt tokens read between two decoding steps: bounds how long running answers stand still.
_PREFILL_TOKENS = 2048
# Prompts are read together while padding them to the longest costs at most this factor.
_PADDING_FACTOR = 1.5


class TorchRunner(Runner):
    """Runs any causal language model of transformers.

    Args:
        model: in eval mode, on its device.
        batch: answers at the same time, if its architecture can.
        context_tokens: of prompt and answer together.
    """

    name = "transformers"
    needs_model = True

    def __init__(self, model: PreTrainedModel, *, batch: int, context_tokens: int) -> None:
        self.context_tokens = context_tokens
        self.decoder = build_decoder(model, batch, context_tokens)
        self.mode = self.decoder.mode
        self.num_slots = self.decoder.num_slots
        self._rows: list[Answer] = []  # in the order of the decoder's rows

    def fits(self, joining: Sequence[Answer], candidate: Answer) -> bool:
        lengths = [len(answer.prompt) for answer in [*joining, candidate]]
        padded = max(lengths) * len(lengths)
        return not joining or padded <= min(_PREFILL_TOKENS, _PADDING_FACTOR * sum(lengths))

    @torch.inference_mode()
    def join(self, answers: Sequence[Answer]) -> Tokens:
        logits = self.decoder.prefill([answer.prompt for answer in answers])
        self._rows.extend(answers)
        return _choose(answers, logits)

    @torch.inference_mode()
    def step(self) -> Tokens:
        logits = self.decoder.step([answer.tokens[-1] for answer in self._rows])
        return _choose(self._rows, logits)

    @torch.inference_mode()
    def leave(self, answers: Sequence[Answer]) -> None:
        ended = {id(answer) for answer in answers}
        # From the last row down: releasing moves the last row, which stays, forward.
        for row in range(len(self._rows) - 1, -1, -1):
            if id(self._rows[row]) in ended:
                self.decoder.release(row)
                self._rows[row] = self._rows[-1]
                self._rows.pop()
        while len(self.decoder.lengths) > len(self._rows):  # of a prefill that failed
            self.decoder.release(len(self.decoder.lengths) - 1)

    def close(self) -> None:
        """There is nothing to end."""


def _choose(answers: Sequence[Answer], logits: torch.Tensor) -> Tokens:
    tokens = choose_tokens(logits, [a.sampling for a in answers], [a.draws for a in answers])
    return list(zip(answers, tokens, strict=True))
