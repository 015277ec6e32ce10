"""Tables as Markdown and LaTeX."""

from collections.abc import Collection, Iterable, Sequence


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


class Tex(str):
    """Text that is LaTeX already."""

    __slots__ = ()


def latex(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str | None = None, label: str = "") -> str:
    """Returns a table in LaTeX for the package booktabs.

    Args:
        header: a cell for each column; Tex is left as it is, all other text is escaped.
        rows: of as many cells.
        caption: of a table that floats, which is made smaller where it is wider than the text (package graphicx); None:
            the bare tabular.
        label: for references to it.
    """

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(escape_latex, cells)) + r" \\" + "\n"

    body = "".join(map(line, rows))
    columns = "l" + "r" * (len(header) - 1)
    start = f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
    tabular = f"{start}{line(header)}\\midrule\n{body}\\bottomrule\n\\end{{tabular}}"
    if caption is None:
        return f"{tabular}\n"
    fitted = f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n{tabular}%\n}}"
    texts = f"\\caption{{{escape_latex(caption)}}}\n\\label{{{label}}}\n\\smallskip"
    head = "% needs \\usepackage{booktabs,graphicx}\n"
    return f"{head}\\begin{{table}}\n\\centering\\small\n{texts}\n{fitted}\n\\end{{table}}\n"


def escape_latex(text: str) -> str:
    """Returns text that LaTeX prints as it is; Tex is left alone.

    >>> print(escape_latex("--lr_a=10 %"))
    -{}-lr\\_a=10 \\%
    """
    if isinstance(text, Tex):
        return text
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    special |= {c: "\\" + c for c in "&%$#_{}"}
    special |= {"<": "$<$", ">": "$>$", "|": "$|$", "–": "--"}
    parts = text.split("--")  # which would be a dash
    return "-{}-".join("".join(special.get(c, c) for c in part) for part in parts)
