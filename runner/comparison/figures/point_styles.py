"""How methods are drawn as points: the colour says the learning rate, the marker what else a method is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.lines import Line2D

from ...reporting.figure_style import points
from ...reporting.method_styles import method_styles, name_parts, optimizer_of, part_label
from ...reporting.style import legend_columns
from ..methods import Method

RATE = "optimizer.lr"
MARKERS = "os^DvP*X<>"
DARKEST, LIGHTEST = 0.0, 0.88  # of the colours of learning rates: yellow is faint on white


@dataclass(frozen=True)
class PointStyle:
    """The colour and the marker of a method.

    Attributes:
        colour: of matplotlib.
        marker: of matplotlib.
        rate: label of the learning rate that the colour stands for; empty where it stands for the method.
        rest: label of what the marker stands for; empty where methods differ in the learning rate alone.
    """

    colour: Any
    marker: str
    rate: str
    rest: str


def point_styles(rests: Mapping[str, str]) -> dict[str, PointStyle]:
    """Returns the style of each method.

    Where methods differ in their optimizer, or not in the learning rate, their colours are those of other figures.

    Args:
        rests: the label of what a method is besides its learning rate, by the names of methods.
    """
    rates = {name: name_parts(name).get(RATE, "") for name in rests}
    colours: dict[str, Any] = {name: colour for name, (colour, _) in method_styles(rests).items()}
    if len(set(rates.values())) > 1 and len({optimizer_of(name) for name in rests}) == 1:
        ordered = sorted(set(rates.values()), key=lambda rate: float(rate) if rate else inf)
        shades = colormaps["viridis"](np.linspace(DARKEST, LIGHTEST, len(ordered)))
        colours = {name: tuple(shades[ordered.index(rate)]) for name, rate in rates.items()}
    else:
        rates = dict.fromkeys(rates, "")
    markers = {rest: MARKERS[i % len(MARKERS)] for i, rest in enumerate(dict.fromkeys(rests.values()))}
    return {
        name: PointStyle(colours[name], markers[rest], rates[name] and part_label(RATE, rates[name]), rest)
        for name, rest in rests.items()
    }


def rest_of_label(method: Method, apart: Mapping[str, str]) -> str:
    """Returns a method's label without these keys and values."""
    texts = {part_label(key, value) for key, value in apart.items()}
    return ", ".join(text for text in method.label.split(", ") if text not in texts)


def point_legend(styles: Iterable[PointStyle]) -> tuple[dict[str, Line2D], int]:
    """Returns the handles of a legend by their labels, and the number of its columns.

    The first column has the colours of the learning rates in their order, the others the markers; blank handles fill
    columns up, as a legend breaks the same list into all of them.
    """
    styles = list(styles)
    colours = {style.rate: style.colour for style in styles if style.rate}
    ordered = sorted(colours, key=lambda label: float(label.rpartition(" ")[2]))
    rates = {rate: Line2D([], [], color=colours[rate], linewidth=points(5)) for rate in ordered}
    rests: dict[str, Line2D] = {}
    for style in styles:
        if style.rest:
            colour = "0.5" if rates else style.colour
            look: dict[str, Any] = {"color": colour, "marker": style.marker, "markeredgecolor": "black"}
            rests.setdefault(style.rest, Line2D([], [], linestyle="none", markersize=points(7), **look))
    columns = legend_columns([*rates, *rests])
    if not (rates and rests) or columns == 1:
        return rates | rests, columns
    rows = max(len(rates), -(-len(rests) // (columns - 1)))
    last = -(-len(rests) // rows)
    blanks = [Line2D([], [], linestyle="none") for _ in range(rows * (1 + last) - len(rates) - len(rests))]
    labels = [" " * (n + 1) for n in range(len(blanks))]  # which differ, and are not seen
    blank, first = dict(zip(labels, blanks, strict=True)), rows - len(rates)
    fill = {label: blank.pop(label) for label in labels[:first]}
    return rates | fill | rests | blank, 1 + last
