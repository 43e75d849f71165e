"""The model in torch: slots of keys and values, and the choice of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from raymodel.serve.answer import Answer
from raymodel.serve.decoder import build_decoder
from raymodel.serve.runner import Runner, Tokens
from raymodel.serve.sampling import choose_tokens

# Prompt tokens read between two decoding steps: bounds how long running answers stand still. On two
# cores 256 of a model of 135 M parameters are half a second, and more at once are hardly faster.
_PIECE_TOKENS = {"cpu": 256, "cuda": 2048}
# Prompts are read together while padding them to the longest costs at most this factor.
_PADDING_FACTOR = 1.5


class TorchRunner(Runner):
    """Runs any causal language model of transformers.

    A prompt that is longer than a piece is read piece by piece, between the steps of the answers
    that run; others join after it.

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
        self._piece = _PIECE_TOKENS.get(model.device.type, _PIECE_TOKENS["cpu"])
        self._rows: list[Answer] = []  # in the order of the decoder's rows
        self._reading: Answer | None = None  # has the row behind them

    def fits(self, joining: Sequence[Answer], candidate: Answer) -> bool:
        lengths = [len(answer.prompt) for answer in [*joining, candidate]]
        padded = max(lengths) * len(lengths)
        is_cheap = padded <= min(self._piece, _PADDING_FACTOR * sum(lengths))
        return self._reading is None and (not joining or is_cheap)

    @torch.inference_mode()
    def join(self, answers: Sequence[Answer]) -> Tokens:
        prompts = [answer.prompt for answer in answers]
        if len(prompts[0]) > self._piece and self.decoder.reads_in_pieces:
            [self._reading] = answers
            self.decoder.prefill([prompts[0][: self._piece]])
            return []
        logits = self.decoder.prefill(prompts)
        self._rows.extend(answers)
        return _choose(answers, logits)

    @torch.inference_mode()
    def step(self) -> Tokens:
        tokens = []
        if self._rows:
            logits = self.decoder.step([answer.tokens[-1] for answer in self._rows])
            tokens = _choose(self._rows, logits)
        return tokens + self._read_on()

    def _read_on(self) -> Tokens:
        """The next piece of the prompt that is being read; after the last one its first token."""
        if self._reading is None:
            return []
        answer, place = self._reading, self.decoder.lengths[-1]
        logits = self.decoder.extend(answer.prompt[place : place + self._piece])
        if self.decoder.lengths[-1] < len(answer.prompt):
            return []
        self._rows.append(answer)
        self._reading = None
        return _choose([answer], logits)

    @torch.inference_mode()
    def leave(self, answers: Sequence[Answer]) -> None:
        ended = {id(answer) for answer in answers}
        # From the last row down: releasing moves the last row, which stays, forward.
        for row in range(len(self._rows) - 1, -1, -1):
            if id(self._rows[row]) in ended:
                self.decoder.release(row, len(self._rows))
                self._rows[row] = self._rows[-1]
                self._rows.pop()
        if id(self._reading) in ended:
            self._reading = None
        num_kept = len(self._rows) + (self._reading is not None)
        while len(self.decoder.lengths) > num_kept:  # not read to its end, or in vain
            self.decoder.release(len(self.decoder.lengths) - 1, len(self._rows))

    def close(self) -> None:
        """There is nothing to end."""


def _choose(answers: Sequence[Answer], logits: torch.Tensor) -> Tokens:
    tokens = choose_tokens(logits, [a.sampling for a in answers], [a.draws for a in answers])
    return list(zip(answers, tokens, strict=True))
