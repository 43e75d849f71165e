"""A model that is loaded into this process to be talked to, by the parts that serve it."""

from __future__ import annotations

import queue
from collections.abc import Generator, Sequence

from pydantic import ValidationError

from raymodel.errors import RaymodelError, RequestError
from raymodel.modality.text import TextProcessor
from raymodel.model.purpose import find_task
from raymodel.serve.answer import Chunk
from raymodel.serve.chat_model import ChatSettings, Turn, no_template, not_a_writer
from raymodel.serve.generation import GenerationService
from raymodel.serve.generation_protocol import ChatRequest
from raymodel.serve.load import load_service
from raymodel.serve.named import find_named
from raymodel.serve.problems import refuse_request
from raymodel.serve.refusal import Refusal
from raymodel.serve.spec import ServeSpec
from raymodel.storage.uri import Location
from raymodel.tasks import get_task

_MAX_TOKENS = 1024  # a long answer; nobody else waits for this model


class LocalChat:
    """The model of a run or a folder.

    Args:
        reference: see `find_named`.
        storage: where runs are looked up.

    Raises:
        ArtifactError: there is no such model, or it does not answer.
        RequestError: it is not one to talk to.
    """

    def __init__(self, reference: str, storage: Location, settings: ChatSettings) -> None:
        import torch

        self.name, model = find_named(reference, storage)
        task = find_task(model.artifact or model.location)
        if get_task(task).answers != "stream":
            raise not_a_writer(self.name, task)
        if not TextProcessor.load(model.location).chat.has_template:
            raise no_template(self.name)
        most = settings.max_tokens or _MAX_TOKENS
        # What is asked for is the server's own limit here, which gives way to the context.
        self._settings = ChatSettings(temperature=settings.temperature)
        spec = ServeSpec(batch=1, queue=1, max_tokens=most)
        service = load_service(
            model.location, task, name=self.name, spec=spec, wants_gpu=torch.cuda.is_available()
        )
        assert isinstance(service, GenerationService), task
        self._service = service
        told = service.health()
        self.about = f"{model.location}, in this process, {told['engine']} in {told['dtype']}"

    def answer(self, turns: Sequence[Turn]) -> Generator[str, None, None]:
        engine, chunks = self._service.engine, queue.SimpleQueue[Chunk]()
        try:
            body = ChatRequest.model_validate(self._settings.body(self.name, turns))
            asked = self._service.read_chat(body)
        except ValidationError as error:
            refusal = refuse_request(error.errors(), self._settings.body(self.name, turns))
            raise RequestError(refusal.message) from None
        except Refusal as refusal:
            raise RequestError(refusal.message) from None
        answers = engine.submit([asked], lambda _, chunk: chunks.put(chunk))
        try:
            while True:
                chunk = chunks.get()
                if chunk.error is not None:
                    raise RaymodelError(f"the model failed: {chunk.error}") from chunk.error
                yield chunk.text
                if chunk.finish_reason:
                    return
        finally:
            engine.abort(answers)

    def close(self) -> None:
        self._service.close()
