"""Figures of the Fisher measures (Liao 2018) of many runs: curves, errors, and the plane of C_K and L_K."""

from dataclasses import replace
from pathlib import Path

from ...reporting.fisher_curves import CUMULATIVE, PER_STEP
from ...reporting.style import SavedFigure, running_mean, save_figure
from ..methods import AXES, Comparison
from .curves import Curve, draw_curve_panels, method_curves
from .fisher_plane import draw_fisher_plane


def draw_fisher_figures(comparison: Comparison, x_axis: str, out: Path) -> list[SavedFigure]:
    """Draws the measures of the diagnostic `fisher` into `out`, as PDF, SVG and PNG; nothing where no run has them.

    Args:
        comparison: the methods and their runs.
        x_axis: one of AXES.
        out: an existing folder.
    """

    def curves(kind: str, column: str) -> dict[str, Curve]:
        return method_curves(comparison, kind, column, AXES[x_axis])

    single = {label: {n: smooth(c) for n, c in curves("probe", name).items()} for name, label in PER_STEP.items()}
    cumulative = {label: curves("probe", name) for name, label in CUMULATIVE.items()}
    measures = {label: lines for label, lines in (single | cumulative).items() if lines}
    if not measures:
        return []
    figure = draw_curve_panels(measures, comparison.methods, x_axis, across=2)
    figures = [save_figure(figure, "fisher", f"Condition and energy of the gradients vs. {x_axis}", out)]
    panels = {
        "training error (%), running mean": curves("train", "top1"),
        "test error (%)": curves("test", "top1"),
    }
    errors = {label: {n: error_curve(c) for n, c in lines.items()} for label, lines in panels.items() if lines}
    if errors:
        figure = draw_curve_panels(errors, comparison.methods, x_axis)
        figures.append(save_figure(figure, "errors", f"Training and test error vs. {x_axis}", out))
    return [*figures, *draw_fisher_plane(comparison, out)]


def smooth(curve: Curve) -> Curve:
    """Returns a curve's running mean, with its range smoothed alike."""
    mean, low, high = (running_mean(values) for values in (curve.mean, curve.low, curve.high))
    return replace(curve, mean=mean, low=low, high=high)


def error_curve(accuracy: Curve) -> Curve:
    """Returns the curve of the error, 100 % minus the accuracy."""
    return replace(accuracy, mean=100 - accuracy.mean, low=100 - accuracy.high, high=100 - accuracy.low)
