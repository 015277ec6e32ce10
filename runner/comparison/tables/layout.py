"""How wide a table of LaTeX is: the size of letters at which it fits into a column, estimated in Computer Modern."""

import re
from collections.abc import Collection, Sequence

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from ...reporting.tables import LAYOUTS, Layout, escape_latex, stacked

POINTS = 72.27  # of LaTeX in an inch
NARROWER = 1.06  # letters of 8 points are wider than those of 10 points that are scaled down
BOLDER = 1.15  # bold letters are so much wider
SHORTEST = 1.0  # column of several lines, in inches
MEASURED = re.compile(r"[^A-Za-z0-9 .,+()=*/:;-]")  # the font lacks other letters


def table_width(header: Sequence[str], rows: Sequence[Sequence[str]], layout: Layout) -> float:
    """Returns the width of a table in inches, estimated.

    Args:
        header: a cell for each column, text or Tex.
        rows: of as many cells.
        layout: of the table.
    """
    return sum(column_widths(header, rows, layout))


def column_widths(header: Sequence[str], rows: Sequence[Sequence[str]], layout: Layout) -> list[float]:
    """Returns the width of each column of a table, with the space around it, in inches."""
    heads = [stacked(head) if layout.is_stacked else [escape_latex(head)] for head in header]
    columns = zip(*([escape_latex(cell) for cell in row] for row in rows), strict=True)
    cells = ([*head, *column] for head, column in zip(heads, columns, strict=True))
    widths = (max(text_width(cell, layout.points) for cell in column) for column in cells)
    return [(width + 2 * layout.separation) / POINTS for width in widths]


def fitting_layout(header: Sequence[str], rows: Sequence[Sequence[str]], width: float) -> Layout | None:
    """Returns the layout with the largest letters in which a table fits into a width (inches); None: in none."""
    return next((layout for layout in LAYOUTS if table_width(header, rows, layout) <= width), None)


def wrapped_columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int], width: float
) -> dict[int, float]:
    """Returns the widths of the columns whose cells get several lines so that a table fits into a width, in inches.

    They hold several words, and are not the last one. None becomes narrower than SHORTEST, where the table stays wider.
    """
    widths = column_widths(header, rows, LAYOUTS[-1])
    texts = [i for i in left if i < len(widths) - 1 and any(" " in row[i] for row in rows)]
    limit = max(widths)
    while limit > SHORTEST and sum(min(w, limit) if i in texts else w for i, w in enumerate(widths)) > width:
        limit -= 0.05
    return {i: limit - 2 * LAYOUTS[-1].separation / POINTS for i in texts if widths[i] > limit}


def text_width(tex: str, points: float) -> float:
    """Returns the width of a cell in points."""
    bold = "".join(re.findall(r"\\textbf\{([^}]*)\}", tex))
    plain = re.sub(r"\\textbf\{([^}]*)\}", r"\1", tex).replace(r"$\pm$", "+").replace("$-$", "+").replace(r"\,", "")
    plain = re.sub(r"\\times", "+", re.sub(r"[{}$^]", "", plain)).replace(r"\%", "m")
    letters = MEASURED.sub("x", plain.replace("\\", ""))
    return NARROWER * (measured(letters, points) + (BOLDER - 1) * measured(bold, points))


def measured(text: str, points: float) -> float:
    """Returns the width of text in Computer Modern, in points."""
    if not text:
        return 0.0
    font = FontProperties(family="cmr10", size=points)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])
