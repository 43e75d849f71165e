"""A served embedder with the documents that it finds. Knows no Ray."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from starlette.types import Message

from raymodel.errors import ArtifactError, RaymodelError
from raymodel.serve.app import build_inner
from raymodel.serve.current import run_app
from raymodel.serve.filters.values import pass_excerpts
from raymodel.serve.library import Found, Library
from raymodel.serve.prediction import PredictionService
from raymodel.serve.service import Service
from raymodel.serve.spec import DocumentsSpec

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Between two looks at the folder; a question asks for one."""
_WAIT_S = 3.0  # for documents that changed; a question that comes while more is read has the old


class Documents:
    """Finds, and answers as the embedder that it is.

    Args:
        service: of the embedder.
        spec: how documents are cut and found.
        folder: where they lie.

    Raises:
        ArtifactError: it is no embedder of texts.
        SourceError: there is no such folder, or too much in it.
    """

    def __init__(self, service: Service, spec: DocumentsSpec, folder: Path) -> None:
        fields = service.task.fields.items()
        given = {role: f.kind for role, f in fields if not (f.is_target or f.is_optional)}
        is_embedder = service.task.answers == "vector" and [*given.values()] == ["text"]
        if not isinstance(service, PredictionService) or not is_embedder:
            raise ArtifactError(
                f"serve.documents.embedder names a model for {service.task.name}, and documents "
                "are found by vectors of texts; give one for embedding"
            )
        self._service, self._spec = service, spec
        self._app = build_inner(service)
        [self._role] = given
        # Its own: that of the service cuts texts, and is another thread's.
        self._tokenizer = copy.deepcopy(service.task.processor.tokenizer)
        self._library = Library(folder, self._embed, self._count, spec.piece_tokens)
        self._trouble: str | None = None
        self._looking: asyncio.Task[None] | None = None
        self._library.refresh()
        self._looked_s = time.monotonic()

    def state(self) -> dict[str, Any]:
        """What `/health` tells."""
        told = {"embedder": self._service.name, **self._library.state()}
        return told if self._trouble is None else told | {"trouble": self._trouble}

    async def find(self, questions: Sequence[str]) -> list[Found]:
        """The excerpts that are about any of these texts, the closest first. They went through the
        filters, and those that one refuses are left out."""
        await self._look()
        spec = self._spec
        found = await asyncio.to_thread(self._library.find, questions, spec.top, spec.min_score)
        passed = await pass_excerpts(self._service.filters, [each.text for each in found])
        return [
            each._replace(text=text)
            for each, text in zip(found, passed, strict=True)
            if text is not None
        ]

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[list[Message]]:
        """The messages of a response of the embedder, as `Current.answer`."""
        async for messages in run_app(self._app, scope, body):
            yield messages

    def close(self) -> None:
        """Ends its threads."""
        self._service.close()

    async def _look(self) -> None:
        if self._looking is None and time.monotonic() - self._looked_s >= LOOK_S:
            self._looking = asyncio.create_task(self._refresh())
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=_WAIT_S)

    async def _refresh(self) -> None:
        try:
            await asyncio.to_thread(self._library.refresh)
            self._trouble = None
        except (RaymodelError, OSError) as error:  # what was there before is still found
            log.warning("the documents are not read again: %s", error)
            self._trouble = str(error)
        finally:
            self._looking, self._looked_s = None, time.monotonic()

    def _embed(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        answers = self._service.compute([{self._role: text} for text in texts])
        vectors = np.asarray([answer["embedding"] for answer in answers], dtype=np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: np.ndarray[Any, Any] = vectors / np.maximum(lengths, 1e-12)
        return unit

    def _count(self, text: str) -> int:
        ids = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)
        return len(ids["input_ids"])
