"""The curvature in a subspace, in the steps between those that compute it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..scalars import Scalar, on, store

FIRST_STEPS = 5  # compute the curvature
DECAY = 0.8  # of the running means, at most
NAME, STEPS = "subspace_curvature", "subspace_steps"  # in the state


class Model(NamedTuple):
    """The quadratic model in a subspace, and the coefficients of its minimum.

    Attributes:
        Q: the curvature (size, size) along both directions, in float64.
        slope: g.d.
        trace: of L.
        coefficients: alpha and beta (2,), in float64.
    """

    Q: Tensor
    slope: Scalar
    trace: Scalar
    coefficients: Tensor


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

    def update(self, model: Model, factor: Scalar) -> None:
        """Counts a step that was made, and takes what it says of the curvature.

        Args:
            model: that the step is the minimum of.
            factor: on the step, as of a learning rate.
        """
        Q, trace, device = model.Q, on(model.Q.device, model.trace), self._param.device
        old = self._state[NAME][:2].double().to(Q.device) if NAME in self._state else Q.new_tensor([1.0, 0.0])
        kappa_and_rho = old if self.is_used else self._mean(old, Q, -on(Q.device, model.slope) * trace)
        c = model.coefficients[: len(Q)].to(Q.device)
        sigma = (c @ Q @ c / trace).to(device) * on(device, factor).square()
        sigma = sigma.nan_to_num(0.0, 0.0, 0.0)  # a trace of 0: no curvature
        store(self._state, NAME, torch.cat([kappa_and_rho.to(device), sigma.view(1)]).to(self._param.dtype))
        self._state[STEPS] = self._step

    def _mean(self, old: Tensor, Q: Tensor, unit: Tensor) -> Tensor:
        """Returns the running means of kappa and rho (2,) with a computed Q; as they were where Q has none."""
        kappa, rho = Q[0, 0] / unit, torch.full_like(unit, torch.nan)
        if len(Q) == 2:
            rho = Q[0, 1] / (Q[0, 0] * Q[1, 1]).sqrt()
        new = torch.stack([kappa, rho])
        mean = old.lerp(new, max(1 / max(self._step - 1, 1), 1 - DECAY))
        # a regularizer may bend the model down along d: no mean of numbers of both signs
        mean[0] = torch.where((old[0] > 0) & (kappa > 0), mean[0], kappa)
        return torch.where(mean.isfinite(), mean, old)


def computes_curvature(step: int, every: int) -> bool:
    """Returns whether a step, from 1, computes the curvature."""
    return step <= FIRST_STEPS or (step - 1) % every == 0
