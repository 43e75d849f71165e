"""What goes over the wire for retrieval: OpenAI's and TEI's embeddings, Jina's and Cohere's
reranking, vLLM's scores. As in protocol.py, what would change the answer and is not supported is
refused.

Sources: https://platform.openai.com/docs/api-reference/embeddings,
https://huggingface.github.io/text-embeddings-inference,
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from raymodel.serve.protocol import AnswerModel, Ignored, Text, Usage, WireModel

Texts = Text | Annotated[list[Text], Field(min_length=1)]


def as_list(texts: Texts) -> list[str]:
    """One text or several as several."""
    return [texts] if isinstance(texts, str) else texts


class EmbeddingsRequest(WireModel):
    """`POST /v1/embeddings`."""

    model: str
    """A name that `/v1/models` lists."""
    input: Texts
    """A text, or several. Token ids are not taken: they may be those of another tokenizer."""
    encoding_format: Literal["float", "base64"] = "float"
    """Numbers, or the base64 of them as fp32 with the lowest byte first, a quarter as long."""
    dimensions: int | None = None
    """Numbers of a vector; all that the model gives, and nothing else."""
    user: Ignored = None


class EmbedRequest(WireModel):
    """`POST /embed`."""

    inputs: Texts
    """A text, or several."""
    truncate: bool | None = False
    """Cut texts that are too long; else they are refused."""
    normalize: Literal[True] = True
    """Vectors have length 1."""
    truncation_direction: Literal["right", "Right"] = "right"
    """Which end of a text is cut."""
    prompt_name: None = None
    """This server keeps no prompts: write them before the text."""
    dimensions: None = None
    """Vectors are as long as the model makes them."""


class Embedding(AnswerModel):
    """The vector of one input."""

    index: int
    object: Literal["embedding"] = "embedding"
    embedding: list[float] | str
    """Of length 1."""


class EmbeddingsResponse(AnswerModel):
    """The answer of `/v1/embeddings`."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class DocumentText(WireModel):
    """A document that is an object."""

    text: Text


class RerankRequest(WireModel):
    """`POST /rerank`."""

    model: str
    query: Text
    documents: Annotated[list[Text | DocumentText], Field(min_length=1)]
    """What is ranked."""
    top_n: int | None = Field(default=None, ge=0)
    """How many of the best are told; all by default, and with 0 as for vLLM."""
    return_documents: bool | None = True
    """Whether results hold the documents beside their numbers."""
    user: Ignored = None

    @property
    def texts(self) -> list[str]:
        """The documents as texts."""
        return [each if isinstance(each, str) else each.text for each in self.documents]


class RankedDocument(AnswerModel):
    """One of the results of `/rerank`."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    index: int
    """Its place in the request."""
    relevance_score: float
    """From 0 to 1."""
    document: dict[str, str] | None = None
    """`text`, where it was asked for."""


class RerankResponse(AnswerModel):
    """The answer of `/rerank`."""

    id: str
    model: str
    results: list[RankedDocument]
    """The most relevant first."""
    usage: Usage


class ScoreRequest(WireModel):
    """`POST /score`."""

    model: str
    text_1: Texts
    """The queries: one for all of `text_2`, or one for each."""
    text_2: Texts
    """The documents."""

    @model_validator(mode="after")
    def _pairs(self) -> ScoreRequest:
        queries, documents = len(as_list(self.text_1)), len(as_list(self.text_2))
        if queries not in (1, documents):
            raise ValueError(
                f"text_1 has {queries} texts and text_2 {documents}; give one text_1 for all, or "
                "as many of both"
            )
        return self

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Query and document."""
        queries, documents = as_list(self.text_1), as_list(self.text_2)
        queries = queries * len(documents) if len(queries) == 1 else queries
        return list(zip(queries, documents, strict=True))


class Score(AnswerModel):
    """Of one pair."""

    index: int
    object: Literal["score"] = "score"
    score: float
    """From 0 to 1."""


class ScoreResponse(AnswerModel):
    """The answer of `/score`."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Score]
    usage: Usage
