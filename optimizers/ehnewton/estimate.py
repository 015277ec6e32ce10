"""The curvature in a subspace, in the steps between those that compute it."""

from typing import Any

import torch
from torch import Tensor

from ..scalars import Scalar, on, store

FIRST_STEPS = 5  # compute the curvature
DECAY = 0.8  # of the running means, at most
NAME, STEPS = "subspace_curvature", "subspace_steps"  # in the state


class CurvatureEstimate:
    """The Gauss-Newton matrix C = J^T L J along a direction d and the last step s, of steps before.

        kappa = dCd / (-g.d tr L)   running mean
        rho = dCs / sqrt(dCd sCs)   running mean
        sigma = pCp / tr L          of the last step p = alpha d + beta s

    What changes fast is L, the second derivatives of the loss at the outputs: it falls with the loss, and differs
    between batches. Its trace costs nothing, so the present batch has

        dCd = kappa (-g.d) tr L,   sCs = sigma tr L,   dCs = rho sqrt(dCd sCs)

    The running means have the decay min(1 - 1/k, 0.8) at the k-th matrix of both directions. As the gradient is that of
    the step, beta takes back a last step that went too far.

    Args:
        param: in whose state the three numbers are, in its dtype.
        state: of this parameter.
        every: the curvature is computed in the first five steps, and then at each so many.

    Attributes:
        is_used: whether the step has the estimate, and computes no curvature.
    """

    def __init__(self, param: Tensor, state: dict[str, Any], every: int):
        self._param, self._state = param, state
        self._step = state.get(STEPS, 0) + 1
        self.is_used = NAME in state and not computes_curvature(self._step, every)

    def matrix(self, slope: Scalar, trace: Scalar, size: int, on_device: bool) -> Tensor:
        """Returns Q = [dCd, dCs; dCs, sCs], or its first entry, as (size, size) in float64.

        Args:
            slope: g.d.
            trace: of L.
            size: 1 without a last step, else 2.
            on_device: it stays on the device.
        """
        values = self._state[NAME].double()
        kappa, rho, sigma = values if on_device else values.cpu()
        of_loss = on(kappa.device, trace)
        of_direction, of_step = kappa * -on(kappa.device, slope) * of_loss, sigma * of_loss
        mixed = rho * (of_direction * of_step).clamp(min=0).sqrt()
        return torch.stack([of_direction, mixed, mixed, of_step]).view(2, 2)[:size, :size]

    def observe(self, Q: Tensor, slope: Scalar, trace: Scalar) -> None:
        """Takes a computed Q into the running means, but where a mean would not be finite; arguments as of `matrix`."""
        of_direction = Q[0, 0]
        kappa = of_direction / (-on(Q.device, slope) * on(Q.device, trace))
        rho = torch.full_like(kappa, torch.nan)
        if len(Q) == 2:
            rho = Q[0, 1] / (of_direction * Q[1, 1]).sqrt()
        new = torch.stack([kappa, rho])
        old = self._state[NAME][:2].to(new) if NAME in self._state else new.new_tensor([1.0, 0.0])
        mean = old.lerp(new, max(1 / max(self._step - 1, 1), 1 - DECAY))
        # a regularizer may bend the model down along d: no mean of numbers of both signs
        new[0] = torch.where((old[0] > 0) & (kappa > 0), mean[0], kappa)
        new[1] = mean[1]
        values = torch.where(new.isfinite(), new, old)
        store(self._state, NAME, torch.cat([values, values.new_zeros(1)]).to(self._param))

    def follow(self, Q: Tensor, coefficients: Tensor, trace: Scalar) -> None:
        """Counts the step with these coefficients (2,), and sets sigma for it."""
        c = coefficients[: len(Q)]
        sigma = (c @ Q @ c / on(Q.device, trace)).nan_to_num(0.0, 0.0, 0.0)  # of no curvature
        self._state[NAME][2] = sigma.to(self._param)
        self._state[STEPS] = self._step

    def scale(self, factor: Scalar) -> None:
        """Sets sigma for the step times a factor, as a learning rate."""
        squared = on(self._param.device, factor).square()
        self._state[NAME][2] *= squared.to(self._param.dtype)


def computes_curvature(step: int, every: int) -> bool:
    """Returns whether a step, from 1, computes the curvature."""
    return step <= FIRST_STEPS or (step - 1) % every == 0
