"""The engine: one thread that joins, steps and releases the requests of a causal language model.

Between two decoding steps requests come and go (continuous batching, as Orca, OSDI 2022, calls
iteration-level scheduling). The thread owns the model; everyone else talks to it through `submit`,
`abort` and the chunks that it delivers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from raymodel.serve.answer import Answer, Chunk
from raymodel.serve.decoder import build_decoder
from raymodel.serve.sampling import Sampling, choose_tokens
from raymodel.tasks.boundaries import end_tokens

log = logging.getLogger(__name__)

# Prompt tokens read between two decoding steps: bounds how long running answers stand still.
_PREFILL_TOKENS = 2048
# Prompts are read together while padding them to the longest costs at most this factor.
_PADDING_FACTOR = 1.5
# After so many failed steps in a row the model is broken (a lost GPU, say), not the request.
_FAILURES_UNTIL_UNHEALTHY = 3
_UNLIMITED_CONTEXT_TOKENS = 4096  # for models that state no limit


class QueueFullError(Exception):
    """No place is left to wait. `retry_after_s` estimates when there will be one."""

    def __init__(self, num_waiting: int, retry_after_s: int) -> None:
        super().__init__(num_waiting, retry_after_s)
        self.num_waiting = num_waiting
        self.retry_after_s = retry_after_s


class EngineClosedError(Exception):
    """The engine was closed while the request ran or before it came."""


class Engine:
    """Generates for many requests at once.

    Args:
        model: in eval mode, on its device.
        tokenizer: decodes the answers.
        batch: requests that run at the same time.
        queue: requests that may wait.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch: int, queue: int
    ) -> None:
        self.context_tokens = find_context_tokens(model, tokenizer)
        self.num_generated = 0
        self._decode_ids = lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))
        self._end_tokens = end_tokens(model, tokenizer)
        self._queue = queue
        self._decoder = build_decoder(model, batch, self.context_tokens)
        self._waiting: deque[Answer] = deque()
        self._active: list[Answer] = []  # in the order of the decoder's rows
        self._changed = threading.Condition()
        self._closed = False
        self._failures = 0
        self._mean_answer_s = 1.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # ---- for other threads ---------------------------------------------------------------------

    @property
    def mode(self) -> str:
        """How requests are run: `continuous batching` or `one request at a time`."""
        return self._decoder.mode

    @property
    def num_active(self) -> int:
        """Requests that run now."""
        return len(self._active)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    @property
    def is_healthy(self) -> bool:
        """False once the thread has ended, or the model fails at every step."""
        return self._thread.is_alive() and self._failures < _FAILURES_UNTIL_UNHEALTHY

    def submit(
        self,
        requests: Sequence[tuple[Sequence[int], Sampling]],
        deliver: Callable[[int, Chunk], None],
    ) -> list[Answer]:
        """Queues prompts, all or none.

        Args:
            requests: token ids (at least one, and room for one more) and how to sample.
            deliver: called in the engine's thread with the prompt's index and each chunk; the last
                chunk has a finish reason or an error.

        Raises:
            QueueFullError: they do not all find a place.
            EngineClosedError: the engine has ended.
        """
        answers = [
            Answer(list(prompt), sampling, self._decode_ids, _bind(deliver, index))
            for index, (prompt, sampling) in enumerate(requests)
        ]
        with self._changed:
            if self._closed:
                raise EngineClosedError("the engine is closed")
            free = self._decoder.num_slots - len(self._active)
            if len(self._waiting) + len(answers) > self._queue + max(0, free):
                raise QueueFullError(len(self._waiting), self._retry_after_s())
            self._waiting.extend(answers)
            self._changed.notify()
        return answers

    def abort(self, answers: Sequence[Answer]) -> None:
        """Ends answers nobody waits for; their slots are free before the next step."""
        with self._changed:
            for answer in answers:
                answer.is_aborted = True
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread after the step under way; unfinished answers get an error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _retry_after_s(self) -> int:
        rounds = len(self._waiting) / self._decoder.num_slots
        return min(60, max(1, round(rounds * self._mean_answer_s)))

    # ---- the thread ----------------------------------------------------------------------------

    @torch.inference_mode()
    def _run(self) -> None:
        while self._wait_for_work():
            self._drop_aborted()
            joining = self._next_to_join()
            try:
                if joining:
                    self._join(joining)
                if self._active:
                    self._step()
            except Exception as error:  # noqa: BLE001 - the requests get it; the thread must live
                self._fail(joining, error)
        for answer in [*self._active, *self._waiting]:
            answer.fail(EngineClosedError("the server is shutting down"))

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._active)
            return not self._closed

    def _drop_aborted(self) -> None:
        with self._changed:
            if any(answer.is_aborted for answer in self._waiting):
                self._waiting = deque(a for a in self._waiting if not a.is_aborted)
        for row in range(len(self._active) - 1, -1, -1):
            if self._active[row].is_aborted:
                self._release(row)

    def _next_to_join(self) -> list[Answer]:
        """The longest beginning of the queue that fits the free slots and one prefill."""
        joining: list[Answer] = []
        with self._changed:
            free = self._decoder.num_slots - len(self._active)
            while self._waiting and len(joining) < free:
                lengths = [len(answer.prompt) for answer in [*joining, self._waiting[0]]]
                padded = max(lengths) * len(lengths)
                if joining and padded > min(_PREFILL_TOKENS, _PADDING_FACTOR * sum(lengths)):
                    break
                joining.append(self._waiting.popleft())
        return joining

    def _join(self, joining: list[Answer]) -> None:
        logits = self._decoder.prefill([answer.prompt for answer in joining])
        first_row = len(self._active)
        self._active.extend(joining)
        self._advance(first_row, logits)

    def _step(self) -> None:
        self._advance(0, self._decoder.step([answer.tokens[-1] for answer in self._active]))
        self._failures = 0

    def _advance(self, first_row: int, logits: torch.Tensor) -> None:
        """Gives the rows from `first_row` on their next token, and releases those that ended."""
        answers = self._active[first_row:]
        tokens = choose_tokens(logits, [a.sampling for a in answers], [a.draws for a in answers])
        self.num_generated += len(tokens)
        lengths = self._decoder.lengths
        # From the last row down: releasing moves the last row, which has been dealt with, forward.
        for row in range(len(self._active) - 1, first_row - 1, -1):
            is_full = lengths[row] >= self.context_tokens
            answer, token = self._active[row], tokens[row - first_row]
            if answer.add(token, is_end=token in self._end_tokens, is_full=is_full):
                self._note_duration(answer)
                self._release(row)

    def _release(self, row: int) -> None:
        self._decoder.release(row)
        self._active[row] = self._active[-1]
        self._active.pop()

    def _note_duration(self, answer: Answer) -> None:
        self._mean_answer_s += 0.1 * (time.monotonic() - answer.submitted_s - self._mean_answer_s)

    def _fail(self, joining: list[Answer], error: Exception) -> None:
        """Gives the error to all whose state the failed step may have spoilt: those that run."""
        log.exception("a step of the engine failed; %d requests end", len(self._active))
        self._failures += 1
        for answer in {id(a): a for a in [*joining, *self._active]}.values():
            answer.fail(error)
        while self._decoder.lengths:
            self._decoder.release(len(self._decoder.lengths) - 1)
        self._active.clear()


def find_context_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens of prompt and answer together; 4,096 for a model that states no limit."""
    config = model.config.get_text_config(decoder=True)
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None and tokenizer.model_max_length < 10**7:  # above it means "not known"
        limit = tokenizer.model_max_length
    return int(limit or _UNLIMITED_CONTEXT_TOKENS)


def _bind(deliver: Callable[[int, Chunk], None], index: int) -> Callable[[Chunk], None]:
    return lambda chunk: deliver(index, chunk)
