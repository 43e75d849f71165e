"""Classification: `/classify`, with the inputs of concurrent requests run together."""

from __future__ import annotations

import asyncio
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from fastapi import APIRouter, Request

from raymodel.serve.protocol import Classification, ClassifyRequest, ClassifyResponse, usage
from raymodel.serve.refusal import Refusal, queue_full, timed_out, too_long
from raymodel.serve.service import Service
from raymodel.serve.streams import while_connected
from raymodel.tasks.batch import pad_id, pad_right

_UNLIMITED_INPUT_TOKENS = 4096  # for models that state no limit


class ClassificationService(Service):
    """A model with a classification head.

    Inputs wait only while the model is busy: the next forward pass takes up to `spec.batch` of
    those that came meanwhile, so a single request is never delayed in the hope of company.
    """

    kind = "classification"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = {int(index): name for index, name in (self.model.config.id2label or {}).items()}
        self.labels = [names[index] for index in sorted(names)]
        self.max_input_tokens = _find_max_tokens(self.model, self.tokenizer)
        self._waiting: list[tuple[list[int], asyncio.Future[list[float]]]] = []
        self._thread = ThreadPoolExecutor(1, "classifier")
        self._running: asyncio.Task[None] | None = None
        self._num_answered = 0

    def router(self) -> APIRouter:
        """`/classify`."""
        router = APIRouter()
        router.post("/classify", response_model=ClassifyResponse)(self.classify)
        return router

    def state(self) -> dict[str, Any]:
        """Labels, limits and load."""
        return {
            "labels": self.labels,
            "max_input_tokens": self.max_input_tokens,
            "waiting": len(self._waiting),
            "answered": self._num_answered,
        }

    @property
    def is_healthy(self) -> bool:
        return True

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def question(prompt: str, name: str) -> tuple[str, dict[str, Any]]:
        return "/classify", {"model": name, "input": prompt}

    @staticmethod
    def answer(response: dict[str, Any]) -> str:
        [result] = response["data"]
        return f"{result['label']} ({max(result['probs']):.0%})"

    async def classify(self, request: Request, body: ClassifyRequest) -> ClassifyResponse:
        """The label of each input, with the probabilities of all labels."""
        self.check_model(body.model)
        rows = [self._tokens(text) for text in body.texts]
        results = self._submit(rows)
        try:
            async with asyncio.timeout(self.spec.timeout):
                probabilities = await while_connected(request, asyncio.gather(*results))
        except TimeoutError:
            raise timed_out(self.spec.timeout) from None
        finally:
            for result in results:
                result.cancel()
        return self._response(probabilities, sum(map(len, rows)))

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        if len(ids) > self.max_input_tokens:
            raise too_long(len(ids), self.max_input_tokens, "input")
        if not ids:
            raise Refusal(400, "the input is empty; give at least one character", param="input")
        return ids

    def _submit(self, rows: list[list[int]]) -> list[asyncio.Future[list[float]]]:
        """Queues rows, all or none."""
        room = self.spec.queue + self.spec.batch
        if len(rows) > room:
            raise Refusal(
                400,
                f"input has {len(rows)} texts; this server takes at most {room} in one request",
                param="input",
            )
        if len(self._waiting) + len(rows) > room:
            raise queue_full(len(self._waiting), retry_after_s=1)
        loop = asyncio.get_running_loop()
        results: list[asyncio.Future[list[float]]] = [loop.create_future() for _ in rows]
        self._waiting.extend(zip(rows, results, strict=True))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return results

    async def _run(self) -> None:
        """Empties the queue, batch by batch."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._waiting[: self.spec.batch]
            del self._waiting[: self.spec.batch]
            batch = [(row, result) for row, result in batch if not result.done()]
            if not batch:
                continue
            try:
                rows = [row for row, _ in batch]
                found = await loop.run_in_executor(self._thread, self._probabilities, rows)
            except Exception as error:  # noqa: BLE001 - those who wait get it
                for _, result in batch:
                    if not result.done():
                        result.set_exception(error)
                continue
            self._num_answered += len(batch)
            for (_, result), probabilities in zip(batch, found, strict=True):
                if not result.done():
                    result.set_result(probabilities)

    @torch.inference_mode()
    def _probabilities(self, rows: list[list[int]]) -> list[list[float]]:
        """(rows, classes), summing to one unless the labels are independent."""
        padded = pad_right(rows, pad_id(self.tokenizer))
        # Rounded-up padding may reach beyond the last position that the model knows.
        input_ids, mask = (tensor[:, : self.max_input_tokens] for tensor in padded)
        device = self.model.device
        output = self.model(input_ids=input_ids.to(device), attention_mask=mask.to(device))
        logits = output.logits.float()
        independent = self.model.config.problem_type == "multi_label_classification"
        if independent or len(self.labels) == 1:
            return logits.sigmoid().tolist()  # type: ignore[no-any-return]
        return logits.softmax(-1).tolist()  # type: ignore[no-any-return]

    def _response(self, probabilities: list[list[float]], num_tokens: int) -> ClassifyResponse:
        data = [
            Classification(
                index=index,
                label=self.labels[row.index(max(row))],
                probs=row,
                num_classes=len(row),
            )
            for index, row in enumerate(probabilities)
        ]
        return ClassifyResponse(
            id=f"classify-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.name,
            data=data,
            usage=usage(num_tokens),
        )


def _find_max_tokens(model: Any, tokenizer: Any) -> int:
    limits = [
        getattr(model.config, "max_position_embeddings", None),
        # Above this, transformers means "not known".
        tokenizer.model_max_length if tokenizer.model_max_length < 10**7 else None,
    ]
    return min([limit for limit in limits if limit], default=_UNLIMITED_INPUT_TOKENS)
