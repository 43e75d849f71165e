"""The engine: one thread that joins, steps and releases the requests of a causal language model.

Between two decoding steps requests come and go (continuous batching, as Orca, OSDI 2022, calls
iteration-level scheduling). The thread owns the runner, which computes; everyone else talks to it
through `submit`, `abort` and the chunks that it delivers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from raymodel.serve.answer import Answer, Chunk
from raymodel.serve.runner import Runner, Tokens
from raymodel.serve.sampling import Sampling

log = logging.getLogger(__name__)

# After so many failed steps in a row the model is broken (a lost GPU, say), not the request.
_FAILURES_UNTIL_UNHEALTHY = 3


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
        runner: computes; closed with the engine.
        tokenizer: decodes the answers.
        ends: the tokens at which an answer ends.
        queue: requests that may wait.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: PreTrainedTokenizerBase,
        *,
        ends: frozenset[int],
        queue: int,
    ) -> None:
        self.runner = runner
        self.num_generated = 0
        self._tokenizer = tokenizer
        self._end_tokens = ends
        self._queue = queue
        self._waiting: deque[Answer] = deque()
        self._active: list[Answer] = []
        self._changed = threading.Condition()
        self._closed = False
        self._failures = 0
        self._mean_answer_s = 1.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # ---- for other threads ---------------------------------------------------------------------

    @property
    def context_tokens(self) -> int:
        """The most tokens of prompt and answer together."""
        return self.runner.context_tokens

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
        return (
            self._thread.is_alive()
            and self.runner.is_alive
            and self._failures < _FAILURES_UNTIL_UNHEALTHY
        )

    def submit(
        self,
        requests: Sequence[tuple[Sequence[int], Sampling]],
        deliver: Callable[[int, Chunk], None],
        on_slot: Callable[[], None] = lambda: None,
    ) -> list[Answer]:
        """Queues prompts, all or none.

        Args:
            requests: token ids (at least one, and room for one more unless the answer has no
                tokens) and how to sample.
            deliver: called in the engine's thread with the prompt's index and each chunk; the last
                chunk has a finish reason or an error.
            on_slot: called in the engine's thread when one of them has a slot.

        Raises:
            QueueFullError: they do not all find a place.
            EngineClosedError: the engine has ended.
        """
        answers = [
            Answer(
                list(prompt),
                sampling,
                self._decoder(sampling.shown),
                _bind(deliver, index),
                self._ends(sampling),
                on_slot,
            )
            for index, (prompt, sampling) in enumerate(requests)
        ]
        with self._changed:
            if self._closed:
                raise EngineClosedError("the engine is closed")
            free = self.runner.num_slots - len(self._active)
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

    def _decoder(self, shown: frozenset[int]) -> Callable[[Sequence[int]], str]:
        """From ids to text, in which no special tokens have a part but those that are shown."""
        tokenizer = self._tokenizer
        if not shown:
            return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True))
        hidden = set(tokenizer.all_special_ids)
        hidden |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        hidden -= shown

        def decode(ids: Sequence[int]) -> str:
            kept = [token for token in ids if token not in hidden]
            return str(tokenizer.decode(kept, skip_special_tokens=False))

        return decode

    def _ends(self, sampling: Sampling) -> frozenset[int]:
        own = frozenset() if sampling.ignore_eos else self._end_tokens
        return own | sampling.stop_token_ids

    def _retry_after_s(self) -> int:
        rounds = len(self._waiting) / self.runner.num_slots
        return min(60, max(1, round(rounds * self._mean_answer_s)))

    # ---- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while self._wait_for_work():
            self._drop_aborted()
            joining = self._next_to_join()
            try:
                if joining:
                    self._active.extend(joining)
                    for answer in joining:
                        answer.take_up()
                    self._advance(self.runner.join(joining))
                if self._active:
                    self._advance(self.runner.step())
                    self._failures = 0
            except Exception as error:  # noqa: BLE001 - the requests get it; the thread must live
                self._fail(error)
        for answer in [*self._active, *self._waiting]:
            answer.fail(EngineClosedError("the server is shutting down"))
        self.runner.close()

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._active)
            return not self._closed

    def _drop_aborted(self) -> None:
        with self._changed:
            if any(answer.is_aborted for answer in self._waiting):
                self._waiting = deque(a for a in self._waiting if not a.is_aborted)
        self._release([answer for answer in self._active if answer.is_aborted])

    def _next_to_join(self) -> list[Answer]:
        """The longest beginning of the queue that fits the free slots and one reading."""
        joining: list[Answer] = []
        with self._changed:
            free = self.runner.num_slots - len(self._active)
            while self._waiting and len(joining) < free:
                if not self.runner.fits(joining, self._waiting[0]):
                    break
                joining.append(self._waiting.popleft())
        return joining

    def _advance(self, tokens: Tokens) -> None:
        """Gives answers their next tokens, and releases those that ended."""
        ended: list[Answer] = []
        for answer, token, scored in tokens:
            if answer in ended:
                continue
            is_full = len(answer.prompt) + len(answer.tokens) >= self.context_tokens
            is_finished = answer.add(token, scored, is_full=is_full)
            self.num_generated += bool(answer.tokens)
            if is_finished:
                self._note_duration(answer)
                ended.append(answer)
        self._release(ended)

    def _release(self, ended: list[Answer]) -> None:
        if ended:
            self._active = [answer for answer in self._active if answer not in ended]
            self.runner.leave(ended)

    def _note_duration(self, answer: Answer) -> None:
        self._mean_answer_s += 0.1 * (time.monotonic() - answer.submitted_s - self._mean_answer_s)

    def _fail(self, error: Exception) -> None:
        """Gives the error to all whose state the failed step may have spoilt: those that run."""
        log.exception("a step of the engine failed; %d requests end", len(self._active))
        self._failures += 1
        failed, self._active = self._active, []
        for answer in failed:
            answer.fail(error)
        try:
            self.runner.leave(failed)
        except Exception:
            log.exception("the engine cannot free what the failed requests hold")


def _bind(deliver: Callable[[int, Chunk], None], index: int) -> Callable[[Chunk], None]:
    return lambda chunk: deliver(index, chunk)
