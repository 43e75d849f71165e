"""Which parameters the optimizer decays, and which are the matrices of hidden layers."""

from __future__ import annotations

from typing import Any

from torch import nn

HIDDEN = "is_hidden"
"""Key of a group: whether it holds the matrices of hidden layers."""


def parameter_groups(
    model: nn.Module, weight_decay: float, *, apart: bool = False
) -> list[dict[str, Any]]:
    """Optimizer groups: matrices and embeddings with weight decay, vectors without.

    Biases and the scales of norms are vectors; decaying them only shrinks activations
    (arXiv:2005.14165 and the code around it). Frozen parameters are left out, tied ones come once,
    and a group without parameters is not made.

    Args:
        model: its parameters may be sharded.
        weight_decay: of matrices and embeddings.
        apart: whether the matrices of hidden layers are a group of their own: those in the numbered
            layers of a model. Embeddings and heads are outside of them.
    """
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    outside = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    hidden = [
        p
        for name, p in trained
        if apart and len(_shape(p)) == 2 and is_in_a_layer(name) and id(p) not in outside
    ]
    taken = {id(p) for p in hidden}
    matrices = [p for _, p in trained if len(_shape(p)) >= 2 and id(p) not in taken]
    vectors = [p for _, p in trained if len(_shape(p)) < 2]
    groups: list[dict[str, Any]] = [
        {"params": hidden, "weight_decay": weight_decay, HIDDEN: True},
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def is_in_a_layer(name: str) -> bool:
    """Whether a module or parameter is in one of the numbered layers of a model."""
    return any(part.isdecimal() for part in name.split("."))


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    # ZeRO-3 leaves an empty tensor in the place of a parameter, and keeps its shape aside.
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
