"""A table with a title and a note, in the report, in table.md and in table.tex."""

from typing import NamedTuple

from ...reporting.tables import latex, markdown


class NotedTable(NamedTuple):
    """A table with its title and a note below it.

    Attributes:
        key: for references to it.
        title: what it shows, in a few words.
        header: a cell for each column.
        rows: of as many cells; the first column is a name.
        note: what its cells mean, in sentences.
    """

    key: str
    title: str
    header: list[str]
    rows: list[list[str]]
    note: str


def as_markdown(tables: list[NotedTable]) -> str:
    """Returns tables in Markdown, each with its title and its note."""
    parts = (f"\n## {t.title}\n\n{markdown(t.header, t.rows)}\n{t.note}\n" for t in tables)
    return "".join(parts)


def as_latex(tables: list[NotedTable]) -> str:
    """Returns tables in LaTeX, each with its note as the caption."""
    return "".join(f"\n{latex(t.header, t.rows, f'{t.title}. {t.note}', f'tab:{t.key}')}" for t in tables)


def short(value: str) -> str:
    """Returns a number with four digits, and other text as it is.

    >>> short("0.04491523825137997"), short("[0.9,0.999]"), short("64")
    ('0.04492', '[0.9,0.999]', '64')
    """
    try:
        return value if value.lstrip("-").isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value
