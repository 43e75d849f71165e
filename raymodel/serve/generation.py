"""Generation: OpenAI's completions, chat completions and responses over the engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from transformers import PreTrainedModel

from raymodel.errors import ClusterError, FormError
from raymodel.modality.chat import Tool, Turn
from raymodel.serve.answer_protocol import ChatCompletion, Completion, ModelResponse
from raymodel.serve.asked import Asked
from raymodel.serve.bodies import JsonRoute
from raymodel.serve.capacity import find_draft_tokens, longest_answer, unasked_answer
from raymodel.serve.chat import PLAIN_STOPS, render_chat
from raymodel.serve.choice import build_engine
from raymodel.serve.described import or_events
from raymodel.serve.draft import DraftModel
from raymodel.serve.filters.outlet import FilteredPieces
from raymodel.serve.filters.values import admit_turns, admit_whole
from raymodel.serve.generation_protocol import (
    ChatRequest,
    CompletionRequest,
    TokenizeRequest,
    TokenizeResponse,
)
from raymodel.serve.message_protocol import read_turns
from raymodel.serve.pieces import Echo, Pieces, TokenTexts
from raymodel.serve.protocol import usage
from raymodel.serve.refusal import Refusal, too_long
from raymodel.serve.responses_protocol import ResponsesRequest
from raymodel.serve.responses_shape import ResponseShape
from raymodel.serve.sampling import Sampling
from raymodel.serve.sampling_protocol import SamplingRequest
from raymodel.serve.service import Service
from raymodel.serve.shapes import AnswerShape, ChatShape, CompletionShape
from raymodel.serve.streams import AnswerStream, EventStream, while_connected
from raymodel.serve.tool_protocol import ToolEntry
from raymodel.serve.tool_shape import ToolChatShape
from raymodel.serve.tools import Offer, ToolUse, has_calls
from raymodel.tasks.base import Answer
from raymodel.tasks.boundaries import first_token


class GenerationService(Service):
    """A causal language model.

    Args:
        draft: the name of the model that `spec.draft` means, and that model, on the device of the
            other.
    """

    kind = "generation"

    def __init__(
        self, *args: Any, draft: tuple[str, PreTrainedModel] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.tokenizer = self.task.processor.tokenizer
        self._format = self.task.processor.chat
        self._tools = ToolUse(self._format)
        self.engine, self._engine_reason = build_engine(
            self.model,
            self.tokenizer,
            batch=self.spec.batch,
            queue=self.spec.queue,
            asked=self.spec.engine,
            weights=self.spec.weights,
            replicas=self.spec.replicas.max,
            load=lambda: self.reload(),
            draft=None if draft is None else self._as_draft(*draft),
        )
        self._texts = TokenTexts(self.tokenizer)
        self._asked = Asked(
            context_tokens=self.engine.context_tokens,
            max_tokens=longest_answer(self.spec, self.engine.context_tokens),
            unasked_tokens=unasked_answer(self.spec, self.engine.context_tokens),
            # Rows of the output layer may be padded beyond the tokenizer's ids, never the reverse.
            vocab_size=self.model.config.get_text_config(decoder=True).vocab_size,
        )

    def _as_draft(self, name: str, draft: PreTrainedModel) -> DraftModel:
        assert self.spec.draft is not None, "it names the draft"
        numbers = (sum(p.numel() for p in model.parameters()) for model in (draft, self.model))
        return DraftModel(draft, find_draft_tokens(self.spec.draft.tokens, *numbers), name)

    def router(self) -> APIRouter:
        """OpenAI's three ways of asking for text, and `/tokenize`."""
        router = APIRouter(route_class=JsonRoute)
        for path, answer, whole in (
            ("/v1/completions", self.complete, Completion),
            ("/v1/chat/completions", self.chat, ChatCompletion),
            ("/v1/responses", self.respond, ModelResponse),
        ):
            router.post(path, response_model=None, responses=or_events(whole))(answer)
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
            "tools": self._tools.told,
            "context_tokens": self.engine.context_tokens,
            "max_tokens": self._asked.max_tokens,
            "unasked_tokens": self._asked.unasked_tokens,
            "rows": self.num_rows,
            "active": self.engine.num_active,
            "waiting": self.engine.num_waiting,
            "generated_tokens": self.engine.num_generated,
        }

    @torch.inference_mode()
    def probe(self) -> None:
        ids = torch.arange(min(8, self._asked.vocab_size, self.engine.context_tokens))
        self.model(input_ids=ids[None].to(self.model.device))

    @property
    def num_rows(self) -> int:
        return self.engine.runner.num_slots

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
        sent = await self._admit_prompts(body.prompts)
        prompts = await self.read(self._prompts, sent)
        samplings = [self._asked.sampling(body, len(prompt)) for prompt in prompts]
        echoes = None
        if body.echo:
            echoes = await self.read(self._echoes, body, sent, prompts)
        shape = CompletionShape(self.name, self._texts_of(body), with_usage=body.includes_usage)
        return await self._respond(request, body, prompts, samplings, shape, echoes)

    async def chat(self, request: Request, body: ChatRequest) -> Response:
        """Answers a conversation."""
        self.check_model(body.model)
        turns = await self._admit_turns(read_turns(body.messages), "messages", body.tools)
        offer, prompt, sampling = await self.read(self._read_offering, body, turns)
        told: Any = (self.name, self._texts_of(body))
        shape = (
            ChatShape(*told, with_usage=body.includes_usage)
            if offer is None
            else ToolChatShape(*told, with_usage=body.includes_usage, offer=offer)
        )
        return await self._respond(request, body, [prompt], [sampling], shape)

    def _read_offering(
        self, body: ChatRequest, turns: Sequence[Turn]
    ) -> tuple[Offer | None, list[int], Sampling]:
        offer = self._tools.offer(body)
        return offer, *self.read_chat(body, offer, turns)

    def read_chat(
        self,
        body: ChatRequest,
        offer: Offer | None = None,
        turns: Sequence[Turn] | None = None,
    ) -> tuple[list[int], Sampling]:
        """The token ids of a conversation, and how it is answered.

        Args:
            offer: functions that may be called.
            turns: the conversation after the filters; by default as it was sent.

        Raises:
            Refusal: 400 for what cannot be read or answered.
        """
        shown = None if offer is None else offer.shown
        turns = read_turns(body.messages) if turns is None else turns
        prompt = self._turn_ids(turns, "messages", shown)
        given = (body, len(prompt), self._chat_stops, "messages")
        if offer is None:
            return prompt, self._asked.sampling(*given)
        wanted = offer.answer_form
        name = "tools" if offer.choice == "auto" else "tool_choice"
        sampling = self._asked.sampling(*given, form=wanted and (name, wanted))
        return prompt, replace(sampling, shown=frozenset(offer.form.special.values()))

    async def respond(self, request: Request, body: ResponsesRequest) -> Response:
        """Answers a text or a conversation."""
        self.check_model(body.model)
        prompt = await self._render(await self._admit_turns(body.turns, "input"), "input")
        sampling = self._asked.sampling(body, len(prompt), self._chat_stops, "input")
        shape = ResponseShape(self.name, body, self._texts_of(body))
        return await self._respond(request, body, [prompt], [sampling], shape)

    async def tokenize(self, body: TokenizeRequest) -> TokenizeResponse:
        """What the model would read."""
        self.check_model(body.model)
        if body.messages is not None:
            if body.tools:
                await self.read(self._tools.form, "tools")
            shown = [tool.shown for tool in body.tools or ()] or None
            turns = await self._admit_turns(read_turns(body.messages), "messages", body.tools)
            tokens = await self._render(turns, "messages", shown)
        else:
            assert body.prompt is not None, "the request has one of both"
            [prompt] = await self._admit_prompts([body.prompt])
            tokens = await self.read(self._tokens, prompt)
        context = self.engine.context_tokens
        return TokenizeResponse(count=len(tokens), max_model_len=context, tokens=tokens)

    # ---- through the filters -------------------------------------------------------------------

    async def _admit_prompts(self, prompts: Sequence[str | list[int]]) -> Sequence[str | list[int]]:
        """The prompts as the model may read them: token ids stay what they are, unless filters took
        something out of what they say. Raises Refusal (400) where one refuses it."""
        if not self.filters.asked.filters:
            return prompts
        self.check_room(len(prompts), "prompt")
        texts = await self.read(lambda: [self._said(prompt) for prompt in prompts])
        passed = await self.filters.admit(texts, "prompt")
        return [
            prompt if after == text else after
            for prompt, text, after in zip(prompts, texts, passed, strict=True)
        ]

    def _said(self, prompt: str | list[int]) -> str:
        if isinstance(prompt, str):
            self.check_chars(len(prompt), self.engine.context_tokens, "prompt")
            return prompt
        self._asked.check_tokens(prompt, "prompt")
        if len(prompt) > self.engine.context_tokens:
            raise too_long(len(prompt), self.engine.context_tokens, "prompt")
        return self._decode(prompt)

    async def _admit_turns(
        self, turns: list[Turn], param: str, tools: Sequence[ToolEntry] | None = None
    ) -> list[Turn]:
        """The conversation in a field as the model may read it, with these functions. Raises
        Refusal (400) as `_admit_prompts`."""
        if not self.filters.asked.filters:
            return turns
        shown = [tool.shown for tool in tools or ()]
        self.check_chars(sum(map(_num_chars, turns)), self.engine.context_tokens, param)
        self.check_chars(len(json.dumps(shown)), self.engine.context_tokens, "tools")
        await admit_whole(self.filters, shown, "tools")
        return await admit_turns(self.filters, turns, param)

    # ---- from the request to the engine --------------------------------------------------------

    @property
    def _chat_stops(self) -> tuple[str, ...]:
        return () if self._format.has_template else PLAIN_STOPS

    def _texts_of(self, body: SamplingRequest) -> TokenTexts | None:
        return None if body.num_top is None else self._texts

    async def _render(
        self, turns: Sequence[Turn], param: str, tools: Sequence[Tool] | None = None
    ) -> list[int]:
        return await self.read(self._turn_ids, turns, param, tools)

    def _turn_ids(
        self, turns: Sequence[Turn], param: str, tools: Sequence[Tool] | None = None
    ) -> list[int]:
        """Token ids of the conversation in a field."""
        num_chars = sum(map(_num_chars, turns))
        self.check_chars(num_chars, self.engine.context_tokens, param)
        if tools:
            self.check_chars(len(json.dumps(tools)), self.engine.context_tokens, "tools")
        form = self._tools.form(param) if has_calls(turns) else None
        return render_chat(self._format, turns, param, tools, form)

    def _prompts(self, prompts: Sequence[str | list[int]]) -> list[list[int]]:
        """Token ids of each prompt; an empty text begins with the model's first token."""
        self.check_room(len(prompts), "prompt")
        return [self._tokens(prompt) for prompt in prompts]

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            self.check_chars(len(prompt), self.engine.context_tokens, "prompt")
        ids: list[int] = self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        if not ids:
            return self._empty_prompt()
        self._asked.check_tokens(ids, "prompt")
        return ids

    def _empty_prompt(self) -> list[int]:
        first = first_token(self.tokenizer)
        if first is not None:
            return [first]
        raise Refusal(400, "the prompt is empty; give at least one character", param="prompt")

    def _echoes(
        self,
        body: CompletionRequest,
        sent: Sequence[str | list[int]],
        prompts: Sequence[Sequence[int]],
    ) -> list[Echo]:
        """Each prompt as it was sent and let through; of token ids what they decode to."""
        echoes = []
        for given, prompt in zip(sent, prompts, strict=True):
            text = given if isinstance(given, str) else self._decode(prompt)
            is_scored = body.scores_prompt
            echoes.append(Echo.of_tokens(text, prompt, self._decode) if is_scored else Echo(text))
        return echoes

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _check_choices(self, body: SamplingRequest, num_prompts: int) -> None:
        """Raises Refusal (400) for more answers than may ever wait here."""
        room, wanted = self.check_room(num_prompts, "prompt"), num_prompts * body.num_choices
        if wanted > room:
            raise Refusal(
                400,
                f"n is {body.num_choices}, of {num_prompts:,} prompts, which makes {wanted:,} "
                f"answers; this server writes at most {room:,} for one request",
                param="n",
            )

    async def _prepare(self, body: SamplingRequest, samplings: Sequence[Sampling]) -> None:
        # In a thread of its own: while a model is loaded, others' prompts are read.
        try:
            for sampling in samplings[:1]:  # all prompts of a request are answered in one way
                if not self.engine.runner.is_prepared(sampling):
                    await asyncio.to_thread(self.engine.runner.prepare, sampling)
        except ClusterError as error:
            raise Refusal(400, str(error), code="unsupported_by_engine") from error
        except FormError as error:
            name, form = body.form
            name = name if form is not None else "tools"
            raise Refusal(400, f"{name} cannot be followed: {error}", param=name) from error

    # ---- from the engine to the response -------------------------------------------------------

    async def _respond(
        self,
        request: Request,
        body: SamplingRequest,
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[Sampling],
        shape: AnswerShape,
        echoes: Sequence[Echo] | None = None,
    ) -> Response:
        self._check_choices(body, len(prompts))
        await self._prepare(body, samplings)
        count = body.num_choices
        requests = [
            (prompt, choice)
            for prompt, sampling in zip(prompts, samplings, strict=True)
            for choice in sampling.choices(count)
        ]
        answers = AnswerStream(self.engine, requests, self.spec.timeout, num_choices=count)
        pieces = FilteredPieces(Pieces(answers, echoes, num_choices=count), self.filters)
        try:
            if body.stream:
                await while_connected(request, answers.wait_for_first())
                events = _events(answers, pieces, shape)
                return EventStream(events, on_close=answers.close)
            whole = await while_connected(request, pieces.collect())
        except BaseException:  # a disconnect is a cancellation
            answers.close()
            raise
        counted = usage(answers.num_prompt_tokens, sum(answers.num_tokens))
        # Beside the event loop: with log-probabilities of a long prompt it is long itself.
        content = await self.read(shape.whole, whole, counted)
        return JSONResponse(content)


def _num_chars(turn: Turn) -> int:
    calls = turn.get("tool_calls")
    return len(turn["content"]) + (len(json.dumps(calls)) if calls else 0)


async def _events(
    answers: AnswerStream, pieces: FilteredPieces, shape: AnswerShape
) -> AsyncIterator[bytes]:
    """The whole stream, what is known at the same time in one piece; an error that comes after its
    start is an event too."""
    said = b"".join(shape.begin())
    try:
        async for index, piece in pieces:
            said += b"".join(shape.go_on(index, piece))
            if answers.is_open:
                yield said
                said = b""
        counted = usage(answers.num_prompt_tokens, sum(answers.num_tokens))
        yield said + b"".join(shape.end(counted))
    except Refusal as refusal:
        yield said + b"".join(shape.fail(refusal))
