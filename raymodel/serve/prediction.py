"""Prediction: one answer to each input, the inputs of concurrent requests run together.

`/predict` takes the roles of any task. Beside it stand the routes that others have for an answer of
the kind: `/classify` for the classes of a text, `/v1/audio/transcriptions` for the text of a sound,
those of `retrieval.py` for vectors and scores.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import gc
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, NamedTuple

import torch
from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BeforeValidator

from raymodel.heap import give_back_freed_memory
from raymodel.model.positions import find_max_tokens
from raymodel.serve.answer_schemas import schema_of_answer
from raymodel.serve.bodies import JsonRoute
from raymodel.serve.calls import Call, find_obstacle, recorded
from raymodel.serve.capacity import WHOLE_TOKENS
from raymodel.serve.described import or_plain, schema_of
from raymodel.serve.fastest import Choice, Chooser
from raymodel.serve.fill import next_batch
from raymodel.serve.filters.chain import refused
from raymodel.serve.filters.values import admit_values, release_answers
from raymodel.serve.flow import Notices, notices
from raymodel.serve.prediction_protocol import (
    Classification,
    ClassifyRequest,
    ClassifyResponse,
    PredictRequest,
    PredictResponse,
    Transcription,
)
from raymodel.serve.protocol import check_unicode, usage
from raymodel.serve.refusal import Refusal, queue_full, timed_out, too_long
from raymodel.serve.rehearsal import Rehearsal
from raymodel.serve.retrieval import ScoreRoutes, VectorRoutes
from raymodel.serve.service import MOST_CHARS_BY_TOKEN, Service
from raymodel.serve.streams import while_connected
from raymodel.tasks.base import Answer, Features, LeftOut, Limits
from raymodel.tasks.classes import most_probable
from raymodel.tasks.fields import FILE_KINDS, Field

_UNLIMITED_INPUT_TOKENS = 4096  # for models that state no limit
_DATA_URL = "base64,"


class _Waiting(NamedTuple):
    """An input that waits for the model."""

    row: Features
    result: asyncio.Future[Answer]
    notices: Notices


class PredictionService(Service):
    """A model whose answers come whole.

    Inputs wait only while the model is busy: the next forward pass takes up to `num_rows` of
    those that came meanwhile, so a single request is never delayed in the hope of company. Which
    of them, `next_batch` says.
    """

    kind = "prediction"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = {int(index): name for index, name in (self.model.config.id2label or {}).items()}
        self.labels = [names[index] for index in sorted(names)]
        self.max_input_tokens = _find_max_tokens(self.model, self.task.processor)
        self._given = {
            role: field for role, field in self.task.fields.items() if not field.is_target
        }
        self._required = [role for role, field in self._given.items() if not field.is_optional]
        self._waiting: list[_Waiting] = []
        self._thread = ThreadPoolExecutor(1, "predictor")
        self._running: asyncio.Task[None] | None = None
        self._num_answered = 0
        self._num_batches = 0
        self._batch_s = 0.0
        dtype = str(self.model.dtype).removeprefix("torch.")
        self._computed = Choice(self.model, "transformers", dtype, "nothing else was tried")

    def router(self) -> APIRouter:
        """`/predict`, and what follows from the kind of the answers."""
        router = APIRouter(route_class=JsonRoute)
        router.post("/predict", response_model=PredictResponse)(self.predict)
        kinds = [field.kind for field in self._given.values()]
        match self.task.answers, self._required:
            case (("label" | "labels"), ["text"]):
                router.post("/classify", response_model=ClassifyResponse)(self.classify)
            case "text", [_] if kinds == ["audio"]:
                path = "/v1/audio/transcriptions"
                router.post(path, response_model=None, responses=or_plain(Transcription))(
                    self.transcribe
                )
            case "vector", [role] if kinds == ["text"]:
                VectorRoutes(self, role).add_to(router)
            case "scores", [query, document]:
                ScoreRoutes(self, (query, document)).add_to(router)
        return router

    def described(self) -> dict[str, dict[str, Any]]:
        one = {
            "type": "object",
            "properties": {role: schema_of(field) for role, field in self._given.items()},
            "required": self._required,
            "additionalProperties": False,
        }
        several = {"type": "array", "items": one, "minItems": 1}
        answers = {"type": "array", "items": schema_of_answer(self.task.answers), "minItems": 1}
        return {
            "PredictRequest": {"inputs": {"anyOf": [one, several]}},
            "PredictResponse": {"data": answers},
        }

    def state(self) -> dict[str, Any]:
        """What is asked for, labels, limits and load."""
        return {
            "fields": {role: self._given[role].kind for role in self._required},
            "optional_fields": {
                role: field.kind for role, field in self._given.items() if field.is_optional
            },
            "answers": self.task.answers,
            "labels": self.labels,
            "max_input_tokens": self.max_input_tokens,
            **self._computed.facts(),
            "waiting": len(self._waiting),
            "answered": self._num_answered,
            "batches": self._num_batches,
            "rows": self.num_rows,
        }

    def probe(self) -> None:
        self._predict([self.row(self.task.example_request(), "probe")])

    def settle(self) -> None:
        calls = self.rehearse()
        if calls is None:
            return
        chooser = Chooser(self.model, self.spec.engine, self.spec.dtype, self.spec.replicas.max)
        self._computed = chooser.choose(calls)
        gc.collect()  # of what was tried and is not taken
        give_back_freed_memory()

    def rehearse(self) -> list[Call] | None:
        """How the task calls the model, in batches as requests would bring them, the largest last;
        one call where nothing but the model can be called so (`find_obstacle`), and None for a
        task that knows no example."""
        try:
            rehearsal = Rehearsal(
                self.task.example_request(), self._given, self._example, self.count_tokens
            )
        except Refusal:  # of a user's own task; the probe has told it
            return None
        with recorded(self.model) as calls:
            self._predict([rehearsal.short], Limits(max_new_tokens=1))
            if find_obstacle(calls) is None:
                batches = rehearsal.batches(
                    self._predict, most_rows=self.num_rows, most_tokens=self.max_input_tokens
                )
                calls.clear()
                for rows in batches:
                    self._predict(rows)
        return calls

    def _example(self, given: Mapping[str, Any]) -> Features:
        return self.row(given, "probe", is_cut=True)

    @property
    def is_healthy(self) -> bool:
        return True

    def close(self) -> None:
        super().close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def question(values: Mapping[str, Any], name: str) -> tuple[str, dict[str, Any]]:
        return "/predict", {"model": name, "inputs": [dict(values)]}

    @staticmethod
    def answer(response: dict[str, Any]) -> Answer:
        [result] = response["data"]
        return dict(result)

    async def predict(self, request: Request, body: PredictRequest) -> PredictResponse:
        """What the model says to each input."""
        self.check_model(body.model)
        rows = await self.rows(body.all_inputs, "inputs")
        answers = await self.ask(request, rows, "inputs")
        return PredictResponse(
            id=f"predict-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.name,
            data=[{"index": index, **answer} for index, answer in enumerate(answers)],
            usage=usage(self.count_tokens(rows)),
        )

    async def classify(self, request: Request, body: ClassifyRequest) -> ClassifyResponse:
        """The most probable class of each text, with the probabilities of all."""
        self.check_model(body.model)
        given = [{"text": text} for text in body.texts]
        rows = await self.rows(given, "input", is_cut=body.truncate)
        answers = await self.ask(request, rows, "input")
        return ClassifyResponse(
            id=f"classify-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.name,
            data=[
                Classification(
                    index=index,
                    label=self.labels[most_probable(answer["probs"])],
                    probs=answer["probs"],
                    num_classes=len(answer["probs"]),
                )
                for index, answer in enumerate(answers)
            ],
            usage=usage(self.count_tokens(rows)),
        )

    async def transcribe(
        self,
        request: Request,
        file: Annotated[UploadFile, File()],
        model: Annotated[str, Form()],
        response_format: Annotated[Literal["json", "text"], Form()] = "json",
        stream: Annotated[Literal[False], BeforeValidator(_false), Form()] = False,
    ) -> Response:
        """What is said in a file that is sent as a form."""
        self.check_model(model)
        [role] = self._given
        row = await self.read(self._features, {role: await file.read()}, "file")
        [answer] = await self.ask(request, [row], "file")
        if "finish_reason" in answer:  # which this kind of response has no field for
            raise refused("file holds what this server does not tell", None, "file")
        if response_format == "text":
            return PlainTextResponse(answer["text"] + "\n")
        return JSONResponse({"text": answer["text"]})

    # ---- from the request to rows --------------------------------------------------------------

    async def rows(
        self, given: Sequence[Mapping[str, Any]], param: str, *, is_cut: bool = False
    ) -> list[Features]:
        """The rows of the inputs of a request, which went through the filters; read beside the
        event loop, as `row`."""
        self.check_room(len(given), param)
        if not self.filters.asked.filters:
            return await self.read(lambda: [self.row(one, param, is_cut=is_cut) for one in given])
        read = await self.read(lambda: [self.values(one, param, is_cut=is_cut) for one in given])
        kinds = {role: field.kind for role, field in self._given.items()}
        values = await admit_values(self.filters, read, kinds, param)
        most = self.max_input_tokens if is_cut else None
        return await self.read(lambda: [self._features(each, param, most) for each in values])

    def row(self, given: Mapping[str, Any], param: str, *, is_cut: bool = False) -> Features:
        """The row of an input, see `values`. Raises Refusal for nothing that can be answered."""
        values = self.values(given, param, is_cut=is_cut)
        return self._features(values, param, self.max_input_tokens if is_cut else None)

    def values(
        self, given: Mapping[str, Any], param: str, *, is_cut: bool = False
    ) -> dict[str, Any]:
        """An input, role → value, as a document has it.

        Args:
            given: the same as JSON holds it.
            param: the field of the request that it stands in.
            is_cut: a text that is too long loses its end.

        Raises:
            Refusal: it has other roles, or other values than they have.
        """
        unknown = [role for role in given if role not in self._given]
        missing = [role for role in self._required if role not in given]
        if unknown or missing:
            optional = [f"perhaps {role}" for role in self._given if role not in self._required]
            raise Refusal(
                400,
                f"an input has {ascii(sorted(given))[:80]}; this model is given "
                f"{', '.join([*self._required, *optional])}",
                param=param,
            )
        values = {
            role: _value(given[role], role, field)
            for role, field in self._given.items()
            if role in given
        }
        if is_cut:
            most = self.max_input_tokens * MOST_CHARS_BY_TOKEN
            values = {role: v[:most] if isinstance(v, str) else v for role, v in values.items()}
        elif hasattr(self.task.processor, "tokenizer"):
            self.check_chars(_num_chars(values), self.max_input_tokens, param)
        return values

    def _features(self, values: Mapping[str, Any], param: str, most: int | None = None) -> Features:
        try:
            example = self.task.features(values, most)
        except ValueError as error:
            raise Refusal(400, str(error), param=param) from error
        if isinstance(example, LeftOut):
            raise Refusal(400, f"there is nothing to answer: {example.reason}", param=param)
        num_tokens = self.count_tokens([example.features])
        if num_tokens > self.max_input_tokens:
            raise too_long(num_tokens, self.max_input_tokens, param)
        if "input_ids" in example.features and not num_tokens:
            message = f"the {param} is empty; give at least one character"
            raise Refusal(400, message, param=param)
        return example.features

    def measured(self, values: Mapping[str, Any]) -> tuple[Features, int]:
        """The row of values however long it is, and its tokens; none of what cannot be answered."""
        example = self.task.features(values, None)
        features = {} if isinstance(example, LeftOut) else example.features
        return features, self.count_tokens([features])

    @staticmethod
    def count_tokens(rows: list[Features]) -> int:
        """Of all rows."""
        return sum(len(row.get("input_ids", ())) for row in rows)

    # ---- from rows to answers ------------------------------------------------------------------

    async def ask(self, request: Request, rows: list[Features], param: str) -> list[Answer]:
        """The answers to the rows of a request, without what filters take out of them."""
        answers = await while_connected(request, self.answers(rows, param))
        notices().count(self.count_tokens(rows), 0)
        return await release_answers(self.filters, answers, self.task.answers)

    async def answers(self, rows: list[Features], param: str) -> list[Answer]:
        """The answers to rows, which wait for the model together."""
        results = self._submit(rows, param)
        try:
            async with asyncio.timeout(self.spec.timeout):
                return await asyncio.gather(*results)
        except TimeoutError:
            raise timed_out(self.spec.timeout) from None
        finally:
            for result in results:
                result.cancel()

    def compute(self, inputs: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """The answers to inputs of this process, whose texts lose what is too long; called by
        another thread than the event loop's, and in turn with requests."""

        def read() -> list[Features]:
            return [self.row(one, "input", is_cut=True) for one in inputs]

        rows = self._reader.submit(read).result()
        return self._thread.submit(self._predict, rows).result()

    def _submit(self, rows: list[Features], param: str) -> list[asyncio.Future[Answer]]:
        """Queues rows, all or none."""
        room = self.check_room(len(rows), param)
        if len(self._waiting) + len(rows) > room:
            raise queue_full(len(self._waiting), self._retry_after_s())
        loop = asyncio.get_running_loop()
        results: list[asyncio.Future[Answer]] = [loop.create_future() for _ in rows]
        told = notices()
        self._waiting += [
            _Waiting(row, result, told) for row, result in zip(rows, results, strict=True)
        ]
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return results

    async def _run(self) -> None:
        """Empties the queue, batch by batch."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._take_batch()
            if not batch:
                continue
            for each in batch:
                each.notices.begin()
            started_s = time.monotonic()
            try:
                rows = [each.row for each in batch]
                found = await loop.run_in_executor(self._thread, self._predict, rows)
            except Exception as error:  # noqa: BLE001 - those who wait get it
                for each in batch:
                    if not each.result.done():
                        each.result.set_exception(error)
                continue
            self._batch_s = time.monotonic() - started_s
            self._num_answered += len(batch)
            self._num_batches += 1
            for each, answer in zip(batch, found, strict=True):
                if not each.result.done():
                    each.result.set_result(answer)

    def _take_batch(self) -> list[_Waiting]:
        """Those of the queue that are computed next, without those that nobody waits for."""
        waiting = [each for each in self._waiting if not each.result.done()]
        if not waiting:
            self._waiting.clear()
            return []
        taken = next_batch(
            [self.count_tokens([each.row]) for each in waiting],
            self.num_rows,
            self._computed.pass_tokens,
        )
        left = set(range(len(waiting))).difference(taken)
        self._waiting[:] = [waiting[place] for place in sorted(left)]
        return [waiting[place] for place in taken]

    def _retry_after_s(self) -> int:
        """When those that wait are answered, batch after batch, each as long as the last."""
        return max(1, math.ceil(len(self._waiting) / self.num_rows * self._batch_s))

    @torch.inference_mode()
    def _predict(self, rows: list[Features], limits: Limits | None = None) -> list[Answer]:
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
        limits = limits or Limits(
            max_new_tokens=self.spec.max_tokens or WHOLE_TOKENS, beams=self.spec.beams
        )
        return self.task.predict(self._computed.model, columns, limits)


def _false(given: Any) -> Any:
    """In a form all is text, `false` too."""
    return False if isinstance(given, str) and given.lower() == "false" else given


def _value(value: Any, role: str, field: Field) -> Any:
    """What stands for a role in a request, as a document has it."""
    if field.kind in ("texts", "words"):
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return [_text(word, role) for word in value]
        raise Refusal(400, f"{role} is not a list of texts", param=role)
    if not isinstance(value, str):
        raise Refusal(400, f"{role} is {ascii(value)[:80]}; give a text", param=role)
    if field.kind not in FILE_KINDS:
        return _text(value, role)
    try:
        return base64.b64decode(value.rpartition(_DATA_URL)[2], validate=True)
    except (binascii.Error, ValueError):
        message = f"{role} is no base64; give the bytes of a file ({field.kind}) in base64"
        raise Refusal(400, message, param=role) from None


def _num_chars(values: Mapping[str, Any]) -> int:
    """Of all texts among the values."""
    texts = [value for value in values.values() if isinstance(value, str)]
    lists = [value for value in values.values() if isinstance(value, list)]
    return sum(map(len, texts)) + sum(len(text) for several in lists for text in several)


def _text(value: str, role: str) -> str:
    try:
        return check_unicode(value)
    except ValueError as error:
        raise Refusal(400, f"{role} is {ascii(value)[:80]}: {error}", param=role) from None


def _find_max_tokens(model: Any, processor: Any) -> int:
    tokenizer = getattr(processor, "tokenizer", None)
    longest = getattr(tokenizer, "model_max_length", None)
    limits = [
        find_max_tokens(model.config.to_dict()),
        # Above this, transformers means "not known".
        longest if longest is not None and longest < 10**7 else None,
    ]
    return min([limit for limit in limits if limit], default=_UNLIMITED_INPUT_TOKENS)
