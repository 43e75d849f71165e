"""The model in torch: slots of keys and values, and the choice of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from raymodel.serve.answer import Answer, Scored
from raymodel.serve.decoder import build_decoder
from raymodel.serve.form import Grammars
from raymodel.serve.logits import change_logits, choose_tokens, score_tokens
from raymodel.serve.runner import Made, Runner, Tokens
from raymodel.serve.sampling import Sampling

# Prompt tokens read between two decoding steps: bounds how long running answers stand still. On two
# cores 256 of a model of 135 M parameters are half a second, and more at once are hardly faster.
_PIECE_TOKENS = {"cpu": 256, "cuda": 2048}
# Logits of one piece whose every token is scored: a large vocabulary takes shorter pieces.
_SCORED_PIECE_NUMBERS = 2**24
# Prompts are read together while padding them to the longest costs at most this factor.
_PADDING_FACTOR = 1.5


class TorchRunner(Runner):
    """Runs any causal language model of transformers.

    A prompt that is longer than a piece is read piece by piece, between the steps of the answers
    that run; others join after it.

    Args:
        model: in eval mode, on its device.
        batch: answers at the same time, if its architecture can; None leaves it to the memory.
        context_tokens: of prompt and answer together; fewer where the memory holds fewer.
        grammars: of the forms that answers may be asked to have.
        replicas: that may share this machine's memory.
    """

    name = "transformers"
    needs_model = True

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        batch: int | None,
        context_tokens: int,
        grammars: Grammars,
        replicas: int = 1,
    ) -> None:
        self.decoder = build_decoder(model, batch, context_tokens, replicas)
        self.context_tokens = self.decoder.context_tokens
        self.mode = self.decoder.mode
        self.num_slots = self.decoder.num_slots
        self._piece = _PIECE_TOKENS.get(model.device.type, _PIECE_TOKENS["cpu"])
        num_rows = model.config.get_text_config(decoder=True).vocab_size
        self._scored_piece = min(self._piece, max(1, _SCORED_PIECE_NUMBERS // num_rows))
        self._grammars = grammars
        self._rows: list[Answer] = []  # in the order of the decoder's rows
        self._reading: Answer | None = None  # has the row behind them

    def is_prepared(self, sampling: Sampling) -> bool:
        return sampling.form is None

    def prepare(self, sampling: Sampling) -> None:
        if sampling.form is not None:
            self._grammars.begin(sampling.form)

    def fits(self, joining: Sequence[Answer], candidate: Answer) -> bool:
        lengths = [len(answer.prompt) for answer in [*joining, candidate]]
        padded = max(lengths) * len(lengths)
        is_cheap = padded <= min(self._piece_of(candidate), _PADDING_FACTOR * sum(lengths))
        is_alike = is_cheap and _is_scored(candidate) == _is_scored(joining[0]) if joining else True
        return self._reading is None and is_alike and self._has_room([*joining, candidate])

    @torch.inference_mode()
    def join(self, answers: Sequence[Answer]) -> Tokens:
        for answer in answers:
            if answer.sampling.form is not None:
                answer.form = self._grammars.begin(answer.sampling.form)
        prompts = [answer.prompt for answer in answers]
        piece, is_scored = self._piece_of(answers[0]), _is_scored(answers[0])
        if len(prompts[0]) > piece and self.decoder.reads_in_pieces:
            [self._reading] = answers
            logits = self.decoder.prefill([prompts[0][:piece]], every=is_scored)
            _score_prompt(answers[0], logits[0], 0)
            return []
        logits = self.decoder.prefill(prompts, every=is_scored)
        self._rows.extend(answers)
        if is_scored:
            for answer, logits_TV in zip(answers, logits, strict=True):
                _score_prompt(answer, logits_TV, 0)
            ends = [len(prompt) - 1 for prompt in prompts]
            logits = logits[range(len(prompts)), ends]
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
        piece = answer.prompt[place : place + self._piece_of(answer)]
        logits = self.decoder.extend(piece, every=_is_scored(answer))
        if _is_scored(answer):
            _score_prompt(answer, logits[0], place)
            logits = logits[:, -1]
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

    def facts(self) -> dict[str, Any]:
        return super().facts() | self.decoder.facts()

    def close(self) -> None:
        """There is nothing to end."""

    def _has_room(self, joining: Sequence[Answer]) -> bool:
        """Whether the longest of all answers can become as long as it may beside the others."""
        running = self._rows + ([self._reading] if self._reading is not None else [])
        longest = [len(each.prompt) + each.sampling.max_tokens for each in [*running, *joining]]
        return self.decoder.has_room(len(longest), max(longest))

    def _piece_of(self, answer: Answer) -> int:
        return self._scored_piece if _is_scored(answer) else self._piece


def _is_scored(answer: Answer) -> bool:
    return answer.sampling.prompt_logprobs


def _score_prompt(answer: Answer, logits_TV: torch.Tensor, start: int) -> None:
    """Notes how probable the tokens after place `start` of the prompt were, where that is asked."""
    if _is_scored(answer):
        tokens = answer.prompt[start + 1 : start + 1 + len(logits_TV)]
        num_top = answer.sampling.logprobs or 0
        answer.prompt_scores += score_tokens(logits_TV, tokens, num_top)


def _choose(answers: Sequence[Answer], logits: torch.Tensor) -> Tokens:
    changed = change_logits(logits, answers)
    tokens = choose_tokens(changed, [a.sampling for a in answers], [a.draws for a in answers])
    for answer, token in zip(answers, tokens, strict=True):
        if answer.form is not None:
            answer.form.advance(token)
    return [
        Made(answer, token, _score(answer, row_V, token))
        for answer, row_V, token in zip(answers, logits, tokens, strict=True)
    ]


def _score(answer: Answer, logits_V: torch.Tensor, token: int) -> Scored | None:
    num_top = answer.sampling.logprobs
    return None if num_top is None else score_tokens(logits_V[None], [token], num_top)[0]
