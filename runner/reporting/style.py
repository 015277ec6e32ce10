"""The style that all figures share: colours, axes, legends, file formats.

matplotlib is imported where something is drawn: to show a run that has ended takes none of it.
"""

import logging
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .figure_style import DPI, STYLE, STYLES, legend_width, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

# Okabe and Ito's colours without yellow, which is faint on white, and four of Krzywinski's palette of 15: colour-blind
# readers can tell them apart, as no two are closer than Okabe and Ito's green and pink
COLOURS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "pink": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
    "wine": "#920000",
    "violet": "#490092",
    "lavender": "#B66DFF",
    "teal": "#004949",
}
PALETTE = tuple(COLOURS.values())
LINE_STYLES: dict[str, Any] = {
    **{name: name for name in ("solid", "dashed", "dotted", "dashdot")},
    "dash_dot_dot": (0, (5, 1, 1, 1, 1, 1)),
    "long_dashes": (0, (8, 3)),
    "wide_dots": (0, (1, 3)),
    "long_dash_dot": (0, (8, 2, 2, 2)),
}
LINES = tuple(LINE_STYLES.values())
SET_COLOURS = {"train": PALETTE[0], "validation": PALETTE[2], "test": PALETTE[1]}
TRAJECTORY_COLOUR = SET_COLOURS["test"]

SMOOTHED_FROM = 40  # values, below which a running mean is each of them
LOG_SCALE_RATIO = 10  # of the largest to the smallest value, above which an axis is logarithmic
MARKER_LIMIT = 40  # points, below which each is marked
MARGINS = {"left": 0.07, "right": 0.985, "bottom": 0.12, "top": 0.91, "wspace": 0.17}  # of a figure with two panels
TITLE_WIDTH = 13  # characters of a title that fit into an inch
LINE_INCHES = 0.2  # height of a line of a title or of a legend
OFF_AXIS = "the value before the first step is off the axis"  # a note
NARROW = 0.75  # exponent: a narrow figure is higher in proportion to its width
EMBEDDED_FONTS: dict[Any, Any] = {"pdf.fonttype": 42, "ps.fonttype": 42}  # TrueType: publishers refuse type 3


@dataclass(frozen=True)
class SavedFigure:
    """A figure on disk, in three formats.

    Attributes:
        name: of the files, without extension.
        title: what the figure shows, in a few words.
        svg: path of the SVG file.
        png: path of the PNG file.
        pdf: path of the PDF file, whose fonts are embedded.
    """

    name: str
    title: str
    svg: Path
    png: Path
    pdf: Path


def new_figure(panels: float, text: float = 0.0) -> "Figure":
    """Returns a figure as wide as the style says.

    Args:
        panels: height of its panels, in inches in the style `notebook`.
        text: height of the text below or above them, in the same unit.
    """
    from matplotlib.figure import Figure

    style, usual = STYLE.get(), STYLES["notebook"]
    height = panels * (style.width / usual.width) ** NARROW + text * style.font_size / usual.font_size
    return Figure(figsize=(style.width, height), layout="constrained")


def style_axes(axis: "Axes") -> None:
    """Draws a grid, and removes the spines at the top and at the right."""
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def legend_columns(labels: Iterable[str]) -> int:
    """Returns how many columns of a legend with these labels fit below a figure."""
    return max(1, legend_width() // (8 + max(map(len, labels), default=0)))


def legend_height(count: int, columns: int) -> float:
    """Returns how high a legend of so many labels is, in inches in the style `notebook`, as `new_figure` takes it."""
    return LINE_INCHES * -(-count // columns)


def add_legend(figure: "Figure", handles: dict[str, Any], columns: int = 1) -> None:
    """Adds a legend below a figure.

    Args:
        figure: all of whose panels share the legend.
        handles: what was drawn, by its label.
        columns: of the legend.
    """
    labels = [escape_math("\n".join(textwrap.wrap(label, legend_width()))) for label in handles]
    style: dict[str, Any] = {"ncols": columns, "frameon": False, "fontsize": points(9)}
    figure.legend(list(handles.values()), labels, loc="outside lower left", **style)


def set_note(axis: "Axes", text: str, beside: int = 0) -> None:
    """Writes a note of what is drawn above a panel, broken into lines as wide as the panel.

    Args:
        axis: of the panel.
        text: of the note.
        beside: characters of the labels at the panel's left.
    """
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, legend_width() - beside)]
    axis.set_title("\n".join(lines), fontsize=points(9), loc="left")


