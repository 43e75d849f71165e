"""How a model with a head of classes answers.

Shapes: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raymodel.tasks.base import Answer


def class_names(model: PreTrainedModel) -> dict[int, str]:
    """Number → name, as the model's configuration has them."""
    return {int(number): name for number, name in (model.config.id2label or {}).items()}


@torch.inference_mode()
def class_answers(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> list[Answer]:
    """`label_answers` of what a model says to its inputs."""
    logits_BC = model(**{name: _placed(value, model) for name, value in inputs.items()}).logits
    return label_answers(logits_BC.float(), model)


def label_answers(logits_BC: torch.Tensor, model: PreTrainedModel) -> list[Answer]:
    """`label`, the most probable class, and `probs` of all, in the order of their numbers.

    They sum to one, unless the model says that its classes do not exclude each other.
    """
    names = class_names(model)
    independent = model.config.problem_type == "multi_label_classification" or len(names) == 1
    probs_BC = logits_BC.sigmoid() if independent else logits_BC.softmax(-1)
    return [{"label": names[most_probable(probs)], "probs": probs} for probs in probs_BC.tolist()]


def most_probable(probs: Sequence[float]) -> int:
    """The number of the class, the first of several that are as probable."""
    return max(range(len(probs)), key=probs.__getitem__)


def _placed(value: torch.Tensor, model: PreTrainedModel) -> torch.Tensor:
    """On the model's device; numbers, which ids are none of, in its format."""
    return value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
