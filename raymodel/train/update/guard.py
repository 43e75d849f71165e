"""Leaves an update out, whatever optimizer of DeepSpeed is in charge."""

from __future__ import annotations

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
        self, optimizer: torch.optim.Optimizer, looks_at_gradients: bool, asks_others: bool = False
    ) -> None:
        """Args:
        looks_at_gradients: whether DeepSpeed does not.
        asks_others: whether ranks have different gradients, as where they share matrices.
        """
        self._optimizer, self._looks = optimizer, looks_at_gradients
        self._asks_others = asks_others
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
        # The norm of norms: one pass, and one number to fetch.
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return True
        total = torch.stack(torch._foreach_norm(gradients)).sum()
        if self._asks_others:
            dist.all_reduce(total)
        return bool(torch.isfinite(total))
