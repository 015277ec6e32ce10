"""The style that all figures share: colours, axes, legends, file formats.

matplotlib is imported where something is drawn: to show a run that has ended takes none of it.
"""

import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart; yellow, the faintest on white, comes last
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
SET_COLOURS = {"train": PALETTE[0], "validation": PALETTE[2], "test": PALETTE[1]}
TRAJECTORY_COLOUR = SET_COLOURS["test"]

LOG_SCALE_RATIO = 30  # of the largest to the smallest value, above which an axis is logarithmic
MARKER_LIMIT = 40  # points, below which each is marked
MARGINS = {"left": 0.07, "right": 0.985, "bottom": 0.12, "top": 0.91, "wspace": 0.17}  # of a figure with two panels
LEGEND_WIDTH = 95  # characters that fit side by side below a figure
TITLE_WIDTH = 13  # characters of a title that fit into an inch
LINE_INCHES = 0.2  # height of a line of a title
DPI = 120


@dataclass(frozen=True)
class SavedFigure:
    """A figure on disk, in two formats.

    Attributes:
        name: of the files, without extension.
        title: what the figure shows, in a few words.
        svg: path of the SVG file.
        png: path of the PNG file.
    """

    name: str
    title: str
    svg: Path
    png: Path


def new_figure(height: float) -> "Figure":
    """Returns a figure as wide as a column of the report, `height` in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(7.2, height), layout="constrained")


def style_axes(axis: "Axes") -> None:
    """Draws a grid, and removes the spines at the top and at the right."""
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def add_legend(figure: "Figure", handles: dict[str, Any], columns: int = 1) -> None:
    """Adds a legend below a figure.

    Args:
        figure: all of whose panels share the legend.
        handles: what was drawn, by its label.
        columns: of the legend.
    """
    labels = [escape_math("\n".join(textwrap.wrap(label, LEGEND_WIDTH))) for label in handles]
    style: dict[str, Any] = {"ncols": columns, "frameon": False, "fontsize": 9}
    figure.legend(list(handles.values()), labels, loc="outside lower left", **style)


def escape_math(text: str) -> str:
    """Returns a text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def set_title(figure: "Figure", title: str) -> None:
    """Writes a title of one or several lines above a figure; longer ones than the figure is wide are broken."""
    width = round(TITLE_WIDTH * figure.get_figwidth())
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, width, break_on_hyphens=False)]
    figure.suptitle("\n".join(lines), fontsize=10)
    if len(lines) > 1 and figure.get_layout_engine() is None:
        figure.subplots_adjust(top=MARGINS["top"] - LINE_INCHES * (len(lines) - 1) / figure.get_figheight())


@contextmanager
def missing_glyphs_ignored() -> Iterator[None]:
    """A name may have characters that matplotlib's font lacks: boxes stand for them, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def save_png(figure: "Figure", path: Path, title: str) -> Path:
    """Writes a figure with its title as PNG and returns its path."""
    set_title(figure, escape_math(title))
    with missing_glyphs_ignored():
        figure.savefig(path, dpi=DPI)
    return path


def save_figure(figure: "Figure", name: str, title: str, out: Path) -> SavedFigure:
    """Writes a figure into the folder `out` as SVG and PNG; equal figures give equal files."""
    from matplotlib import rc_context

    saved = SavedFigure(name, title, out / f"{name}.svg", out / f"{name}.png")
    with missing_glyphs_ignored(), rc_context({"svg.hashsalt": name}):
        figure.savefig(saved.svg, metadata={"Date": None})
        figure.savefig(saved.png, dpi=DPI)
    return saved


def needs_log_scale(values: np.ndarray) -> bool:
    """Returns whether values are positive and cover so wide a range that their axis should be logarithmic."""
    return bool(values.min() > 0 and values.max() > LOG_SCALE_RATIO * values.min())


def plot_set(axis: "Axes", kind: str, x: np.ndarray, values: np.ndarray) -> None:
    """Draws a line of `train` (batches, smoothed), `validation` or `test` (evaluations) in the set's colour."""
    if kind == "train":
        plot_smoothed(axis, x, values, SET_COLOURS[kind], label="train (batches, running mean)")
    else:
        marker = "o" if len(x) < MARKER_LIMIT else None
        axis.plot(x, values, color=SET_COLOURS[kind], marker=marker, markersize=3, label=kind)


def plot_smoothed(axis: "Axes", x: np.ndarray, values: np.ndarray, colour: str, **style: Any) -> None:
    """Draws the running mean of noisy values, and faintly the values themselves; `style` is that of the mean."""
    axis.plot(x, values, color=colour, alpha=0.25, linewidth=0.8)
    marker = "o" if len(x) < MARKER_LIMIT else None  # one row alone makes no line
    axis.plot(x, running_mean(values), color=colour, marker=marker, markersize=3, **style)


def running_mean(values: np.ndarray) -> np.ndarray:
    """Returns the mean over a window of a twentieth of all values around each; at the ends the window is shorter.

    >>> running_mean(np.array([0.0, 2.0, 4.0])).tolist()
    [0.0, 2.0, 4.0]
    """
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)
