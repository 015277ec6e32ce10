"""The exponential moving average of the weights."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .base import NetworkAverage

WARMUP_POWER = 2 / 3  # timm's


class EMA(NetworkAverage):
    """The exponential moving average of weights and buffers, over all steps (Polyak and Juditsky 1992).

        average_1 = w_1,   average_{t+1} = beta_t average_t + (1 - beta_t) w_{t+1}

    with w_t the weights after step t, and beta_t = `decay`. With warm-up, as in timm's ModelEmaV3,

        beta_t = min(decay, 1 - (1 + t)^(-2/3))

    torch.optim.swa_utils does the arithmetic, with use_buffers=True: the running statistics of batch norm are averaged
    as the weights are.

    Args:
        network: its weights are averaged.
        decay: beta, in [0, 1].
        warmup: whether beta grows to `decay`, so that a short run does not average over its first steps.

    Raises:
        ValueError: decay is not in [0, 1].
    """

    def __init__(self, network: nn.Module, decay: float = 0.999, warmup: bool = True):
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay}: must be in [0, 1]")
        self.decay = decay
        self.warmup = warmup
        super().__init__(network, multi_avg_fn=self._mix if warmup else get_ema_multi_avg_fn(decay), use_buffers=True)

    def after_step(self) -> None:
        """Takes the weights into the average."""
        self.update()

    def _mix(self, *tensors: Any) -> None:
        decay = min(self.decay, 1 - (1 + self.count) ** -WARMUP_POWER)
        mix: Callable = get_ema_multi_avg_fn(decay)
        mix(*tensors)
