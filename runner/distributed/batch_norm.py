"""Batch norm with the statistics of the whole batch, whose samples several processes have."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trainopt.optimizers.functional_signatures import BatchNormArguments

from .ranks import Ranks


class Sum(torch.autograd.Function):
    """The sum of a tensor over the processes, which can be differentiated any number of times.

    Where the objective is the sum of the processes' losses, the derivative by a summand is the sum of the derivatives
    by the processes' copies of the sum: the same reduction again.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
        """Returns the sum, in a new tensor."""
        ctx.ranks = ranks
        total = values.clone(memory_format=torch.contiguous_format)
        ranks.sum_([total])
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Returns the sum of the derivatives."""
        return Sum.apply(gradient, ctx.ranks), None


class GlobalBatchNorm(TorchFunctionMode):
    """Lets F.batch_norm take mean and variance over the samples of all processes, in training, while entered.

    Args:
        ranks: the processes; all call it in one order.
    """

    def __init__(self, ranks: Ranks):
        super().__init__()
        self._ranks = ranks

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function of torch."""
        if function is F.batch_norm:
            return self._batch_norm(BatchNormArguments(*args, **(kwargs or {})))
        return function(*args, **(kwargs or {}))

    def _batch_norm(self, call: BatchNormArguments) -> Tensor:
        if not call.training:
            return F.batch_norm(*call)
        input, running_mean, running_var, weight, bias, _, momentum, eps = call
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        mean, var, count = statistics(values, self._ranks)
        if values.numel() // values.shape[1] < 2 and count.item() < 2:  # looks at a GPU only where it may be
            raise ValueError("batch norm needs more than one value per channel in training")
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
        shape = (1, -1, *[1] * (input.dim() - 2))
        scale = (var + eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        return torch.addcmul(shift.view(shape), values, scale.view(shape)).to(input.dtype)


def statistics(values: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean and biased variance of each channel over all processes, and the number of values of a channel.

    Each process computes its mean and its sum of squared distances from that. One reduction carries them, each
    process's in a row of its own, to all; there they are combined (Chan et al. 1979, "Updating formulae and a pairwise
    algorithm for computing sample variances", eq. 2.1), without the cancellation of a mean of squares.

    Args:
        values: (B, C, ...) of this process; B may be 0.
        ranks: the processes.
    """
    dims, channels = [0, *range(2, values.dim())], values.shape[1]
    count = values.numel() // channels
    mean = values.sum(dims) / max(count, 1)
    spread = (values - mean.view(1, -1, *[1] * (values.dim() - 2))).square().sum(dims)
    row = torch.cat([mean, spread, mean.new_full((1,), count)])
    rows = Sum.apply(torch.stack([row if i == ranks.rank else torch.zeros_like(row) for i in range(ranks.size)]), ranks)
    counts = rows[:, -1:].detach()
    whole = counts.sum()
    means, spreads = rows[:, :channels], rows[:, channels:-1]
    mean = (counts * means).sum(0) / whole
    var = (spreads.sum(0) + (counts * (means - mean).square()).sum(0)) / whole
    return mean, var, whole
