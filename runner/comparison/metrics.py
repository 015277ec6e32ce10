"""The metrics by which runs are compared, and the axes of their curves. Needs no pandas."""

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric of a run: its column in the summaries, its label, and whether more is better."""

    column: str
    label: str
    more_is_better: bool


METRICS = {
    "final_top1": Metric("final.top1", "final top-1 (%)", True),
    "final_top5": Metric("final.top5", "final top-5 (%)", True),
    "final_loss": Metric("final.loss", "final loss", False),
    "best_top1": Metric("best_top1.value", "best top-1 (%)", True),
    "best_top5": Metric("best_top5.value", "best top-5 (%)", True),
    "lowest_loss": Metric("lowest_loss.value", "lowest loss", False),
    "train_seconds": Metric("train_seconds", "training time (s)", False),
}
# axes of curves, and units of the cost to reach a target: columns of the metrics
AXES = {
    "steps": "step",
    "epochs": "epoch",
    "samples": "samples",
    "gradients": "gradient_equivalents",
    "seconds": "train_seconds",
}
