"""Generation: OpenAI's completions and chat completions over the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import torch
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from raymodel.serve.bodies import JsonRoute
from raymodel.serve.chat import PLAIN_STOPS, render_chat
from raymodel.serve.choice import build_engine
from raymodel.serve.protocol import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    Message,
    TokenizeRequest,
    TokenizeResponse,
    usage,
)
from raymodel.serve.refusal import Refusal, too_long
from raymodel.serve.sampling import Sampling
from raymodel.serve.service import Service
from raymodel.serve.shapes import AnswerShape, ChatShape, CompletionShape, event
from raymodel.serve.streams import AnswerStream, EventStream, while_connected
from raymodel.tasks.base import Answer
from raymodel.tasks.boundaries import first_token


class GenerationService(Service):
    """A causal language model."""

    kind = "generation"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokenizer = self.task.processor.tokenizer
        self._format = self.task.processor.chat
        self.engine, self._engine_reason = build_engine(
            self.model,
            self.tokenizer,
            batch=self.spec.batch,
            queue=self.spec.queue,
            asked=self.spec.engine,
            weights=self.spec.weights,
            replicas=self.spec.replicas.max,
        )
        # Rows of the output layer may be padded beyond the tokenizer's ids, never the reverse.
        self._vocab_size = self.model.config.get_text_config(decoder=True).vocab_size

    def router(self) -> APIRouter:
        """`/v1/completions`, `/v1/chat/completions` and `/tokenize`."""
        router = APIRouter(route_class=JsonRoute)
        router.post("/v1/completions", response_model=None)(self.complete)
        router.post("/v1/chat/completions", response_model=None)(self.chat)
        router.post("/tokenize", response_model=TokenizeResponse)(self.tokenize)
        return router

    def state(self) -> dict[str, Any]:
        """What is asked for, mode, limits and load."""
        given = {r: field.kind for r, field in self.task.fields.items() if not field.is_target}
        return {
            "fields": given,
            **self.engine.runner.facts(),
            "engine_reason": self._engine_reason,
            "chat_template": "model" if self._format.has_template else "plain",
            "context_tokens": self.engine.context_tokens,
            "max_tokens": self.spec.max_tokens,
            "active": self.engine.num_active,
            "waiting": self.engine.num_waiting,
            "generated_tokens": self.engine.num_generated,
        }

    @torch.inference_mode()
    def probe(self) -> None:
        ids = torch.arange(min(8, self._vocab_size, self.engine.context_tokens))
        self.model(input_ids=ids[None].to(self.model.device))

    @property
    def is_healthy(self) -> bool:
        return self.engine.is_healthy

    @property
    def needs_model(self) -> bool:
        return self.engine.runner.needs_model

    def close(self) -> None:
        super().close()
        self.engine.close()

    @staticmethod
    def question(values: Mapping[str, Any], name: str) -> tuple[str, dict[str, Any]]:
        path = "/v1/chat/completions" if "messages" in values else "/v1/completions"
        return path, {"model": name, "temperature": 0, **values}

    @staticmethod
    def answer(response: dict[str, Any]) -> Answer:
        [choice] = response["choices"]
        return {"text": choice["message"]["content"] if "message" in choice else choice["text"]}

    async def complete(self, request: Request, body: CompletionRequest) -> Response:
        """Goes on with one text, or with several."""
        self.check_model(body.model)
        prompts = await self.read(self._prompts, body.prompt)
        return await self._respond(request, body, prompts, CompletionShape(self.name))

    async def chat(self, request: Request, body: ChatRequest) -> Response:
        """Answers a conversation."""
        self.check_model(body.model)
        prompt = await self._render(body.messages)
        stops = () if self._format.has_template else PLAIN_STOPS
        return await self._respond(request, body, [prompt], ChatShape(self.name), stops)

    async def tokenize(self, body: TokenizeRequest) -> TokenizeResponse:
        """What the model would read."""
        self.check_model(body.model)
        if body.messages is not None:
            tokens = await self._render(body.messages)
        else:
            tokens = await self.read(self._tokens, body.prompt)
        context = self.engine.context_tokens
        return TokenizeResponse(count=len(tokens), max_model_len=context, tokens=tokens)

    # ---- from the request to the engine --------------------------------------------------------

    async def _render(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation."""
        num_chars = sum(len(message.turn["content"]) for message in messages)
        self.check_chars(num_chars, self.engine.context_tokens, "messages")
        return await self.read(render_chat, self._format, messages)

    def _prompts(self, prompt: str | list[str] | list[int] | list[list[int]]) -> list[list[int]]:
        """Token ids of each prompt; an empty text begins with the model's first token."""
        is_one = isinstance(prompt, str) or isinstance(prompt[0], int)
        self.check_room(1 if is_one else len(prompt), "prompt")
        return [self._tokens(item) for item in ([prompt] if is_one else prompt)]  # type: ignore[arg-type]

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            self.check_chars(len(prompt), self.engine.context_tokens, "prompt")
        ids: list[int] = self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        if not ids:
            return self._empty_prompt()
        for token in ids:
            if not 0 <= token < self._vocab_size:
                raise Refusal(
                    400,
                    f"the prompt holds the token id {token}; this model's ids go from 0 to "
                    f"{self._vocab_size - 1}",
                    param="prompt",
                )
        return ids

    def _empty_prompt(self) -> list[int]:
        first = first_token(self.tokenizer)
        if first is not None:
            return [first]
        raise Refusal(400, "the prompt is empty; give at least one character", param="prompt")

    def _sampling(
        self, body: GenerationRequest, prompt: Sequence[int], stops: tuple[str, ...]
    ) -> Sampling:
        context = self.engine.context_tokens
        if len(prompt) >= context:
            raise too_long(len(prompt), context - 1, "prompt")
        name = "max_tokens"
        asked = body.max_tokens
        if isinstance(body, ChatRequest) and body.max_completion_tokens is not None:
            name, asked = "max_completion_tokens", body.max_completion_tokens
        if asked is not None and asked > self.spec.max_tokens:
            raise Refusal(
                400,
                f"{name} is {asked}; this server writes at most {self.spec.max_tokens} "
                "(serve.max_tokens)",
                param=name,
            )
        room = context - len(prompt)
        if asked is not None and asked > room:
            raise Refusal(
                400,
                f"the prompt has {len(prompt)} tokens and {name} is {asked}; together they may "
                f"be at most {context}. Shorten the prompt, or ask for at most {room}",
                param=name,
                code="context_length_exceeded",
            )
        return Sampling(
            max_tokens=min(room, self.spec.max_tokens) if asked is None else asked,
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=body.seed,
            stop=body.stops + stops,
        )

    # ---- from the engine to the response -------------------------------------------------------

    async def _respond(
        self,
        request: Request,
        body: GenerationRequest,
        prompts: list[list[int]],
        shape: AnswerShape,
        stops: tuple[str, ...] = (),
    ) -> Response:
        requests = [(prompt, self._sampling(body, prompt, stops)) for prompt in prompts]
        num_prompt_tokens = sum(map(len, prompts))
        answers = AnswerStream(self.engine, requests, self.spec.timeout)
        try:
            if body.stream:
                await while_connected(request, answers.wait_for_first())
                events = _events(answers, shape, num_prompt_tokens, body.includes_usage)
                return EventStream(events, on_close=answers.close)
            texts = await while_connected(request, _collect(answers, len(prompts)))
        except BaseException:  # a disconnect is a cancellation
            answers.close()
            raise
        return JSONResponse(shape.whole(texts, usage(num_prompt_tokens, sum(answers.num_tokens))))


async def _collect(answers: AnswerStream, num_prompts: int) -> list[tuple[str, str]]:
    """(text, finish reason) of each prompt."""
    texts, reasons = [""] * num_prompts, [""] * num_prompts
    async for index, chunk in answers:
        texts[index] += chunk.text
        reasons[index] = chunk.finish_reason or ""
    return list(zip(texts, reasons, strict=True))


async def _events(
    answers: AnswerStream, shape: AnswerShape, num_prompt_tokens: int, with_usage: bool
) -> AsyncIterator[bytes]:
    """The whole stream; an error that comes after its start is an event too."""
    begun: set[int] = set()
    try:
        async for index, chunk in answers:
            is_first = index not in begun
            begun.add(index)
            yield event(shape.chunk(index, chunk.text, chunk.finish_reason, is_first=is_first))
        if with_usage:
            yield event(shape.usage_chunk(usage(num_prompt_tokens, sum(answers.num_tokens))))
    except Refusal as refusal:
        yield event(refusal.body())
    yield event("[DONE]")
