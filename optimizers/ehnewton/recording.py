"""Steps of EHNewton that a CUDA graph can hold."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .solution import report_of


class RecordedStep(NamedTuple):
    """What a step computes that reads no number of the device.

    Attributes:
        loss: before the step.
        finite: numbers (n,); where one is not finite, `step` would have raised FloatingPointError.
        numbers: what the report is made of (m,).
        systems: number of the systems of equations.
    """

    loss: Tensor
    finite: Tensor
    numbers: Tensor
    systems: int

    def report(self, values: Sequence[float]) -> dict[str, Any]:
        """Returns what `last_step` would be, by the values of `numbers`."""
        return report_of(values, self.systems)


def reason_to_read(options: dict[str, Any]) -> str | None:
    """Returns why steps with these options must read numbers of the device, or None if they need not."""
    reasons = {
        "adapt_damping=true: the host compares losses": options["adapt_damping"],
        f"backtracking={options['backtracking']}: the host compares losses": options["backtracking"] > 0,
        f"warm_start={options['warm_start']}: how many products a step makes is known during it": options["warm_start"],
        "preconditioner=diagonal: its bias correction is another number in each step": (
            options["preconditioner"] == "diagonal"
        ),
        f"preconditioner=kronecker with cg_max_iter={options['cg_max_iter']}: what a step costs is known during it": (
            options["preconditioner"] == "kronecker" and options["cg_max_iter"] > 1
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
