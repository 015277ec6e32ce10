"""The second moments of Adam as a metric."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

DECAY = 0.999  # beta_2
EPSILON = 1e-8


class Diagonal:
    """M = diag(sqrt(v) + eps), with v Adam's mean of the squares of the gradient g (Kingma and Ba 2015, algorithm 1).

        v <- 0.999 v + 0.001 g^2,   divided by 1 - 0.999^k at step k

    One number for each parameter is in the state, as `exp_avg_sq`.

    Args:
        params: parameters.
        gradient: g, finite.
        state: the optimizer's; it is updated.

    Attributes:
        cost: of this step, in gradients.
    """

    cost = 0.0

    def __init__(self, params: Sequence[Tensor], gradient: Sequence[Tensor], state: dict[Tensor, dict[str, Any]]):
        self._metric = []
        for param, g in zip(params, gradient, strict=True):
            of_param = state[param]
            if "exp_avg_sq" not in of_param:
                of_param |= {"exp_avg_sq": torch.zeros_like(param), "preconditioner_updates": 0}
            of_param["preconditioner_updates"] += 1
            v = of_param["exp_avg_sq"].mul_(DECAY).addcmul_(g, g, value=1 - DECAY)
            self._metric.append((v / (1 - DECAY ** of_param["preconditioner_updates"])).sqrt_().add_(EPSILON))

    def solve(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """Returns M^-1 v, of the shapes of the parameters."""
        return [v / m for v, m in zip(vectors, self._metric, strict=True)]

    def solve_gradient(self, gradient: Sequence[Tensor]) -> list[Tensor]:
        """Returns M^-1 g."""
        return self.solve(gradient)
