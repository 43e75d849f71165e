"""From the engine's thread to asyncio: the chunks of one HTTP request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from raymodel.serve.answer import Chunk
from raymodel.serve.engine import Engine, EngineClosedError, QueueFullError
from raymodel.serve.flow import notices
from raymodel.serve.post import post_here
from raymodel.serve.refusal import Refusal, queue_full, timed_out
from raymodel.serve.sampling import Sampling

T = TypeVar("T")


class AnswerStream:
    """Submits a request's prompts and yields `(index, chunk)` as they are made.

    Who is behind gets all that has come meanwhile of an answer as one chunk, and so does everyone
    where events cost the server too much, see `Post`; never the first and the last of an answer.

    Args:
        requests: prompts and samplings, those of one prompt behind one another.
        num_choices: answers to each prompt.

    Must be made in the event loop that reads it, and closed at the end, however it comes: that
    frees the slots of what nobody reads any more.

    Raises:
        Refusal: 503 when the queue is full or the engine has ended.
    """

    def __init__(
        self,
        engine: Engine,
        requests: Sequence[tuple[Sequence[int], Sampling]],
        timeout_s: float,
        *,
        num_choices: int = 1,
    ) -> None:
        self._post = post_here()
        self._engine = engine
        self._chunks: dict[int, Chunk] = {}
        """What was not read yet, by its answer, in the order in which it began to come."""
        self._may_go = asyncio.Event()
        """Set while what is there, if anything, may go out."""
        self._begun: set[int] = set()
        self._first: tuple[int, Chunk] | None = None
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self._num_open = len(requests)
        self._ended: set[int] = set()
        self._notices = notices()
        self.num_prompt_tokens = sum(len(prompt) for prompt, _ in requests) // num_choices
        """Each prompt counts once."""
        self.num_tokens = [0] * len(requests)
        """Tokens generated for each request so far."""
        try:
            self._answers = engine.submit(
                requests,
                lambda index, chunk: self._post.put(self._put, index, chunk),
                lambda: self._post.put(self._notices.take_up),
            )
        except QueueFullError as error:
            raise queue_full(error.num_waiting, error.retry_after_s) from error
        except EngineClosedError as error:
            raise Refusal(503, f"{error}; try again", retry_after_s=1) from error

    @property
    def is_open(self) -> bool:
        """Whether more comes of one of them."""
        return self._num_open > 0

    async def wait_for_first(self) -> None:
        """Returns once the first chunk is there, so that an error can still set the status."""
        self._first = await self._take()

    def __aiter__(self) -> AnswerStream:
        return self

    async def __anext__(self) -> tuple[int, Chunk]:
        """Raises Refusal: 504 past the deadline, 500 when the model failed."""
        if self._first is not None:
            item, self._first = self._first, None
        elif self._num_open:
            item = await self._take()
        else:
            raise StopAsyncIteration
        index, chunk = item
        self.num_tokens[index] = chunk.num_tokens
        if chunk.finish_reason is not None:
            self._close_one(index)
        return item

    def end(self, index: int) -> None:
        """Ends one of the answers, of which no more chunks come."""
        if index not in self._ended:
            self._engine.abort([self._answers[index]])
            self._chunks.pop(index, None)
            self._close_one(index)

    def _close_one(self, index: int) -> None:
        self._ended.add(index)
        self._num_open -= 1
        if not self._num_open:
            self._notices.count(
                self.num_prompt_tokens,
                sum(self.num_tokens),
                sum(answer.num_drafted for answer in self._answers),
                sum(answer.num_accepted for answer in self._answers),
            )

    def _put(self, index: int, chunk: Chunk) -> None:
        if index in self._ended:  # it was on its way when it was ended
            return
        before = self._chunks.get(index)
        self._chunks[index] = chunk if before is None else before + chunk
        self._post.pace.came((id(self), index))
        is_last = chunk.finish_reason is not None or chunk.error is not None
        if is_last or index not in self._begun:
            self._begun.add(index)
            self._may_go.set()
        elif before is None:
            self._post.hold(self._may_go.set)

    async def _take(self) -> tuple[int, Chunk]:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:  # also of one that always finds something here, as it is behind
            raise timed_out(self._timeout_s)
        try:
            async with asyncio.timeout(left_s):
                while not (self._chunks and self._may_go.is_set()):
                    self._may_go.clear()
                    await self._may_go.wait()
        except TimeoutError:
            raise timed_out(self._timeout_s) from None
        self._notices.begin()
        self._post.pace.went()
        index = next(iter(self._chunks))
        chunk = self._chunks.pop(index)
        if not self._chunks:
            self._may_go.clear()
        if chunk.error is not None and chunk.text:  # what came before it goes out before it
            self._put(index, Chunk("", chunk.num_tokens, error=chunk.error))
            return index, chunk._replace(error=None)
        if isinstance(chunk.error, EngineClosedError):
            raise Refusal(503, f"{chunk.error}; try again", retry_after_s=1)
        if chunk.error is not None:
            raise Refusal(
                500,
                f"the model failed with {type(chunk.error).__name__}; the server's log has more",
                code="model_failed",
            )
        return index, chunk

    def close(self) -> None:
        """Ends what still runs."""
        if self._num_open:
            self._engine.abort(self._answers)


class EventStream(StreamingResponse):
    """Server-sent events whose `on_close` runs at the end, at an error, and at a disconnect."""

    media_type = "text/event-stream"

    def __init__(self, events: object, on_close: Callable[[], None]) -> None:
        # `no` keeps a proxy in front (nginx) from collecting the events.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers)  # type: ignore[arg-type]
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_close()


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`; cancels it and raises ClientDisconnect when the client leaves first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
