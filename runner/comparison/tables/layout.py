"""How wide a table of LaTeX is: the size of letters at which it fits into a column, estimated in Computer Modern."""

import re
from collections.abc import Sequence

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from ...reporting.tables import LAYOUTS, Layout, escape_latex, stacked

POINTS = 72.27  # of LaTeX in an inch
NARROWER = 1.06  # letters of 8 points are wider than those of 10 points that are scaled down
BOLDER = 1.15  # bold letters are so much wider
MEASURED = re.compile(r"[^A-Za-z0-9 .,+()=*/:;-]")  # the font lacks other letters


def table_width(header: Sequence[str], rows: Sequence[Sequence[str]], layout: Layout) -> float:
    """Returns the width of a table in inches, estimated.

    Args:
        header: a cell for each column, text or Tex.
        rows: of as many cells.
        layout: of the table.
    """
    heads = [stacked(head) if layout.is_stacked else [escape_latex(head)] for head in header]
    columns = zip(*([escape_latex(cell) for cell in row] for row in rows), strict=True)
    cells = ([*head, *column] for head, column in zip(heads, columns, strict=True))
    widths = [max(text_width(cell, layout.points) for cell in column) for column in cells]
    return (sum(widths) + 2 * layout.separation * len(widths)) / POINTS


def fitting_layout(header: Sequence[str], rows: Sequence[Sequence[str]], width: float) -> Layout | None:
    """Returns the layout with the largest letters in which a table fits into a width (inches); None: in none."""
    return next((layout for layout in LAYOUTS if table_width(header, rows, layout) <= width), None)


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
