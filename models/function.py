"""A test function in the place of a network: what is trained is a point."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .test_functions import FUNCTIONS, Problem

SHOWN = 16  # coordinates of a point that a row holds at most


class Function(nn.Module):
    """J(theta) as a network without inputs: theta is its parameter (float64), its output the loss itself.

    >>> network = Function("quadratic", start=[2.0, 3.0])
    >>> network(torch.empty(0)).item()
    44.0
    >>> network.report()
    {'theta': [2.0, 3.0]}

    Args:
        function: a key of `FUNCTIONS`.
        start: where theta begins; its length n is the dimension. None: the function's usual start.
        condition: condition number of `ill_conditioned`, >= 1.

    Raises:
        ValueError: there is no such function, or it has not so many variables.
    """

    returns_loss = True  # the output is the loss: there are no logits, targets or accuracies

    def __init__(self, function: str = "rosenbrock", start: Sequence[float] | None = None, condition: float = 100.0):
        super().__init__()
        if function not in FUNCTIONS:
            raise ValueError(f"function={function}: must be one of {', '.join(FUNCTIONS)}")
        self.problem: Problem = FUNCTIONS[function].conditioned(condition)
        values = list(self.problem.start if start is None else start)
        refusal = self.problem.refusal(len(values))
        if refusal is not None:
            raise ValueError(f"start={values}: {function} {refusal}")
        self.theta = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns J(theta), a scalar; the inputs are not looked at."""
        del inputs
        return self.problem(self.theta)

    def report(self) -> dict[str, Any]:
        """Returns what rows say of the point beside its loss: theta, where it has few coordinates."""
        return {"theta": self.theta.tolist()} if self.theta.numel() <= SHOWN else {}
