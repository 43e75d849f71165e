"""Leaves an update out, whatever optimizer of DeepSpeed is in charge, and clips its gradient where
DeepSpeed hands the weights straight to torch."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist


class UpdateGuard:
    """Stands before torch's `optimizer.step`, which all of DeepSpeed's optimizers call in the end.

    So a step can be left out after the backward pass, and DeepSpeed still unscales, clips and
    frees the gradients as ever; weights and moments stay bit for bit. DeepSpeed itself leaves an
    update out when the norm of the gradient is not finite, except where it hands the model's
    parameters straight to torch (fp32 at stage 0): there the guard looks at the gradients.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        looks_at_gradients: bool,
        asks_others: bool = False,
        clip: float | None = None,
    ) -> None:
        """Args:
        looks_at_gradients: whether DeepSpeed does not.
        asks_others: whether ranks have different gradients, as where they share matrices.
        clip: the largest norm of the gradient, 0 for any; None where DeepSpeed clips.
        """
        self._optimizer, self._looks = optimizer, looks_at_gradients
        self._asks_others, self._clip = asks_others, clip
        self.grad_norm: float | None = None
        """Of the last step's gradient before it was clipped, 2-norm; None where DeepSpeed clips."""
        self._step = optimizer.step
        self.leave_out = False
        """Set before a step that must not happen."""
        self.left_out = False
        """Whether the last step did not happen."""
        optimizer.step = self._guarded  # type: ignore[method-assign]

    def _guarded(self, *arguments: Any, **options: Any) -> Any:
        self.left_out = self.leave_out or (self._looks and not self._gradients_are_finite())
        return None if self.left_out else self._step(*arguments, **options)

    def _gradients_are_finite(self) -> bool:
        gradients = self._gradients()
        if not gradients:
            return True
        # The norm of norms: one pass, and one number to fetch.
        total = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if self._asks_others:
            dist.all_reduce(total)
        norm = float(total)
        if self._clip is not None:
            self.grad_norm = norm
            if self._clip > 0 and norm > self._clip:
                # As at the other stages of DeepSpeed, to the last summand.
                torch._foreach_mul_(gradients, self._clip / (norm + 1e-6))
        return math.isfinite(norm)

    def _gradients(self) -> list[torch.Tensor]:
        """Of a parameter that bore no loss it is zero, so that it decays as at the other stages."""
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [p.grad for p in parameters if p.grad is not None]
