"""What the terminal shows of an ensemble."""

from statistics import fmean
from typing import Any

from rich.table import Table

from ..system.display import Display

MANY = 9  # networks: of more, no matrix of pairs is printed


def show_ensemble(found: dict[str, Any], display: Display) -> None:
    """Prints what `evaluate_ensemble` returned."""
    weights = (found["weighted"] or {}).get("weights")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("", "", *(["weight"] if weights else []), "loss", "top-1 (%)", "top-5 (%)"):
        table.add_column(name, justify="right" if name else "left", overflow="fold")

    def row(number: str, name: str, weight: str, of: dict[str, Any]) -> None:
        cells = (f"{of['loss']:.4f}", f"{of['top1']:.2f}", f"{of['top5']:.2f}")
        table.add_row(number, name, *([weight] if weights else []), *cells)

    for k, member in enumerate(found["members"]):
        weight = f"{weights[k]:.3f}" if weights else ""
        row(str(k + 1), f"{member['name']}, step {member['step']}", weight, member)
    row("", "mean of these", "", found["mean_of_members"])
    row("", "ensemble, equal weights", "", found["ensemble"])
    if found["weighted"]:
        row(
            "",
            f"ensemble, {'fitted' if found['weighted']['fitted_on'] else 'given'} weights",
            "",
            found["weighted"],
        )
    display.say(table)
    display.say(f"on {found['images']:,} test images")
    if len(found["members"]) <= MANY:
        display.say(matrix(found))
        display.say("below the diagonal: images that two take for different classes (%); above: correlation of errors")
    else:
        display.say(
            f"each two take {spread([p['disagreement'] for p in found['pairs']], '.2f')} % for different classes"
        )
        known = [p["correlation"] for p in found["pairs"] if p["correlation"] is not None]
        if known:
            display.say(f"correlation of errors of each two: {spread(known, '.3f')}")


def matrix(found: dict[str, Any]) -> Table:
    """Returns disagreement and correlation of each two networks, below and above the diagonal."""
    count = len(found["members"])
    cells = [["·" if i == j else "" for j in range(count)] for i in range(count)]
    for pair in found["pairs"]:
        i, j = pair["members"]
        cells[j][i] = f"{pair['disagreement']:.2f}"
        cells[i][j] = "—" if pair["correlation"] is None else f"{pair['correlation']:.3f}"
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", style="bold")
    for k in range(count):
        table.add_column(str(k + 1), justify="right")
    for k, row in enumerate(cells):
        table.add_row(str(k + 1), *row)
    return table


def spread(values: list[float], form: str) -> str:
    """Returns the mean of values and their range.

    >>> spread([1.0, 2.0, 6.0], ".1f")
    '3.0 (1.0 to 6.0)'
    """
    return f"{fmean(values):{form}} ({min(values):{form}} to {max(values):{form}})"
