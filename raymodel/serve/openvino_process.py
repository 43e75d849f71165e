"""The process in which OpenVINO GenAI computes; it knows nothing of this project.

It is a process of its own because the library holds Python's lock while it computes, for seconds
when a prompt is long: a server beside it could not even say that it lives. And a fault in its
machine code ends this process and not the server.

Over a pipe it is sent `(name, arguments)`: `join` and `leave` have no answer; `step` answers with
`[(request, [(token, its log-probability)], error)]`. It ends when the pipe does.
"""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import openvino
import openvino_genai


class Generator:
    """The requests of one pipeline.

    Args:
        file: the model as GGUF.
        scheduler: fields of a `SchedulerConfig`.
        properties: of the CPU device.
    """

    def __init__(self, file: str, scheduler: dict[str, Any], properties: dict[str, Any]) -> None:
        config = openvino_genai.SchedulerConfig()
        for name, value in scheduler.items():
            setattr(config, name, value)
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(file, config, "CPU", properties)
        self._handles: dict[int, Any] = {}
        self._errors: dict[int, str] = {}

    def join(self, request: int, prompt: list[int], generation: dict[str, Any]) -> None:
        config = openvino_genai.GenerationConfig()
        for name, value in generation.items():
            setattr(config, name, value)
        ids = openvino.Tensor(np.array([prompt], dtype=np.int64))
        try:
            self._handles[request] = self._pipeline.add_request(request, ids, config)
        except RuntimeError as error:
            self._errors[request] = str(error)

    def leave(self, requests: list[int]) -> None:
        for request in requests:
            handle = self._handles.pop(request, None)
            if handle is not None:
                handle.cancel()
        if not self._handles and self._pipeline.has_non_finished_requests():
            self._pipeline.step()  # frees what was cancelled

    def step(self) -> list[tuple[int, list[tuple[int, float]], str | None]]:
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        made: list[tuple[int, list[tuple[int, float]], str | None]] = [
            (request, [], error) for request, error in self._errors.items()
        ]
        self._errors.clear()
        for request, handle in self._handles.items():
            tokens: list[tuple[int, float]] = []
            while handle.can_read():
                for output in handle.read().values():
                    tokens += zip(output.generated_ids, output.generated_log_probs, strict=True)
            ignored = handle.get_status() == openvino_genai.GenerationStatus.IGNORED
            error = "its keys and values do not fit into the cache" if ignored else None
            if tokens or error:
                made.append((request, tokens, error))
        return made


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's, which may finish answers
    pipe = Connection(int(sys.argv[1]))
    try:
        generator = Generator(**pipe.recv())
    except Exception as error:  # noqa: BLE001 - told to who started this
        pipe.send(str(error) or type(error).__name__)
        return
    pipe.send(None)
    try:
        while True:
            name, arguments = pipe.recv()
            made = getattr(generator, name)(*arguments)
            if name == "step":
                pipe.send(made)
    except EOFError:
        return


if __name__ == "__main__":
    main()
