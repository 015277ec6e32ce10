"""Tables as Markdown and LaTeX."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple


def markdown(header: list[str], rows: list[list[str]], left: Collection[int] = (0,)) -> str:
    """Returns a table in Markdown; its columns are aligned in the source text, too.

    >>> print(markdown(["method", "loss"], [["adam", "0.3"]]), end="")
    | method | loss |
    | ------ | ---: |
    | adam   |  0.3 |

    Args:
        header: a cell for each column.
        rows: lists of as many cells.
        left: numbers of the columns that are left-aligned.
    """
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width if i in left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]

    def aligned(line: list[str]) -> str:
        cells = [f"{c:<{w}}" if i in left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        return "| " + " | ".join(cells) + " |\n"

    return "".join(map(aligned, [lines[0], rule, *lines[1:]]))


class Layout(NamedTuple):
    """How a table of LaTeX is set.

    Attributes:
        size: the command for its letters.
        points: their size in a document of 10 points.
        separation: half of the space between columns, in points.
        is_stacked: whether heads have two lines.
    """

    size: str
    points: int
    separation: int
    is_stacked: bool


LAYOUTS = (Layout("small", 9, 6, is_stacked=False), Layout("footnotesize", 8, 3, is_stacked=True))  # widest first


class Tex(str):
    """Text that is LaTeX already."""

    __slots__ = ()


def latex(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str,
    label: str,
    left: Collection[int] = (0,),
    layout: Layout = LAYOUTS[0],
    is_wide: bool = False,
    wrapped: Mapping[int, float] = MappingProxyType({}),
) -> str:
    """Returns a table in LaTeX for the package booktabs.

    Args:
        header: a cell for each column; Tex is left as it is, all other text is escaped.
        rows: of as many cells; in text, numbers get the signs and powers of mathematics.
        caption: of the table, which floats, and is made smaller where it is wider than the text (package graphicx).
        label: for references to it.
        left: numbers of the columns that are left-aligned.
        layout: its letters, and the space between its columns.
        is_wide: whether it is as wide as the page where that has two columns.
        wrapped: widths, in inches, of columns whose cells have several lines, by their number; not of the last column.
    """

    def line(cells: Iterable[str]) -> str:
        return " & ".join(cells) + r" \\" + "\n"

    body = "".join(line(c if isinstance(c, Tex) else with_signs(escape_latex(c)) for c in row) for row in rows)
    alignment = ["l" if i in left else "r" for i in range(len(header))]
    columns = "".join(
        f">{{\\raggedright}}p{{{wrapped[i]:.2f}in}}" if i in wrapped else a for i, a in enumerate(alignment)
    )
    heads = map(stacked_head, header, alignment) if layout.is_stacked else map(escape_latex, header)
    start = f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
    tabular = f"{start}{line(heads)}\\midrule\n{body}\\bottomrule\n\\end{{tabular}}"
    fitted = f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n{tabular}%\n}}"
    texts = f"\\caption{{{escape_latex(caption)}}}\n\\label{{{label}}}\n\\smallskip"
    head = "% needs \\usepackage{array,booktabs,graphicx}\n"
    space = f"\\setlength{{\\tabcolsep}}{{{layout.separation}pt}}"
    name = "table*" if is_wide else "table"
    return f"{head}\\begin{{{name}}}\n\\centering\\{layout.size}{space}\n{texts}\n{fitted}\n\\end{{{name}}}\n"


def label_of(folder: Path) -> str:
    """Returns the label of the table in a folder: its name, of a folder `comparison` with the name of the one above.

    >>> label_of(Path("papers/adam_vs. SGD")), label_of(Path("outputs/duel/comparison"))
    ('tab:adam-vs-SGD', 'tab:duel-comparison')
    """
    folder = folder.resolve()
    name = f"{folder.parent.name} {folder.name}" if folder.name == "comparison" else folder.name
    return f"tab:{'-'.join(re.findall('[A-Za-z0-9]+', name)) or 'comparison'}"


def stacked(head: str) -> list[str]:
    """Returns the head of a column as LaTeX, in one line or in the two whose longer one is the shortest.

    >>> stacked("epochs to 97.5 %"), stacked("method")
    (['epochs to', '97.5 \\\\%'], ['method'])
    """
    words = escape_latex(head).split(" ")
    ways = [[" ".join(words[:i]), " ".join(words[i:])] for i in range(1, len(words))]
    return min(ways, key=lambda lines: max(map(len, lines)), default=words)


def stacked_head(head: str, alignment: str) -> str:
    """Returns the head of a column in LaTeX, in two lines where it has two words."""
    lines = stacked(head)
    text = r"\\".join(lines)
    return text if len(lines) == 1 else f"\\begin{{tabular}}[b]{{@{{}}{alignment}@{{}}}}{text}\\end{{tabular}}"


def with_signs(text: str) -> str:
    """Returns LaTeX whose numbers have the signs and powers of mathematics.

    >>> print(with_signs("-0.5 to +2, 1e-05, 2.5e-08"))
    $-$0.5 to +2, $10^{-5}$, $2.5\\times10^{-8}$
    """
    text = re.sub(r"(?<![\w.)}-])-(?=\.?\d)", "$-$", text)

    def power(match: re.Match[str]) -> str:
        factor = "" if match[1] == "1" else f"{match[1]}\\times"
        return f"${factor}10^{{{int(match[2])}}}$"

    return re.sub(r"(?<![\w.])(\d+(?:\.\d+)?)e([+-]?\d+)\b", power, text)


def escape_latex(text: str) -> str:
    """Returns text that LaTeX prints as it is; Tex is left alone.

    >>> print(escape_latex("--lr_a=10 %"))
    -{}-lr\\_a=10 \\%
    """
    if isinstance(text, Tex):
        return text
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    special |= {c: "\\" + c for c in "&%$#_{}"}
    special |= {"β": r"$\beta$", "ε": r"$\epsilon$", "τ": r"$\tau$", "₁": "$_1$", "₂": "$_2$"}
    special |= {"<": "$<$", ">": "$>$", "|": "$|$", "–": "--"}
    parts = text.split("--")  # which would be a dash
    return "-{}-".join("".join(special.get(c, c) for c in part) for part in parts)
