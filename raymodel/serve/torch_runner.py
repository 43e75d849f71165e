"""The model in torch: slots of keys and values, and the choice of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from raymodel.model.positions import find_max_tokens
from raymodel.serve.ahead import Proposal, take_tokens
from raymodel.serve.answer import Answer
from raymodel.serve.capacity import DRAFTED_ROWS
from raymodel.serve.decoder import Decoder, build_decoder, build_pair
from raymodel.serve.draft import Draft, DraftModel
from raymodel.serve.form import Grammars
from raymodel.serve.logits import score_tokens
from raymodel.serve.runner import Runner, Tokens
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
        draft: writes ahead of the model; None has it write alone.

    Raises:
        SpecError: there is a draft, and it or the model cannot be batched.
        ClusterError: the memory holds no keys and values.
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
        draft: DraftModel | None = None,
    ) -> None:
        self.decoder: Decoder
        self._draft: Draft | None = None
        if draft is None:
            self.decoder = build_decoder(model, batch, context_tokens, replicas)
        else:
            self.decoder, own = build_pair(model, draft.model, batch, context_tokens, replicas)
            self._draft = Draft(
                self.decoder,
                own,
                draft.tokens,
                own_context=find_max_tokens(draft.model.config.to_dict()) or context_tokens,
                most_rows=DRAFTED_ROWS.get(model.device.type, DRAFTED_ROWS["cpu"]),
                name=draft.name,
            )
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
            logits = self._prefill([prompts[0][:piece]], every=is_scored)
            _score_prompt(answers[0], logits[0], 0)
            return []
        logits = self._prefill(prompts, every=is_scored)
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
            tokens = self._step() if self._draft is None else self._draft.step(self._rows)
        return tokens + self._read_on()

    def _step(self) -> Tokens:
        return _choose(self._rows, self.decoder.step([each.tokens[-1] for each in self._rows]))

    def _prefill(self, prompts: Sequence[Sequence[int]], *, every: bool) -> torch.Tensor:
        logits = self.decoder.prefill(prompts, every=every)
        if self._draft is not None:
            self._draft.prefill(prompts)
        return logits

    def _read_on(self) -> Tokens:
        """The next piece of the prompt that is being read; after the last one its first token."""
        if self._reading is None:
            return []
        answer, place = self._reading, self.decoder.lengths[-1]
        piece = answer.prompt[place : place + self._piece_of(answer)]
        logits = self.decoder.extend(piece, every=_is_scored(answer))
        if self._draft is not None:
            self._draft.extend(piece, place)
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
                for decoder in self._decoders:
                    decoder.release(row, len(self._rows))
                self._rows[row] = self._rows[-1]
                self._rows.pop()
        if id(self._reading) in ended:
            self._reading = None
        num_kept = len(self._rows) + (self._reading is not None)
        for decoder in self._decoders:
            while len(decoder.lengths) > num_kept:  # not read to its end, or in vain
                decoder.release(len(decoder.lengths) - 1, len(self._rows))

    @property
    def _decoders(self) -> list[Decoder]:
        return [self.decoder] if self._draft is None else [self.decoder, self._draft.own]

    def facts(self) -> dict[str, Any]:
        told = {} if self._draft is None else {"draft": self._draft.facts()}
        return super().facts() | self.decoder.facts() | told

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


def _choose(answers: Sequence[Answer], logits_NV: torch.Tensor) -> Tokens:
    """One token for each."""
    return take_tokens(answers, logits_NV[:, None], [Proposal()] * len(answers))[0]
