"""Which parameters the optimizer decays."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups: matrices and embeddings with weight decay, vectors without.

    Biases and the scales of norms are vectors; decaying them only shrinks activations
    (arXiv:2005.14165 and the code around it). Frozen parameters are left out, tied ones come once,
    and a group without parameters is not made.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [p for p in trained if len(_shape(p)) >= 2]
    vectors = [p for p in trained if len(_shape(p)) < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    # ZeRO-3 leaves an empty tensor in the place of a parameter, and keeps its shape aside.
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
