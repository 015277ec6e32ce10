"""Tables as Markdown and LaTeX."""

from collections.abc import Collection


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


def latex(header: list[str], rows: list[list[str]]) -> str:
    """Returns a table in LaTeX for the package booktabs."""

    def line(cells: list[str]) -> str:
        return " & ".join(map(escape_latex, cells)) + r" \\" + "\n"

    body = "".join(map(line, rows))
    columns = "l" + "r" * (len(header) - 1)
    start = f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
    return f"{start}{line(header)}\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"


def escape_latex(text: str) -> str:
    """Returns text that LaTeX prints as it is.

    >>> print(escape_latex("lr_a=10 %"))
    lr\\_a=10 \\%
    """
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    special |= {c: "\\" + c for c in "&%$#_{}"}
    special["<"] = "$<$"
    return "".join(special.get(c, c) for c in text)
