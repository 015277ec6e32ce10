"""Test functions whose optimum is known."""

from dataclasses import dataclass

import torch
from torch import Tensor


class Problem:
    """A function J of points theta (..., n), which returns their values (...).

    Attributes:
        start: theta at first, by default.
        minimum: the lowest value; None where the function has none.
        minimiser: the coordinate of the optimum, where all coordinates are equal; None otherwise.
        saddle: whether the origin is a saddle point.
    """

    start: tuple[float, ...] = (1.0, 1.0)
    minimum: float | None = 0.0
    minimiser: float | None = 0.0
    saddle = False

    def __call__(self, theta: Tensor) -> Tensor:
        """Returns the values (...) at points (..., n)."""
        raise NotImplementedError

    def optimum(self, n: int) -> Tensor | None:
        """Returns the point (n,) of the minimum in float64; None where there is no minimum."""
        return None if self.minimiser is None else torch.full((n,), self.minimiser, dtype=torch.float64)

    def refusal(self, n: int) -> str | None:
        """Returns why the function is not defined in n dimensions; None where it is."""
        return "needs at least one number" if n < 1 else None

    def conditioned(self, condition: float) -> "Problem":
        """Returns the function with a condition number; the function itself where the number is fixed."""
        del condition
        return self


class Product(Problem):
    """J = theta_1 theta_2 ... theta_n: no minimum, a saddle point at the origin (n >= 2), where J = 0.

    Menssen 2019, section 3.3 and appendix A.
    """

    minimum = None
    minimiser = None
    saddle = True

    def __call__(self, theta: Tensor) -> Tensor:
        """Returns the values (...) at points (..., n)."""
        return theta.prod(-1)


class Quadratic(Problem):
    """J = 5 + 3 sum_i theta_i^2: the minimum is 5, at the origin. The Hessian is 6 I.

    Menssen 2019, appendix B.
    """

    start = (5.0, 3.0)
    minimum = 5.0

    def __call__(self, theta: Tensor) -> Tensor:
        """Returns the values (...) at points (..., n)."""
        return 5 + 3 * theta.square().sum(-1)


class Rosenbrock(Problem):
    """J = sum_i 100 (theta_{i+1} - theta_i^2)^2 + (1 - theta_i)^2: the minimum is 0, at (1, ..., 1).

    A curved valley; at the optimum of two variables the Hessian's condition number is 2508. From n = 4 on there is
    another local minimum, near (-1, 1, ..., 1) (Rosenbrock 1960; Shang and Qiu 2006).
    """

    start = (-1.2, 1.0)
    minimiser = 1.0

    def __call__(self, theta: Tensor) -> Tensor:
        """Returns the values (...) at points (..., n)."""
        here, following = theta[..., :-1], theta[..., 1:]
        return (100 * (following - here.square()).square() + (1 - here).square()).sum(-1)

    def refusal(self, n: int) -> str | None:
        """Returns why the function is not defined in n dimensions; None where it is."""
        return "needs at least two numbers" if n < 2 else None


class Beale(Problem):
    """J = (1.5 - x + xy)^2 + (2.25 - x + xy^2)^2 + (2.625 - x + xy^3)^2: the minimum is 0, at (3, 0.5).

    Two variables, theta = (x, y). Far from the origin it grows as the eighth power; (0, 1) is a saddle point of
    value 14.203125 (Beale 1958).
    """

    minimiser = None

    def __call__(self, theta: Tensor) -> Tensor:
        """Returns the values (...) at points (..., 2)."""
        x, y = theta.unbind(-1)
        parts = (c - x * (1 - y**power) for power, c in enumerate((1.5, 2.25, 2.625), start=1))
        return torch.stack([part.square() for part in parts]).sum(0)

    def optimum(self, n: int) -> Tensor:
        """Returns the point (2,) of the minimum in float64."""
        del n
        return torch.tensor([3.0, 0.5], dtype=torch.float64)

    def refusal(self, n: int) -> str | None:
        """Returns why the function is not defined in n dimensions; None where it is."""
        return "needs two numbers" if n != 2 else None


@dataclass(frozen=True)
class IllConditioned(Problem):
    """J = 1/2 sum_i lambda_i theta_i^2: the minimum is 0, at the origin.

    lambda_i = condition^((i - 1) / (n - 1)) are the Hessian's eigenvalues, from 1 to `condition`; 1 where n = 1.

    Args:
        condition: the Hessian's condition number, >= 1.
    """

    condition: float = 100.0

    def __call__(self, theta: Tensor) -> Tensor:
        """Returns the values (...) at points (..., n)."""
        exponents = torch.linspace(0, 1, theta.shape[-1], dtype=theta.dtype, device=theta.device)
        return (self.condition**exponents * theta.square()).sum(-1) / 2

    def conditioned(self, condition: float) -> Problem:
        """Returns the function with a condition number."""
        if condition < 1:
            raise ValueError(f"condition={condition}: must be >= 1")
        return IllConditioned(condition)


FUNCTIONS: dict[str, Problem] = {
    "product": Product(),
    "quadratic": Quadratic(),
    "rosenbrock": Rosenbrock(),
    "beale": Beale(),
    "ill_conditioned": IllConditioned(),
}
