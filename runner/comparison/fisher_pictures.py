"""Pictures of the measures of Liao 2018 of many runs over an axis; `fisher_plane` has the others."""

from dataclasses import replace
from pathlib import Path

from ..reporting.fisher_curves import CUMULATIVE, PER_STEP
from ..reporting.style import SavedFigure, running_mean, save_figure
from .fisher_plane import draw_plane
from .methods import AXES, Comparison
from .pictures import LABELS, Curve, curves_of, draw_lines


def draw_fisher_pictures(comparison: Comparison, against: str, out: Path) -> list[SavedFigure]:
    """Draws what the rows of the fisher probe hold into `out`, as SVG and PNG; nothing where there are none.

    Args:
        comparison: the methods and their runs.
        against: one of AXES, the horizontal axis of the lines.
        out: a folder that is there.
    """

    def curves(kind: str, column: str) -> dict[str, Curve]:
        return curves_of(comparison, kind, column, AXES[against])

    single = {label: {n: smoothed(c) for n, c in curves("probe", name).items()} for name, label in PER_STEP.items()}
    so_far = {label: curves("probe", name) for name, label in CUMULATIVE.items()}
    measures = {label: lines for label, lines in (single | so_far).items() if lines}
    if not measures:
        return []
    figure = draw_lines(measures, comparison.methods, LABELS[against], across=2)
    pictures = [save_figure(figure, "fisher", f"Condition and energy of the gradients against {against}", out)]
    panels = {
        "training error (%), running mean": curves("train", "top1"),
        "test error (%)": curves("test", "top1"),
    }
    errors = {label: {n: error(c) for n, c in lines.items()} for label, lines in panels.items() if lines}
    if errors:
        figure = draw_lines(errors, comparison.methods, LABELS[against])
        pictures.append(save_figure(figure, "errors", f"Training and test error against {against}", out))
    return [*pictures, *draw_plane(comparison, out)]


def smoothed(curve: Curve) -> Curve:
    """Returns a curve's running mean, with the band smoothed alike."""
    mean, low, high = (running_mean(values) for values in (curve.mean, curve.low, curve.high))
    return replace(curve, mean=mean, low=low, high=high)


def error(accuracy: Curve) -> Curve:
    """Returns the curve of 100 % less an accuracy."""
    return replace(accuracy, mean=100 - accuracy.mean, low=100 - accuracy.high, high=100 - accuracy.low)
