"""The exponential moving average of the weights."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .base import NetworkAverage, tensors_of

WARMUP_POWER = 2 / 3  # timm's


class EMA(NetworkAverage):
    """The exponential moving average of weights and buffers, over all steps (Polyak and Juditsky 1992).

        average_1 = w_1,   average_{t+1} = beta_t average_t + (1 - beta_t) w_{t+1}

    with w_t the weights after step t, and beta_t = `decay`. With warm-up, as in timm's ModelEmaV3,

        beta_t = min(decay, 1 - (1 + t)^(-2/3))

    torch.optim.swa_utils does the arithmetic, as with use_buffers=True: the running statistics of batch norm are
    averaged as the weights are. Its AveragedModel.update_parameters would make each step wait for a GPU: it copies its
    count there, or reads it.

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
        super().__init__(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self._has_followed = False

    @property
    def next_decay(self) -> float:
        """The decay beta_t with which the next weights are taken."""
        return min(self.decay, 1 - (1 + self.count) ** -WARMUP_POWER) if self.warmup else self.decay

    def after_step(self) -> None:
        """Takes the weights into the average, unless it has followed the step already."""
        if self._has_followed:
            self._has_followed = False
        else:
            self.update()

    def update(self) -> None:
        """Takes the present weights and buffers into the average."""
        if self.count == 0:
            super().update()
            return
        self.mix()
        self._count_weights()

    def follow(self) -> None:
        """Counts weights that were taken into the average elsewhere, as by a CUDA graph, before `after_step`."""
        self._count_weights()
        self._has_followed = True

    def mix(self) -> None:
        """Takes the present weights and buffers into the average, and does not count them."""
        mix: Callable = get_ema_multi_avg_fn(self.next_decay)
        for averages, values in self.pairs().values():
            mix(averages, values, None)

    def _count_weights(self) -> None:
        self.count += 1
        self.averaged.n_averaged.fill_(self.count)

    def pairs(self) -> dict[Any, tuple[list[Tensor], list[Tensor]]]:
        """Returns parameters and buffers of the average, and those of the network, by type and device."""
        pairs: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for average, value in zip(tensors_of(self.averaged.module), tensors_of(self.network), strict=True):
            averages, values = pairs.setdefault((average.dtype, average.device), ([], []))
            averages.append(average.detach())
            values.append(value.detach())
        return pairs
