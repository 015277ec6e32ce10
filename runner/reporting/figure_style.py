"""Size and fonts of figures: in a notebook, in a paper, on slides. Needs neither numpy nor matplotlib."""

import re
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from ..system.errors import UserError

DPI = 120
LEGEND_WIDTH = 95  # characters that fit side by side below a figure in the style `notebook`
INCHES = {"in": 1.0, "mm": 1 / 25.4, "cm": 1 / 2.54, "pt": 1 / 72.27}  # LaTeX's points
WIDTHS = (1.5, 30.0)  # of a figure, in inches


@dataclass(frozen=True)
class FigureStyle:
    """Size and fonts of figures.

    Attributes:
        width: in inches.
        table_width: of a column of the page, into which tables of LaTeX fit, in inches.
        font_size: in points.
        dpi: of PNG files.
        letter_width: of the font, in that of the style `notebook` at the same size.
        settings: of matplotlib, where they differ from its defaults.
    """

    width: float = 7.2
    table_width: float = 5.5  # the text of NeurIPS and ICLR
    font_size: float = 10.0
    dpi: int = DPI
    letter_width: float = 1.0
    settings: Mapping[Any, Any] = field(default_factory=dict)


STYLES = {
    "notebook": FigureStyle(),
    # a column of a two-column page, with the letters of Times, which most templates have
    "paper": FigureStyle(
        3.3,
        3.3,
        8.0,
        300,
        0.8,
        {
            "font.family": ["STIXGeneral", "DejaVu Sans"],
            "mathtext.fontset": "stix",
            "lines.linewidth": 1.0,
            **{"axes.linewidth": 0.6, "grid.linewidth": 0.5, "hatch.linewidth": 0.6},
            **{f"{axis}tick.{part}": 0.6 for axis in "xy" for part in ("major.width", "minor.width")},
            **{f"{axis}tick.{part}": 2.5 for axis in "xy" for part in ("major.size", "major.pad")},
            **{f"{axis}tick.minor.size": 1.5 for axis in "xy"},
            "axes.labelpad": 2.0,
        },
    ),
    "slides": FigureStyle(
        12.0,
        5.5,
        18.0,
        150,
        settings={"lines.linewidth": 2.5, "axes.linewidth": 1.2, "grid.linewidth": 1.0, "axes.titlepad": 10.0},
    ),
}
STYLE: ContextVar[FigureStyle] = ContextVar("style", default=STYLES["notebook"])


@contextmanager
def figure_style(name: str = "notebook", width: str | None = None) -> Iterator[None]:
    """Figures that are made and saved while entered have this style.

    Args:
        name: one of STYLES.
        width: of the figures, as `3.3in` or `84mm`; None: that of the style.

    Raises:
        UserError: the width is none, or out of WIDTHS.
    """
    from matplotlib import rc_context

    style = STYLES[name]
    style = style if width is None else replace(style, width=parse_width(width), table_width=parse_width(width))
    token = STYLE.set(style)
    try:
        with rc_context(dict(style.settings) | {"font.size": style.font_size}):
            yield
    finally:
        STYLE.reset(token)


def add_style_flags(parser: ArgumentParser) -> None:
    """Adds the flags of a command that say how its figures look: `--style` and `--width`."""
    parser.add_argument(
        "--style",
        choices=tuple(STYLES),
        default="notebook",
        help="size and fonts of figures (paper: for a column of two, in Times); default: notebook",
    )
    parser.add_argument(
        "--width",
        type=checked_width,
        metavar="LENGTH",
        help="width of figures and of table.tex, as 3.3in or 84mm; default: that of the style",
    )


def checked_width(text: str) -> str:
    """Returns a length as it was typed; UserError where it is none, as of `parse_width`."""
    parse_width(text)
    return text


def parse_width(text: str) -> float:
    """Returns a length in inches.

    >>> round(parse_width("84mm"), 2), parse_width("3.3in")
    (3.31, 3.3)
    """
    match = re.fullmatch(rf"(\d+\.?\d*|\.\d+)\s*({'|'.join(INCHES)})", text.strip())
    if match is None:
        raise UserError(f"--width {text}: must be a length with its unit, as 3.3in, 84mm, 8.4cm or 240pt")
    width = float(match[1]) * INCHES[match[2]]
    if not WIDTHS[0] <= width <= WIDTHS[1]:
        raise UserError(f"--width {text}: must be from {WIDTHS[0]:g} to {WIDTHS[1]:g} inches")
    return width


def points(size: float) -> float:
    """Returns the font size of text that has `size` points in the style `notebook`."""
    return size * STYLE.get().font_size / STYLES["notebook"].font_size


def legend_width() -> int:
    """Returns the number of characters that fit side by side below a figure."""
    style, usual = STYLE.get(), STYLES["notebook"]
    return round(LEGEND_WIDTH * style.width / usual.width * usual.font_size / (style.font_size * style.letter_width))
