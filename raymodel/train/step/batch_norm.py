"""Batch norm that trains the same however the rows of a step are cut up among workers.

torch's takes its statistics from the rows of one forward pass, so that the model would depend on
the number of workers. Here they are those of all rows of the step: workers add up their sums, in
the forward pass those of the activations and in the backward pass those of the gradient, as the
derivative of the whole needs them (arXiv:1502.03167, section 3).

What a step does to the running statistics is kept back until its update: when that is left out they
do not change either, and a checkpoint that is being copied is not changed under its copy.

Shapes: B rows, C channels, ... the positions of a row.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class StepBatchNorm(_BatchNorm):
    """Takes the place of a batch norm of torch, with its weights, and computes in fp32.

    While it trains, every worker must call it, also one that has no rows: it takes part in two
    collectives, one forward and one backward.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, layer: _BatchNorm, *, is_frozen: bool) -> None:
        """Args:
        layer: what it replaces.
        is_frozen: uses the running statistics in training too, and never changes them.
        """
        super().__init__(
            layer.num_features, layer.eps, layer.momentum, affine=False, track_running_stats=False
        )
        assert layer.running_mean is not None, layer
        assert layer.running_var is not None, layer
        assert layer.num_batches_tracked is not None, layer
        self.affine, self.track_running_stats = layer.affine, True
        self.weight, self.bias = layer.weight, layer.bias
        # Whatever the weights are rounded to: a share of a tenth of a small change would be lost.
        self.running_mean, self.running_var = layer.running_mean.float(), layer.running_var.float()
        self.num_batches_tracked = layer.num_batches_tracked
        self.is_frozen = is_frozen
        self.is_blank = False
        """Whether the rows that come are none of the step's."""
        self._unsettled: list[_Moments] = []
        self.train(layer.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, ...) -> (B, C, ...)
        """In training over all rows of the step, unless frozen; else by the running statistics."""
        if self.training and not self.is_frozen:
            normal: torch.Tensor = self._over_the_step(x)
            return normal
        weight, bias = (None if each is None else _wide(each) for each in (self.weight, self.bias))
        return F.batch_norm(x, self.running_mean, self.running_var, weight, bias, eps=self.eps)

    # A compiled graph knows neither the collectives nor what is kept back.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _over_the_step(self, x: torch.Tensor) -> torch.Tensor:
        moments = _Moments(x.detach(), is_blank=self.is_blank)
        self._unsettled.append(moments)
        weight = x.new_ones(x.shape[1]) if self.weight is None else self.weight
        bias = x.new_zeros(x.shape[1]) if self.bias is None else self.bias
        # Where no worker has a row, as when a shard is corrupt, the blank ones stay finite so.
        mean = torch.where(moments.count > 0, moments.mean, self.running_mean)
        variance = torch.where(moments.count > 0, moments.variance, self.running_var)
        normal: torch.Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
            x, weight, bias, mean, variance, self.eps, moments.count, self.is_blank
        )
        return normal

    @torch.no_grad()
    def settle(self, *, is_applied: bool) -> None:
        """Moves the running statistics on by those of the forward passes since the last call.

        Args:
            is_applied: whether they count; else they are forgotten.
        """
        for moments in self._unsettled if is_applied else ():
            has_rows = moments.count > 0
            self.num_batches_tracked += has_rows
            if self.momentum is None:  # the mean of all steps so far
                share = has_rows / self.num_batches_tracked.clamp(min=1)
            else:
                share = has_rows * self.momentum
            unbiased = moments.variance * (moments.count / (moments.count - 1).clamp(min=1))
            self.running_mean += share * (moments.mean - self.running_mean)
            self.running_var += share * (unbiased - self.running_var)
        self._unsettled.clear()


