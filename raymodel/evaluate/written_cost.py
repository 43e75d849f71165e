"""How long models that write token by token take to write, by the engine that reads GGUF files."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymodel.storage.uri import Location

if TYPE_CHECKING:
    from raymodel.tasks.base import Task

PROMPT_TOKENS = ANSWER_TOKENS = 32
"""Of each row. Which tokens makes no difference to the time, so they are drawn."""
_BLOCK_TOKENS = 32  # of the engine's cache
_MOST_ROWS = 32


class Writer:
    """One model, which writes as many tokens for each row.

    It computes in this process: nothing else is to be done here meanwhile.
    """

    def __init__(
        self, folder: Path, task: Task, scratch: Path, processor: Location | None = None
    ) -> None:
        """Args:
        folder: local, of the model.
        scratch: a folder for the file of a model whose weights are in no GGUF file; f16.
        processor: what it reads with, where that is not its own.
        """
        import openvino_genai

        from raymodel.modality.text import TextProcessor
        from raymodel.model.gguf import num_rows, write_gguf
        from raymodel.model.gguf_file import gguf_type
        from raymodel.model.load import check_folder, weights_of
        from raymodel.model.openvino import cpu_properties, find_precision
        from raymodel.storage.model_files import GGUF_FILE

        where = Location.parse(str(folder))
        outline = check_folder(where, task)
        assert outline is not None, "it was measured"
        self.type = gguf_type(outline.config) or "f16"
        file, stored = folder / GGUF_FILE, weights_of(where, outline)
        if gguf_type(outline.config) is None:
            file = scratch / GGUF_FILE
            write_gguf(file, outline, stored, TextProcessor.load(processor or where).tokenizer)
        scheduler = openvino_genai.SchedulerConfig()
        row_blocks = -(-(PROMPT_TOKENS + ANSWER_TOKENS) // _BLOCK_TOKENS) + 1
        fields = {"num_kv_blocks": _MOST_ROWS * row_blocks, "cache_size": 0}
        for name, value in {**fields, "max_num_seqs": _MOST_ROWS}.items():
            setattr(scheduler, name, value)
        properties = cpu_properties(find_precision(stored.dtype))
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(file), scheduler, "CPU", properties
        )
        self._vocabulary, self._draw = num_rows(outline), random.Random(0)
        if file.parent == scratch:
            with suppress(OSError):
                file.unlink()  # it is in memory now

    def time_s(self, rows: Mapping[str, Any]) -> float:
        """Of answers to as many rows, side by side."""
        import numpy as np
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos = ANSWER_TOKENS, True
        count = len(next(iter(rows.values())))
        prompts = [
            [[self._draw.randrange(self._vocabulary) for _ in range(PROMPT_TOKENS)]]
            for _ in range(count)
        ]
        start = time.perf_counter()
        handles = [
            self._pipeline.add_request(number, openvino.Tensor(np.array(ids)), config)
            for number, ids in enumerate(prompts)
        ]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        took_s = time.perf_counter() - start
        assert all(handle.can_read() for handle in handles), "each has written something"
        return took_s
