"""A table with a title and a note, in the report, in table.md and in table.tex."""

from collections.abc import Collection
from typing import NamedTuple

from ...reporting.tables import LAYOUTS, escape_latex, latex, markdown
from .layout import fitting_layout, wrapped_columns

FOR_TEXT = "% for the text: "  # begins a comment of table.tex
NARROW = 4.0  # inches, below which a column is one of two on the page


class NotedTable(NamedTuple):
    """A table with its title and a note below it.

    Attributes:
        key: for references to it.
        title: what it shows, in a few words.
        header: a cell for each column.
        rows: of as many cells; the first column is a name.
        note: what its cells mean, in sentences; the caption in a paper.
        hint: which files and options say more, in sentences; not in a paper.
        left: numbers of the columns that hold text, and are left-aligned.
        details: how its values came about, and what they do not show, in sentences; for the text of a paper.
    """

    key: str
    title: str
    header: list[str]
    rows: list[list[str]]
    note: str
    hint: str = ""
    left: Collection[int] = (0,)
    details: str = ""


def as_markdown(tables: list[NotedTable]) -> str:
    """Returns tables in Markdown, each with its title and its note."""
    parts = (
        f"\n## {t.title}\n\n{markdown(t.header, t.rows, t.left)}\n"
        f"{' '.join(filter(None, (t.note, t.details, t.hint)))}\n"
        for t in tables
    )
    return "".join(parts)


def as_latex(tables: list[NotedTable], width: float, label: str) -> str:
    """Returns tables in LaTeX, each with its note as the caption, and its details in a comment.

    Args:
        tables: those that do not fit into the width are as wide as the page.
        width: of a column of the page, in inches.
        label: begins their labels.
    """
    texts = []
    for t in tables:
        fitting = fitting_layout(t.header, t.rows, width)
        layout, is_wide = fitting or LAYOUTS[-1], fitting is None
        page = 2 * width if width < NARROW else width
        wrapped = wrapped_columns(t.header, t.rows, t.left, page) if is_wide else {}
        texts.append(f"{FOR_TEXT}{escape_latex(t.details)}\n" if t.details else "")
        caption = f"{t.title}. {t.note}"
        texts[-1] += latex(t.header, t.rows, caption, f"{label}-{t.key}", t.left, layout, is_wide, wrapped)
    return "".join(f"\n{text}" for text in texts)


def short(value: str) -> str:
    """Returns a number with four digits, and other text as it is.

    >>> short("0.04491523825137997"), short("[0.9,0.999]"), short("64")
    ('0.04492', '[0.9,0.999]', '64')
    """
    try:
        return value if value.lstrip("-").isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value
