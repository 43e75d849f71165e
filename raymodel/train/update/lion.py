"""Lion (arXiv:2302.06675). Neither torch nor DeepSpeed has one that needs no compiler at first use.

Elementwise, so it works on any cut of the parameters, such as the flat partitions of ZeRO.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

# Elements that are worked on at a time: what is made on the way stays in a core's cache (2 MiB of
# two fp32 operands) instead of taking the memory of another moment.
CHUNK = 2**18


class Lion(torch.optim.Optimizer):
    """Moves each weight by the whole rate, in the direction of a sign."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        """Args:
        params: parameters, or groups of them. They must be contiguous.
        lr: the rate.
        betas: weights of the moment in the update, and of the past in the moment.
        weight_decay: decoupled, so it is multiplied by the rate.
        """
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update, as algorithm 2 of the paper. The first makes the moment, `exp_avg`."""
        assert closure is None, "nothing here evaluates the loss again"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if not state:
                        state["exp_avg"] = torch.zeros_like(parameter)
                    _update(parameter, parameter.grad, state["exp_avg"], group)


def _update(
    parameter: torch.Tensor, gradient: torch.Tensor, moment: torch.Tensor, group: dict[str, Any]
) -> None:
    now, past = group["betas"]
    flat = (parameter.view(-1), gradient.reshape(-1), moment.view(-1))
    for weight, grad, average in zip(*(torch.split(each, CHUNK) for each in flat), strict=True):
        direction = average.lerp(grad, 1 - now).sign_()
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(direction, alpha=-group["lr"])
        average.lerp_(grad, 1 - past)
