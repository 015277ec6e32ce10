"""The matrix of the model in a subspace, in the steps between those that compute it."""

from typing import Any

import torch
from torch import Tensor

from ..scalars import Scalar, on, store

FIRST_STEPS = 5  # compute the matrix
DECAY = 0.8  # of the running means, at most
NAME, STEPS = "subspace_curvature", "subspace_steps"  # in the state


class MatrixEstimate:
    """The matrix A = Q + N of `subspace.damped_gram` for a direction d and the last step s, of computed ones before.

        kappa = dAd / -g.d         running mean; a step along d alone is d / kappa
        rho = dAs / sqrt(dAd sAs)  running mean
        sAs                        pAp of the last step p = alpha d + beta s, by its own A

    The running means have the decay min(1 - 1/k, 0.8) at the k-th A for both directions. As the gradient is that of the
    step, beta takes back a last step that went too far.

    Args:
        param: in whose state the three numbers are, in its dtype.
        state: of this parameter.
        every: A is computed in the first five steps, and then at each so many.

    Attributes:
        is_used: whether the step has the estimate, and computes no A.
    """

    def __init__(self, param: Tensor, state: dict[str, Any], every: int):
        self._param, self._state = param, state
        self._step = state.get(STEPS, 0) + 1
        self.is_used = NAME in state and not computes_matrix(self._step, every)

    def matrix(self, slope: Scalar, size: int, on_device: bool) -> Tensor:
        """Returns the estimate of A (size, size), in float64.

        Args:
            slope: g.d.
            size: 1 without a last step, else 2.
            on_device: it stays on the device.
        """
        values = self._state[NAME].double()
        kappa, rho, of_step = values if on_device else values.cpu()
        of_direction = kappa * -on(kappa.device, slope)
        mixed = rho * (of_direction * of_step).clamp(min=0).sqrt()
        return torch.stack([of_direction, mixed, mixed, of_step]).view(2, 2)[:size, :size]

    def observe(self, matrix: Tensor, slope: Scalar) -> None:
        """Takes a computed A (size, size) into the running means, but for a step of length 0; `slope` as of `matrix`."""
        of_direction = matrix[0, 0]
        kappa, rho = of_direction / -on(matrix.device, slope), torch.full_like(of_direction, torch.nan)
        if len(matrix) == 2:
            rho = matrix[0, 1] / (of_direction * matrix[1, 1]).sqrt()
        new = torch.stack([kappa, rho])
        old = self._state[NAME][:2].to(new) if NAME in self._state else new.new_tensor([1.0, 0.0])
        mean = old.lerp(new, max(1 / max(self._step - 1, 1), 1 - DECAY))
        # a regularizer may bend the model down along d: no mean of numbers of both signs
        new[0] = torch.where((old[0] > 0) & (kappa > 0), mean[0], kappa)
        new[1] = mean[1]
        values = torch.where(new.isfinite(), new, old)
        store(self._state, NAME, torch.cat([values, values.new_zeros(1)]).to(self._param))

    def follow(self, matrix: Tensor, coefficients: Tensor) -> None:
        """Counts the step with these coefficients (2,), and sets sAs for it."""
        c = coefficients[: len(matrix)]
        self._state[NAME][2] = (c @ matrix @ c).to(self._param)
        self._state[STEPS] = self._step

    def scale(self, factor: Scalar) -> None:
        """Sets sAs for the step times a factor, as a learning rate."""
        squared = on(self._param.device, factor).square()
        self._state[NAME][2] *= squared.to(self._param.dtype)


def computes_matrix(step: int, every: int) -> bool:
    """Returns whether a step, from 1, computes the matrix."""
    return step <= FIRST_STEPS or (step - 1) % every == 0
