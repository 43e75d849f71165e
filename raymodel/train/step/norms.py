"""Which norms a model may have so that it trains the same at every number of workers.

Those that look at several rows are given the whole step; what cannot be given it is refused.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from raymodel.errors import SpecError
from raymodel.train.plan import BatchPlan, find_step_conflict
from raymodel.train.spec import TrainSpec
from raymodel.train.step.batch_norm import StepBatchNorm

KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def replace_batch_norms(network: nn.Module, spec: TrainSpec, batch: BatchPlan) -> None:
    """Puts a `StepBatchNorm` in the place of each batch norm; names of weights stay as they are.

    Args:
        network: Changed in place; may be on the meta device.
        batch: How a step is cut up.

    Raises:
        SpecError: with the name of a layer, and why it cannot be trained so.
    """
    layers = {name: m for name, m in network.named_modules() if isinstance(m, _NormBase)}
    for name, layer in layers.items():
        _check_layer(name, layer)
    first = next((n for n, layer in layers.items() if isinstance(layer, _BatchNorm)), None)
    if first is not None and spec.batch_norm == "synchronised":
        _check_spec(first, spec, batch)
    made: dict[nn.Module, StepBatchNorm] = {}
    for parent in list(network.modules()):
        for key, child in parent._modules.items():  # also those that have a second name
            if isinstance(child, _BatchNorm) and type(child) in KINDS:
                if child not in made:
                    made[child] = StepBatchNorm(child, is_frozen=spec.batch_norm == "frozen")
                parent._modules[key] = made[child]


def _check_layer(name: str, layer: _NormBase) -> None:
    kind = type(layer).__name__
    if isinstance(layer, _BatchNorm) and not layer.track_running_stats:
        raise SpecError(
            f"{name} is a {kind} without running statistics: what it makes of a row depends on "
            "the other rows of its batch, in evaluation too; use a model whose batch norm has "
            "track_running_stats"
        )
    if type(layer) not in KINDS and layer.track_running_stats:
        raise SpecError(
            f"{name} is a {kind}, whose running statistics come from the rows of one worker, and "
            f"only {', '.join(each.__name__ for each in KINDS)} can be given those of the whole "
            "step; use a model with one of these, or with a norm that keeps no statistics"
        )


def _check_spec(name: str, spec: TrainSpec, batch: BatchPlan) -> None:
    """What statistics of a whole step do not go with."""
    reason = _find_conflict(spec, batch)
    if reason is not None:
        raise SpecError(
            f"the model has batch norm ({name} is the first), which takes its statistics from all "
            f"rows of a step, and {reason}, or set batch_norm: frozen"
        )


def _find_conflict(spec: TrainSpec, batch: BatchPlan) -> str | None:
    if spec.activation_checkpointing:
        return (
            "activation_checkpointing is true, which computes layers again amid the backward pass, "
            "when workers exchange other sums; leave it out"
        )
    return find_step_conflict(spec, batch)
