"""Routes of retrieval: vectors of texts, and how relevant documents are to a query."""

from __future__ import annotations

import base64
import time
import uuid
from typing import TYPE_CHECKING

import numpy as np
from fastapi import APIRouter, Request

from raymodel.serve.protocol import usage
from raymodel.serve.refusal import Refusal
from raymodel.serve.retrieval_protocol import (
    Embedding,
    EmbeddingsRequest,
    EmbeddingsResponse,
    EmbedRequest,
    RankedDocument,
    RerankRequest,
    RerankResponse,
    Score,
    ScoreRequest,
    ScoreResponse,
    as_list,
)

if TYPE_CHECKING:
    from raymodel.serve.prediction import PredictionService


class VectorRoutes:
    """`/v1/embeddings` as OpenAI has it, and `/embed` as Text Embeddings Inference has it.

    Args:
        service: of a model whose answer to one text is a vector.
        role: of that text.
    """

    def __init__(self, service: PredictionService, role: str) -> None:
        self._service, self._role = service, role

    def add_to(self, router: APIRouter) -> None:
        """Adds the routes."""
        router.post("/v1/embeddings", response_model=EmbeddingsResponse)(self.embeddings)
        router.post("/embed", response_model=list[list[float]])(self.embed)

    async def embeddings(self, request: Request, body: EmbeddingsRequest) -> EmbeddingsResponse:
        """The vector of each input."""
        service = self._service
        service.check_model(body.model)
        rows = await service.rows([{self._role: text} for text in as_list(body.input)], "input")
        vectors = [answer["embedding"] for answer in await service.ask(request, rows, "input")]
        if body.dimensions not in (None, len(vectors[0])):
            raise Refusal(
                400,
                f"dimensions is {body.dimensions}, and the vectors of this model have "
                f"{len(vectors[0])} numbers, all of which matter; leave it out",
                param="dimensions",
            )
        encode = _base64 if body.encoding_format == "base64" else list
        return EmbeddingsResponse(
            data=[
                Embedding(index=index, embedding=encode(vector))
                for index, vector in enumerate(vectors)
            ],
            model=service.name,
            usage=usage(service.count_tokens(rows)),
        )

    async def embed(self, request: Request, body: EmbedRequest) -> list[list[float]]:
        """The vectors alone."""
        inputs = [{self._role: text} for text in as_list(body.inputs)]
        rows = await self._service.rows(inputs, "inputs", is_cut=bool(body.truncate))
        answers = await self._service.ask(request, rows, "inputs")
        return [answer["embedding"] for answer in answers]


class ScoreRoutes:
    """`/rerank` as Jina, Cohere and vLLM have it, under all its paths, and vLLM's `/score`.

    Args:
        service: of a model whose answer to a query and a document is a score.
        roles: of query and document.
    """

    def __init__(self, service: PredictionService, roles: tuple[str, str]) -> None:
        self._service, self._roles = service, roles

    def add_to(self, router: APIRouter) -> None:
        """Adds the routes."""
        for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            router.post(path, response_model=RerankResponse, response_model_exclude_none=True)(
                self.rerank
            )
        for path in ("/score", "/v1/score"):
            router.post(path, response_model=ScoreResponse)(self.score)

    async def rerank(self, request: Request, body: RerankRequest) -> RerankResponse:
        """The documents, the most relevant first."""
        pairs = [(body.query, text) for text in body.texts]
        relevances, num_tokens = await self._scores(request, body.model, pairs, "documents")
        order = sorted(range(len(relevances)), key=lambda index: -relevances[index])
        return RerankResponse(
            id=f"rerank-{uuid.uuid4().hex}",
            model=self._service.name,
            results=[
                RankedDocument(
                    index=index,
                    relevance_score=relevances[index],
                    document={"text": pairs[index][1]} if body.return_documents else None,
                )
                for index in order[: body.top_n or None]
            ],
            usage=usage(num_tokens),
        )

    async def score(self, request: Request, body: ScoreRequest) -> ScoreResponse:
        """The score of each pair."""
        scores, num_tokens = await self._scores(request, body.model, body.pairs, "text_2")
        return ScoreResponse(
            id=f"score-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self._service.name,
            data=[Score(index=index, score=score) for index, score in enumerate(scores)],
            usage=usage(num_tokens),
        )

    async def _scores(
        self, request: Request, model: str, pairs: list[tuple[str, str]], param: str
    ) -> tuple[list[float], int]:
        service = self._service
        service.check_model(model)
        inputs = [dict(zip(self._roles, pair, strict=True)) for pair in pairs]
        rows = await service.rows(inputs, param)
        answers = await service.ask(request, rows, param)
        return [answer["scores"][0] for answer in answers], service.count_tokens(rows)


def _base64(vector: list[float]) -> str:
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()