class StepNorms:
    """The batch norms of a network, told where a step begins and ends."""

    def __init__(self, network: nn.Module) -> None:
        self._layers = [m for m in network.modules() if isinstance(m, StepBatchNorm)]

    def begin(self, *, is_blank: bool) -> None:
        """Before a forward pass: whether its rows are none of the step's."""
        for layer in self._layers:
            layer.is_blank = is_blank

    def end(self, *, is_applied: bool) -> None:
        """After a step: whether it changed the model."""
        for layer in self._layers:
            layer.settle(is_applied=is_applied)


class _Moments:
    """Mean and variance of each channel over the rows of all workers: one all-reduce."""

    def __init__(self, x: torch.Tensor, *, is_blank: bool) -> None:
        """Args:
        x: (B, C, ...) of this worker.
        is_blank: whether its rows do not count.
        """
        channels, own = x.shape[1], 0 if is_blank else x.numel() // x.shape[1]
        # The mean square less the squared mean loses digits; fp64 has as many to lose.
        sums = x.new_zeros(1 + 2 * channels, dtype=torch.float64)
        if own:
            # On a CPU seven times as fast as `var_mean`, and as exact: what is squared is small.
            dims, wide = _all_but_channels(x), _wide(x)
            mean = wide.mean(dims)
            spread = torch.linalg.vector_norm(wide - _by_channel(mean, x), dim=dims)
            mean, variance = mean.double(), spread.double().square() / own
            sums[0] = own
            sums[1:] = own * torch.cat([mean, variance + mean * mean])
        _add_up(sums)
        means = sums[1:] / sums[0].clamp(min=1)
        mean, square = means[:channels], means[channels:]
        dtype = _wide(x[:0]).dtype
        self.count = sums[0].to(dtype)
        """Values of a channel, a scalar on the device."""
        self.mean = mean.to(dtype)  # (C,)
        self.variance = (square - mean * mean).clamp(min=0).to(dtype)  # (C,)


class _Normalise(torch.autograd.Function):
    """(x - mean) / std * weight + bias, whose derivative knows that the moments come from the rows
    of all workers."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
        eps: float,
        count: torch.Tensor,
        is_blank: bool,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        ctx.is_blank = is_blank
        return F.batch_norm(x, mean, variance, _wide(weight), _wide(bias), eps=eps)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, inverse_std, count = ctx.saved_tensors
        wide, grad, scale = _wide(x), _wide(grads[0]), inverse_std * _wide(weight)
        # torch's own kernel for the two sums over this worker's rows, and for them alone. Rows that
        # do not count bear no loss: their gradient is zero.
        _, weight_grad, bias_grad = torch.ops.aten.native_batch_norm_backward(
            grad, wide, scale, None, None, mean, inverse_std, True, 0.0, [False, True, True]
        )
        x_grad = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([bias_grad, weight_grad])  # (2, C)
            _add_up(sums)
            x_grad = grad * _by_channel(scale, x)
            if not ctx.is_blank:  # of rows that do not count the moments are constants
                by_mean, by_std = sums * scale / count
                x_grad -= _by_channel(by_mean, x)
                x_grad.addcmul_(
                    wide - _by_channel(mean, x), _by_channel(by_std * inverse_std, x), value=-1
                )
            x_grad = x_grad.to(x.dtype)
        weight_grad, bias_grad = weight_grad.to(weight.dtype), bias_grad.to(weight.dtype)
        return x_grad, weight_grad, bias_grad, None, None, None, None, None


def _add_up(sums: torch.Tensor) -> None:
    """Over all workers, of whom each has rows of its own."""
    if dist.is_initialized():
        dist.all_reduce(sums)


def _wide(x: torch.Tensor) -> torch.Tensor:
    """In fp32 at least, in which sums over many rows keep their digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _all_but_channels(x: torch.Tensor) -> list[int]:
    return [dim for dim in range(x.ndim) if dim != 1]


def _by_channel(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(C,) -> (1, C, 1, ...), to be combined with `x`."""
    return values.view(1, -1, *[1] * (x.ndim - 2))
