"""A small model that writes ahead of the served one (`serve.draft`).

In a step it writes some tokens for every answer that runs, one pass each; then the model reads all
of them in one pass and takes those that it would have written itself, and one more. Both have a
store of keys and values with the same rows, and what was not taken is cut off both. The draft may
be behind: what it has not read of an answer is read before it writes for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel

from raymodel.serve.ahead import Ahead, Proposal, propose_tokens, take_tokens
from raymodel.serve.answer import Answer
from raymodel.serve.runner import Tokens
from raymodel.serve.slots import SlotDecoder

_PIECE_TOKENS = 256  # that it reads at once of an answer that it is behind of
_TRIED_TOKENS = 32  # that it writes for an answer before it is seen whether they pay


class DraftModel(NamedTuple):
    """A model that writes ahead of another."""

    model: PreTrainedModel
    """In eval mode, on the device of the other, with the same tokenizer."""
    tokens: int
    """So many in a step."""
    name: str
    """For `/health`."""


@dataclass
class Draft:
    """The draft of one decoder.

    Args:
        served: the decoder that it writes ahead of.
        own: its own, with the rows of that.
        tokens: most that it writes in a step for one answer.
        own_context: tokens that it can read; a longer answer goes on without it.
        most_rows: answers that it writes for at the same time; where more run, the model computes
            as much for one token each as pays, and nobody writes ahead.
        name: of the draft.
    """

    served: SlotDecoder
    own: SlotDecoder
    tokens: int
    own_context: int
    most_rows: int
    name: str

    def __post_init__(self) -> None:
        self.num_drafted = self.num_accepted = 0
        self._num_ids = _num_ids(self.served.model)
        self._own_ids = _num_ids(self.own.model)
        self._cost = _num_weights(self.own.model) / _num_weights(self.served.model)

    def facts(self) -> dict[str, Any]:
        """What `/health` tells of it."""
        return {
            "model": self.name,
            "tokens": self.tokens,
            "most_rows": self.most_rows,
            "drafted": self.num_drafted,
            "accepted": self.num_accepted,
        }

    # ---- answers that come and go ----------------------------------------------------------------

    def prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        """Takes rows for prompts that the model has read the beginnings of, and reads them too."""
        if len(self.own.lengths) + len(prompts) > self.most_rows:
            self.own.open(len(prompts))
        else:
            # Of a longer one nothing is written, but its row lies among others; see `_read`.
            self.own.prefill([self._known(prompt[: self.own_context - 1]) for prompt in prompts])

    def extend(self, tokens: Sequence[int], place: int) -> None:
        """Reads on in the last row's prompt, unless it is behind."""
        if self.own.lengths[-1] == place and place + len(tokens) < self.own_context:
            self.own.extend(self._known(tokens))

    # ---- a step ----------------------------------------------------------------------------------

    def step(self, answers: Sequence[Answer]) -> Tokens:
        """At least one token for each answer of the first rows."""
        proposals = self._propose(answers)
        rows = [
            [answer.tokens[-1], *proposal.tokens]
            for answer, proposal in zip(answers, proposals, strict=True)
        ]
        logits_NTV = self.served.read(rows)
        tokens, num_taken = take_tokens(answers, logits_NTV, proposals)
        for row, (answer, taken) in enumerate(zip(answers, num_taken, strict=True)):
            num_written = len(proposals[row].tokens)
            self.served.cut(row, _num_tokens(answer) + taken)
            if num_written:  # of which it has not read the last itself
                self.own.cut(row, _num_tokens(answer) + min(taken, num_written - 1))
            answer.num_drafted += num_written
            answer.num_accepted += taken
            self.num_drafted += num_written
            self.num_accepted += taken
        return tokens

    def _propose(self, answers: Sequence[Answer]) -> list[Proposal]:
        proposals = [Proposal() for _ in answers]
        if len(answers) > self.most_rows:
            return proposals
        self._catch_up(answers)
        left = {row: self._num_wanted(row, answer) for row, answer in enumerate(answers)}
        fed = {row: self._unread(row, answers[row]) for row, count in left.items() if count}
        trials = {row: Ahead.of(answers[row], is_trial=True) for row in fed}
        while fed:
            logits_NV = self._read(fed)
            going = list(fed)
            propose_tokens(
                logits_NV[going], [trials[row] for row in going], [proposals[row] for row in going]
            )
            fed = {
                row: [last]
                for row in going
                if (last := proposals[row].tokens[-1]) not in trials[row].ends
                and len(proposals[row].tokens) < left[row]
            }
        return proposals

    def _read(self, fed: Mapping[int, Sequence[int]]) -> torch.Tensor:
        """Logits of what follows tokens of some rows, (N, V), as wide as the model's; those of the
        rows between are nothing."""
        rows = range(max(fed) + 1)
        lengths = self.own.lengths[: len(rows)]
        # Rows are read as they lie: an idle one gets any token, in a place that is taken back.
        logits_NV = self.own.read([self._known(fed.get(row, [0])) for row in rows])[:, -1]
        for row in set(rows) - fed.keys():
            self.own.cut(row, lengths[row])
        return pad(logits_NV, (0, self._num_ids - self._own_ids), value=-torch.inf)

    def _num_wanted(self, row: int, answer: Answer) -> int:
        """Tokens that are worth to be written for an answer: the model adds one, and none is behind
        its end. 0 where the draft is behind, or does not write for it."""
        num_tokens = _num_tokens(answer)
        if self._num_unread(row, answer) > self._few or not self._writes_for(answer):
            return 0
        asked = answer.sampling.max_tokens - len(answer.tokens) - 1
        return max(0, min(self.tokens, asked, self.served.context_tokens - num_tokens))

    def _catch_up(self, answers: Sequence[Answer]) -> None:
        """Reads a piece of what it is behind of one answer, so that nobody waits for long."""
        for row, answer in enumerate(answers):
            if self._num_unread(row, answer) > self._few and self._writes_for(answer):
                piece = self._unread(row, answer)[:-1][:_PIECE_TOKENS]
                self.own.extend(self._known(piece), row)
                return

    @property
    def _few(self) -> int:
        """Tokens of an answer that are read in the pass of the first one that is written: those
        that it goes on by where all are taken, or after a step without any."""
        return self.tokens + 1

    def _writes_for(self, answer: Answer) -> bool:
        """Not for one that it cannot read to its end, nor for one of which, once it was tried, it
        has been right too seldom: its tokens cost a share of as many of the model, and where fewer
        than that are taken, they cost more than they bring."""
        is_tried = answer.num_drafted >= _TRIED_TOKENS
        pays = not is_tried or answer.num_accepted >= self._cost * answer.num_drafted
        return pays and _num_tokens(answer) + self.tokens <= self.own_context

    def _num_unread(self, row: int, answer: Answer) -> int:
        return _num_tokens(answer) - self.own.lengths[row]

    def _unread(self, row: int, answer: Answer) -> list[int]:
        num_unread = self._num_unread(row, answer)
        if num_unread <= len(answer.tokens):
            return answer.tokens[-num_unread:]
        return [*answer.prompt, *answer.tokens][-num_unread:]

    def _known(self, tokens: Sequence[int]) -> list[int]:
        """The rows of a model may be padded beyond the tokenizer's ids, and the draft's less."""
        return [min(token, self._own_ids - 1) for token in tokens]


def _num_tokens(answer: Answer) -> int:
    """Of prompt and answer; the last one the model reads in the next step."""
    return len(answer.prompt) + len(answer.tokens)


def _num_weights(model: PreTrainedModel) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _num_ids(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config(decoder=True).vocab_size)
