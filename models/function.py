"""A test function in place of a network: the trained parameter is a point."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .test_functions import FUNCTIONS, Problem

MAX_REPORTED = 16  # coordinates of a point in a record


class Function(nn.Module):
    """J(theta) as a network without inputs: theta is its parameter (float64), its output the loss itself.

    >>> network = Function("quadratic", start=[2.0, 3.0])
    >>> network(torch.empty(0)).item()
    44.0
    >>> network.report()
    {'theta': [2.0, 3.0]}

    Args:
        function: a key of `FUNCTIONS`.
        start: theta at first; its length n is the dimension. None: the function's usual start.
        condition: condition number of `ill_conditioned`, >= 1.

    Raises:
        ValueError: there is no such function, or it is not defined in n dimensions.
    """

    returns_loss = True  # the output is the loss: there are no logits, targets and accuracies

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
        """Returns J(theta), a scalar; the inputs are ignored."""
        del inputs
        return self.problem(self.theta)

    def report(self) -> dict[str, Any]:
        """Returns metrics for a record: theta, where it has few coordinates."""
        return {"theta": self.theta.tolist()} if self.theta.numel() <= MAX_REPORTED else {}
