"""Stochastic weight averaging."""

from math import floor
from typing import Any

from torch import nn

from .base import NetworkAverage, Progress

ROUNDING = 1e-9  # of positions, which are fractions of durations


class SWA(NetworkAverage):
    """The mean of the weights at equal distances in the last part of a run (Izmailov et al. 2018, arXiv 1803.05407).

        average_1 = w at `start`,   average_{n+1} = average_n + (w - average_n) / (n + 1),   whenever `every` has passed

    torch.optim.swa_utils does the arithmetic. The learning rate is the schedule's: a constant or a cyclic one explores.
    The running statistics of batch norm do not belong to the average, and are recomputed for it.

    Args:
        network: its weights are averaged.
        progress: of the run.
        over: a duration: that of the run.
        start: of the average: a fraction of `over` in [0, 1), or a duration.
        every: a duration: the distance of two weights in the average.
        batch_norm_batches: how many training batches the statistics of batch norm are recomputed from; None: those of
            an epoch, as torch's update_bn does it.
    """

    def __init__(
        self,
        network: nn.Module,
        progress: Progress,
        over: str,
        start: float | str = 0.8,
        every: str = "1epochs",
        batch_norm_batches: int | None = None,
    ):
        super().__init__(network)
        self.progress = progress
        self.over = over
        self.start = start
        self.every = every
        self.batch_norm_batches = batch_norm_batches
        self._begun = 0.0  # how many `every` had passed at the first weights
        self._passed = 0  # since then, at the last ones

    def after_step(self) -> None:
        """Takes the weights into the average, if it is time to."""
        now = self.progress.elapsed(self.every)
        if self.count == 0:
            if self._has_started():
                self._begun = now
                self.update()
        elif (passed := floor(now - self._begun + ROUNDING)) > self._passed:
            self._passed = passed
            self.update()

    def _has_started(self) -> bool:
        if isinstance(self.start, str):
            return self.progress.elapsed(self.start) >= 1
        return self.progress.elapsed(self.over) >= self.start

    def state_dict(self) -> dict[str, Any]:
        """Returns how many weights the average is of, and when it began."""
        return {**super().state_dict(), "begun": self._begun, "passed": self._passed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned, and from the average, which the network has."""
        super().load_state_dict(state)
        self._begun, self._passed = state["begun"], state["passed"]
