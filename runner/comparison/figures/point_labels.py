"""Texts beside points that cover neither one another nor the points."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from ...reporting.figure_style import points

DISTANCES = (1.2, 2.4, 3.8)  # of a text from its point, in its font size
DIRECTIONS = ((1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
PointLabels = list[tuple[str, np.ndarray]]  # texts, each with its point


def write_labels(figure: Figure, axis: Axes, texts: PointLabels) -> None:
    """Writes texts beside their points, each where it covers no other text and no point."""
    size = points(8)
    figure.draw_without_rendering()  # the layout decides where points lie
    places = [axis.transData.transform(line.get_xydata()) for line in axis.get_lines()]
    reach = size / 4 * figure.dpi / 72
    covered = [Bbox([place - reach, place + reach]) for line in places for place in line]
    covered += [text.get_window_extent() for text in axis.texts]
    for text, point in texts:
        if text:
            note = axis.annotate(text, tuple(point), (0, 0), textcoords="offset points", fontsize=size, zorder=5)
            covered.append(place_label(note, size, covered))


def place_label(note: Annotation, size: float, covered: list[Bbox]) -> Bbox:
    """Moves a text to the first place around its point where it covers nothing, and returns its box there.

    Where no place is free it is the one where it covers least.
    """
    candidates = []
    for distance in DISTANCES:
        for x, y in DIRECTIONS:
            length = distance * size * 0.6 / max(1.0, (x * x + y * y) ** 0.5)
            note.set_position((x * length, y * length))
            alignment = {"ha": ("center", "left", "right")[x], "va": ("center", "bottom", "top")[y]}
            note.set(**alignment)
            box = note.get_window_extent()
            overlaps = [Bbox.intersection(box, other) for other in covered]
            area = sum(part.width * part.height for part in overlaps if part is not None)
            if area == 0:
                return box
            candidates.append((area, alignment | {"position": note.get_position()}, box))
    _, place, box = min(candidates, key=lambda entry: entry[0])
    note.set(**place)
    return box