def escape_math(text: str) -> str:
    """Returns a text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def title_lines(title: str, inches: float) -> list[str]:
    """Returns the lines of a title above a figure of this width."""
    style, usual = STYLE.get(), STYLES["notebook"]
    letters = round(TITLE_WIDTH * inches * usual.font_size / (style.font_size * style.letter_width))
    return [part for line in title.splitlines() for part in textwrap.wrap(line, letters, break_on_hyphens=False)]


def set_title(figure: "Figure", title: str) -> None:
    """Writes a title of one or several lines above a figure; longer ones than the figure is wide are broken."""
    lines = title_lines(title, figure.get_figwidth())
    figure.suptitle("\n".join(lines), fontsize=points(10))
    more = len(lines) - 1 + any(axis.get_title(loc="left") for axis in figure.axes)  # a note stands below the title
    if more and figure.get_layout_engine() is None:
        figure.subplots_adjust(top=MARGINS["top"] - LINE_INCHES * more / figure.get_figheight())


@contextmanager
def missing_glyphs_ignored() -> Iterator[None]:
    """A name may have characters that matplotlib's font lacks: boxes stand for them, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def save_png(figure: "Figure", path: Path, title: str) -> Path:
    """Writes a figure with its title as PNG and returns its path."""
    set_title(figure, escape_math(title))
    label_log_axes(figure)
    with missing_glyphs_ignored():
        temporary = path.with_name(path.name + ".tmp")
        figure.savefig(temporary, dpi=DPI, format="png")
    return temporary.replace(path)


def label_log_axes(figure: "Figure") -> None:
    """Labels more ticks of logarithmic axes on which fewer than two powers of ten lie."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            locator = axis.get_major_locator()
            if axis.get_scale() != "log" or type(locator) is not LogLocator or ticks_shown(axis, locator) > 1:
                continue
            closer = [LogLocator(subs=subs) for subs in ((1.0, 3.0), (1.0, 2.0, 5.0))]
            axis.set_major_locator(next((one for one in closer if ticks_shown(axis, one) > 2), MaxNLocator(4)))
            axis.set_major_formatter(FuncFormatter("{:g}".format))
            axis.set_minor_formatter(NullFormatter())


def ticks_shown(axis: "Axis", locator: "Locator") -> int:
    """Returns how many ticks of a locator an axis would show."""
    low, high = sorted(axis.get_view_interval())
    return sum(low <= tick <= high for tick in locator.tick_values(low, high))


def save_figure(figure: "Figure", name: str, title: str, out: Path) -> SavedFigure:
    """Writes a figure into the folder `out` as SVG, PNG and PDF; equal figures give equal files."""
    from matplotlib import rc_context

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # Hydra's logger would print every table of a font
    label_log_axes(figure)
    saved = SavedFigure(name, title, *(out / f"{name}.{form}" for form in ("svg", "png", "pdf")))
    with missing_glyphs_ignored(), rc_context(EMBEDDED_FONTS | {"svg.hashsalt": name}):
        figure.savefig(saved.svg, metadata={"Date": None})
        figure.set_layout_engine("none")  # the layout is made once, and is that of all three
        figure.savefig(saved.png, dpi=STYLE.get().dpi)
        figure.savefig(saved.pdf, metadata={"CreationDate": None})
    return saved


def needs_log_scale(values: np.ndarray) -> bool:
    """Returns whether the axis of values is logarithmic: all are positive, the largest over 10 times the smallest."""
    return bool(values.min() > 0 and values.max() > LOG_SCALE_RATIO * values.min())


def fit_percentages(axis: "Axes", lines: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> bool:
    """Ends an axis of percentages at the values after the first step; those before it would take most of its length.

    A line with a single value after the first step is shown whole.

    Args:
        axis: of the panel.
        lines: for each, x (0 before the first step), and its lowest and highest values at each.

    Returns:
        Whether a point is off the axis.
    """
    lines = [tuple(part[np.isfinite(low + high)] for part in (x, low, high)) for x, low, high in lines]
    parts = [(x > 0 if (x > 0).sum() > 1 else x >= 0, low, high) for x, low, high in lines if (x > 0).any()]
    after = [(low[is_shown], high[is_shown]) for is_shown, low, high in parts]
    if not after:
        return False
    low, high = min(np.min(values) for values, _ in after), max(np.max(values) for _, values in after)
    margin = 0.05 * (high - low) or 1.0
    axis.set_ylim(low - margin, high + margin)
    return any(((lows < low - margin) | (highs > high + margin)).any() for _, lows, highs in lines)


def plot_set(axis: "Axes", kind: str, x: np.ndarray, values: np.ndarray) -> None:
    """Draws a line of `train` (batches, smoothed), `validation` or `test` (evaluations) in the set's colour."""
    if kind == "train":
        label = "batches, running mean" if len(x) >= SMOOTHED_FROM else "single batches"
        plot_smoothed(axis, x, values, SET_COLOURS[kind], label=f"train ({label})")
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
    half = len(values) // SMOOTHED_FROM
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)
