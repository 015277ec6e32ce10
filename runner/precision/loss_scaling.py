"""Loss scaling, without which small gradients are zero in float16."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainopt.optimizers import Optimizer
from trainopt.optimizers.compat_torch import pass_over_step

SMALLEST_SCALE = 2.0**-14  # gradients that overflow with it are not finite whatever the scale


class LossScaling:
    """Trains with gradients of the scaled loss (Micikevicius et al. 2018, arXiv 1710.03740); torch.amp.GradScaler.

    They are divided by the scale before they are clipped and used. Where one is not finite, the update is skipped, and
    the scale halved; after 2000 updates without that it is doubled.

    Args:
        optimizer: makes the updates.
        device: its type: cuda, or in tests cpu.
        **options: of GradScaler.

    Attributes:
        scale: the present one.
        skipped_steps: how many updates were skipped so far.
    """

    def __init__(self, optimizer: Optimizer, device: str, **options: Any):
        self._optimizer: Any = optimizer
        self._scaler = torch.amp.GradScaler(device, **options)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.scale = self._scaler.get_scale()
        self.skipped_steps = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether gradients are not finite whatever the scale."""
        return self.scale < SMALLEST_SCALE

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of the scaled loss to `p.grad`."""
        self._scaler.scale(loss).backward()

    def unscale(self) -> None:
        """Divides the gradients by the scale, once a step."""
        self._scaler.unscale_(self._optimizer)

    def step(self, closure: Callable[[], Tensor]) -> Any:
        """Makes an update, unless a gradient is not finite.

        Args:
            closure: returns the loss, a scalar, with gradients in place by `backward` and `unscale`.

        Raises:
            RuntimeError: the optimizer needs gradients at other weights, or a second time.
        """
        loss = OneLoss(closure(), self._parameters, type(self._optimizer).__name__)
        result = self._scaler.step(self._optimizer, loss)
        self._scaler.update()
        before, self.scale = self.scale, self._scaler.get_scale()
        if self.scale < before:
            self.skipped_steps += 1
            pass_over_step(self._optimizer)
        return result

    def report(self) -> dict[str, Any]:
        """Returns the scale and the number of skipped steps, for a training row."""
        return {"loss_scale": self.scale, "skipped_steps": self.skipped_steps}

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of GradScaler, and the number of skipped steps."""
        return {**self._scaler.state_dict(), "skipped_steps": self.skipped_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        state = dict(state)
        self.skipped_steps = state.pop("skipped_steps")
        self._scaler.load_state_dict(state)
        self.scale = self._scaler.get_scale()


class OneLoss:
    """A closure whose loss and gradients are there already: an optimizer may call it once, before it changes weights.

    Args:
        loss: a scalar.
        parameters: that have the gradients.
        name: of the optimizer, for a message.
    """

    def __init__(self, loss: Tensor, parameters: Sequence[Tensor], name: str):
        self._loss: Tensor | None = loss
        self._parameters, self._name = parameters, name
        self._versions = [p._version for p in parameters]

    def __call__(self) -> Tensor:
        """Returns the loss; RuntimeError at a second call, and where weights were changed before."""
        loss, self._loss = self._loss, None
        if loss is None or self._versions != [p._version for p in self._parameters]:
            raise RuntimeError(
                f"precision=fp16: {self._name} takes gradients at other weights than those before the step;"
                " give precision=bf16 or float32"
            )
        return loss
