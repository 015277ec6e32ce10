"""What all figures share: colours, axes, legends, files."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart; yellow, the faintest on white, comes last
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


COLOURS = {"train": PALETTE[0], "validation": PALETTE[2], "test": PALETTE[1]}


PATH_COLOUR = COLOURS["test"]  # of a test function


WIDE = 30  # a loss that falls by such a factor is drawn on a logarithmic axis


FEW = 40  # points, below which each is marked


MARGINS = {"left": 0.07, "right": 0.985, "bottom": 0.12, "top": 0.91, "wspace": 0.17}  # of the picture


def tidy(axis: "Axes") -> None:
    """Gives a panel its grid, and take away the lines above and to the right of it."""
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def saved(figure: "Figure", path: Path, title: str) -> Path:
    """Writes a figure with its title and returns its path."""
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)
    return path


def is_wide(values: np.ndarray) -> bool:
    """Returns whether positive values need a logarithmic axis."""
    return bool(values.min() > 0 and values.max() > WIDE * values.min())


def running_mean(values: np.ndarray) -> np.ndarray:
    """Returns the mean of each value and those around it, over a twentieth of the whole; shorter at the ends.

    >>> running_mean(np.array([0.0, 2.0, 4.0])).tolist()
    [0.0, 2.0, 4.0]
    """
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


LEGEND_WIDTH = 95  # letters that fit side by side below a picture


@dataclass(frozen=True)
class Picture:
    """A picture on disk, in two formats.

    Attributes:
        name: of the files, without what comes after the dot.
        title: what it shows, in a few words.
        svg: a path.
        png: a path.
    """

    name: str
    title: str
    svg: Path
    png: Path


def add_legend(figure: "Figure", drawn: dict[str, Any], columns: int = 1) -> None:
    """Writes below a figure what was drawn, by name."""
    names = [plain("\n".join(textwrap.wrap(name, LEGEND_WIDTH))) for name in drawn]
    style: dict[str, Any] = {"ncols": columns, "frameon": False, "fontsize": 9}
    figure.legend(list(drawn.values()), names, loc="outside lower left", **style)


def new_figure(height: float) -> "Figure":
    """Returns a canvas as wide as a column of the report, `height` in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(7.2, height), layout="constrained")


def plain(name: str) -> str:
    """Returns a name in which matplotlib sees no formula."""
    return name.replace("$", r"\$")


def save(figure: "Figure", name: str, title: str, out: Path) -> Picture:
    """Writes both files of a picture; equal pictures make equal files."""
    from matplotlib import rc_context

    picture = Picture(name, title, out / f"{name}.svg", out / f"{name}.png")
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(picture.svg, metadata={"Date": None})
    figure.savefig(picture.png, dpi=120)
    return picture
