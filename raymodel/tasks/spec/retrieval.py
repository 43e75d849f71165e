"""`task:` of those that find what belongs to a query."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raymodel.modality.spec import Pooling
from raymodel.spec.quantity import Count
from raymodel.tasks.spec.base import OF_TRAINING, AnyChangedText


class EmbeddingSpec(AnyChangedText):
    """A vector for each text, close to those of the texts that belong to it."""

    sees_whole_step = True

    name: Literal["embedding"] = "embedding"
    """Which task."""
    pooling: Annotated[Pooling | None, OF_TRAINING] = None
    """How the vectors of a text's tokens become one: `mean`, `cls` (the first token), or `last`,
    as for decoders. By default as the base says in the files of sentence-transformers, else
    `mean`."""
    temperature: Annotated[float, OF_TRAINING] = Field(default=0.05, ge=0.001, le=10)
    """Similarities, from -1 to 1, are divided by it: the lower, the more the nearest wrong texts
    count. 0.05 as for SimCSE (arXiv:2104.08821) and sentence-transformers."""
    negatives: Annotated[Count | None, OF_TRAINING] = Field(default=None, ge=0)
    """How many of a record's own negatives are used at each step, drawn anew; by default all. The
    texts of all other rows of the step are negatives in any case, and cost nothing."""

    @property
    def row_texts(self) -> int:
        """Query, positive, negatives."""
        return 2 + (self.negatives or 0)


class RankingSpec(AnyChangedText):
    """How relevant a document is to a query, for both read together."""

    name: Literal["ranking"] = "ranking"
    """Which task."""
    negatives: Annotated[Count | None, OF_TRAINING] = Field(default=None, ge=1)
    """How many of a record's negatives are used at each step, drawn anew; by default all. Each is a
    pass of its own through the model. Validation and evaluation use all."""

    @property
    def row_texts(self) -> int:
        """The query with its document, and with each negative."""
        return 1 + (self.negatives or 1)


RetrievalTask = EmbeddingSpec | RankingSpec
