"""The one-cycle policy."""

from math import cos, pi
from typing import Any

from torch.optim import Optimizer

from ..arguments import check_choice
from .base import Progress, ProgressSchedule, absolute_reference

ANNEALING = {
    "cos": lambda start, end, s: end + (start - end) / 2 * (1 + cos(pi * s)),
    "linear": lambda start, end, s: start + (end - start) * s,
}


class OneCycle(ProgressSchedule):
    """The learning rate rises to `max_lr` and falls to almost zero, while the momentum does the opposite.

    That is the 1cycle policy of Smith and Topin 2018 (arXiv 1708.07120), in the form of torch's OneCycleLR. With
    lr1 = max_lr / div_factor, the phases are

        pct_start of `over`    lr1 to max_lr                       max_momentum to base_momentum
        the rest               max_lr to lr1 / final_div_factor    base_momentum to max_momentum

    and with `three_phase` the fall from max_lr to lr1 takes as long as the rise, before a third phase from lr1 to
    lr1 / final_div_factor at max_momentum. `max_lr` is for parameter groups with the optimizer's learning rate; those
    of others keep their ratio to it.

    Args:
        optimizer: its learning rates are set, and its `momentum` and the first of its `betas`; beside `betas`, a
            `momentum` of 0 stays.
        progress: of the run.
        over: a duration.
        max_lr: the peak; None: the optimizer's learning rate.
        pct_start: the length of the rise as a fraction of `over`, in (0, 1); with three_phase in (0, 0.5).
        anneal_strategy: cos or linear, the form of the phases.
        div_factor: max_lr divided by the first learning rate, >= 1.
        final_div_factor: the first learning rate divided by the last, >= 1.
        three_phase: whether there is a third phase.
        cycle_momentum: whether the momentum changes.
        base_momentum, max_momentum: its bounds, in [0, 1).

    Raises:
        ValueError: an argument is out of its range, or the optimizer has no momentum to change.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        progress: Progress,
        over: str,
        max_lr: float | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
    ):
        largest = 0.5 if three_phase else 1
        if not 0 < pct_start < largest:
            raise ValueError(f"pct_start={pct_start}: must be in (0, {largest})")
        check_choice("anneal_strategy", anneal_strategy, ANNEALING)
        for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be >= 1")
        if not 0 <= base_momentum <= max_momentum < 1:
            raise ValueError(f"base_momentum={base_momentum}: must be in [0, max_momentum={max_momentum}], below 1")
        if cycle_momentum and not all({"momentum", "betas"} & set(group) for group in optimizer.param_groups):
            raise ValueError(
                f"cycle_momentum=true: {type(optimizer).__name__} has no momentum; give schedule.cycle_momentum=false"
            )
        self.over = over
        self.reference_lr = absolute_reference(optimizer, max_lr)
        self.max_lr = self.reference_lr if max_lr is None else max_lr
        self.anneal = ANNEALING[anneal_strategy]
        first_lr = self.max_lr / div_factor
        last_lr = first_lr / final_div_factor
        lrs = [first_lr, self.max_lr, last_lr]
        momenta = [max_momentum, base_momentum, max_momentum]
        ends = [0.0, pct_start, 1.0]
        if three_phase:
            lrs.insert(2, first_lr)
            momenta.insert(2, max_momentum)
            ends.insert(2, 2 * pct_start)
        self.ends, self.lrs, self.momenta = ends, lrs, momenta
        self.cycle_momentum = cycle_momentum
        self.sets_momentum = ["betas" not in g or g.get("momentum", 0) != 0 for g in optimizer.param_groups]
        super().__init__(optimizer, progress)

    def value(self, values: list[float]) -> float:
        """Returns the current value of what is `values[i]` at `ends[i]` of the run."""
        passed = min(1.0, self.progress.elapsed(self.over))
        phase = max(i for i, end in enumerate(self.ends[:-1]) if passed >= end)
        fraction = (passed - self.ends[phase]) / (self.ends[phase + 1] - self.ends[phase])
        return self.anneal(values[phase], values[phase + 1], fraction)

    def lr_of(self, initial_lr: float) -> float:
        """Returns the current learning rate of a group with an initial one."""
        return self.value(self.lrs) * self.ratio(initial_lr)

    def get_lr(self) -> list[Any]:
        """Returns the current learning rate of each group, and sets the groups' momentum."""
        if self.cycle_momentum:
            momentum = self.value(self.momenta)
            for group, sets_momentum in zip(self.optimizer.param_groups, self.sets_momentum, strict=True):
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                if sets_momentum:  # timm's Muon has both
                    group["momentum"] = momentum
        return super().get_lr()
