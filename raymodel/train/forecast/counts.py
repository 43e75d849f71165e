"""What a worker's own model takes: by formula where there is one, else counted on the meta device.

Counted is an outline beside the model, of which DeepSpeed has made something else. It takes a
second, and is never a reason not to train.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from raymodel.errors import RaymodelError
from raymodel.model.adapters import attach_adapter
from raymodel.model.attention import attention_alone
from raymodel.model.build import BUILD_ERRORS, outline_model
from raymodel.model.count import can_count, count_model
from raymodel.model.counted import CountedShape, Counting, Row, Shape, rows_of
from raymodel.model.meta_count import count_forward_flops, count_on_meta
from raymodel.model.shape import Adapter, ModelShape
from raymodel.model.spec import AdapterSpec
from raymodel.tasks.base import Task
from raymodel.train.forecast.memory import Setup

if TYPE_CHECKING:
    from transformers import PretrainedConfig

NOT_COUNTED = (RaymodelError, *BUILD_ERRORS)
"""What is raised where a model cannot be counted."""


def flops_per_token(
    config: PretrainedConfig, task: Task, *, row_tokens: int, max_length: int | None = None
) -> float:
    """Those of training, without those of an adapter; of attention over a whole row, which is more
    than that of documents that are kept apart.

    Args:
        config: of the model that is trained.
        task: with its labels.
        row_tokens: tokens of a row, on average.
        max_length: of examples; None for packed rows.

    Raises:
        NOT_COUNTED: any of these.
    """
    if can_count(config.model_type) and task.has_counted_head():
        count = count_model(
            config.model_type,
            config.to_dict(),
            head="classification" if task.num_outputs else "causal_lm",
            num_labels=max(task.num_outputs, 1),
        )
        return count.train_flops_per_token(row_tokens)
    size, row = _rows(task, row_tokens, max_length)[0]
    return 3.0 * count_forward_flops(_outline(config, task), row) / size


def find_shape(
    config: PretrainedConfig,
    task: Task,
    setup: Setup,
    *,
    adapter: AdapterSpec | None,
    row_tokens: int,
    max_length: int | None = None,
) -> Shape | None:
    """The shape of what is trained; None where it cannot be counted.

    Args:
        config: of the model that is trained.
        task: with its labels.
        setup: how it is trained.
        adapter: what is trained instead of the weights.
        row_tokens: tokens of the longest row.
        max_length: of examples; None for packed rows.
    """
    if can_count(config.model_type) and task.has_counted_head():
        return ModelShape.of(
            config.model_type, config.to_dict(), num_labels=task.num_outputs, adapter=adapter
        )
    if setup.sequence > 1:
        return None  # attention is the one for shared rows by now, which talks to other workers
    counting = Counting(
        rows=_rows(task, row_tokens, max_length)[:1],
        precision=setup.precision,
        attention=setup.attention,
        on_gpu=setup.on_gpu,
    )
    try:
        count = count_on_meta(_outline(config, task, adapter), counting)
    except NOT_COUNTED:
        return None
    return CountedShape(
        architecture=config.model_type,
        config=config.to_dict(),
        count=count,
        adapter=Adapter.of(adapter),
    )


def _rows(task: Task, tokens: int, max_length: int | None) -> tuple[tuple[int, Row], ...]:
    # Of a tokenizer nothing needs to be known, and asking reads its whole vocabulary.
    facts = {} if task.modality == "text" else task.processor.facts()
    lengths = partial(task.forward_lengths, max_length=max_length)
    return rows_of(task.modality, facts, tokens, lengths)


def _outline(config: PretrainedConfig, task: Task, adapter: AdapterSpec | None = None) -> Any:
    """The model again, on the meta device. The stream of chance that training draws from stays
    where it is."""
    config = copy.deepcopy(config)
    # What is counted is a row of one document: the most that its attention can come to.
    config._attn_implementation = attention_alone(config._attn_implementation)
    with torch.random.fork_rng(devices=[]):
        outline = outline_model(config, task)
        return outline if adapter is None else attach_adapter(outline, adapter, task)
