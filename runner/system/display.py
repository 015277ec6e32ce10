"""What a run prints: a live display on a terminal, plain lines elsewhere; tables and numbers as text."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from .files import shown

REFRESH_SECONDS = 0.25
PATIENCE_SECONDS = 5.0  # after so long the remaining time of work is printed
NAME_WIDTH = 12  # the least that is left of a name that is cut
LONG_TABLE = 500  # rows from which on rich takes seconds
FILE_WIDTH = 200  # of a wide console that is no terminal
FIGURES = ("curves.png", "losses.png", "fisher.png", "path.png", "range_test.png")  # those that a run may draw
ARRAYS = "metric_arrays.json"  # vectors and matrices of the last evaluation

ACCURACIES = ("top1", "top5")
LABELS = {"top1": ("top-1", " %"), "top5": ("top-5", " %"), "calibration_error": ("calibration error", " %")}


class Display:
    """Prints to the terminal and, all but the live display, to a run's log.txt.

    Args:
        console: where to print; None: standard output.
        quiet: print to log.txt only, as for one of several runs at a time.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False):
        self.console = console or plain_console()
        self.console.quiet = quiet
        self._duration = ""
        self._log: Console | None = None
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._next_refresh = 0.0
        self._first: tuple[float, float] | None = None  # time and elapsed fraction of the first refresh
        self._accuracy = ""

    def log_to(self, path: Path) -> None:
        """Appends what is printed to a file as well."""
        file = open(path, "a", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by close()
        self._log = plain_console(file=file, width=100)

    def close(self) -> None:
        """Closes the log."""
        if self._log is not None:
            with suppress(OSError):
                self._log.file.close()
            self._log = None

    def say(self, *what: Any) -> None:
        """Prints lines or tables to both; a log that cannot be written, as on a full disk, is passed over."""
        for console in filter(None, (self.console, self._log)):
            with suppress(OSError) if console is self._log else nullcontext():
                if isinstance(what[0], Table) and (what[0].show_header or not console.is_terminal):
                    print_table(console, what[0], markup=False)
                else:
                    console.print(*what, soft_wrap=isinstance(what[0], str), markup=False)

    def show_start(self, facts: list[tuple[str, str]], notes: list[str]) -> None:
        """Prints a table of what will be run, and notes about it."""
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in facts:
            table.add_row(name, value)
        self.say(table)
        for note in notes:
            self.say(f"note: {note}")

    @contextmanager
    def live(self, duration: str) -> Iterator[None]:
        """Shows progress towards a duration while entered, where the output is a terminal."""
        self._duration = duration
        if not self.console.is_terminal or self.console.quiet:
            yield
            return
        columns = (BarColumn(24), TextColumn("{task.description}", markup=False))
        with Progress(*columns, console=self.console, auto_refresh=False, transient=True) as bar:
            self._bar, self._task = bar, bar.add_task("starting", total=1.0)
            try:
                yield
            finally:
                self._bar = None

    def show_step(self, row: dict[str, Any], progress: Any, train_seconds: float) -> None:
        """Updates the live display, at most every `REFRESH_SECONDS`."""
        if self._bar is None:
            return
        now = monotonic()
        if now < self._next_refresh:
            return
        self._next_refresh = now + REFRESH_SECONDS
        elapsed = min(1.0, progress.elapsed(self._duration))  # fraction of the duration
        self._first = self._first or (now, elapsed)
        began, elapsed_then = self._first
        left = (now - began) * (1 - elapsed) / (elapsed - elapsed_then) if elapsed > elapsed_then else None
        throughput = progress.samples / train_seconds if train_seconds > 0 else 0.0
        text = (
            f"step {progress.step}  epoch {progress.epochs:.2f}  loss {row['total']:.4f}{self._accuracy}"
            f"  {throughput:,.0f} images/s  {duration_text(left)} left"
        )
        self._bar.update(self._task, completed=elapsed, description=text, refresh=True)

    def show_evaluation(
        self, rows: dict[str, dict[str, Any]], loss: float | None, counts: dict[str, Any], selected: str = "top1"
    ) -> None:
        """Prints an evaluation in one line, with the last batch's loss and the metric that selects the best weights."""
        if all(set(row) <= {"loss", "theta"} for row in rows.values()):  # a function of its parameters alone
            self.say(f"step {counts['step']:6d}  value {rows['test']['loss']:.6g}")
            return
        parts = [f"epoch {counts['epoch']:6.2f}  step {counts['step']:6d}"]
        if loss is not None:
            parts.append(f"batch loss {loss:.4f}")
        for kind, row in rows.items():
            metrics = [f"{label} {row[name]:{form}}{unit}" for name, label, form, unit in shown_metrics(row, selected)]
            parts.append("  ".join([f"{kind} loss {row['loss']:.4f}", *metrics]))
            self._accuracy = f"  {kind} {metrics[0].replace('  ', ' ')}" if metrics else ""
        self.say("  ".join(parts))

    def show_event(self, name: str, event: dict[str, Any], counts: dict[str, Any]) -> None:
        """Prints an event of a regularizer in one line."""
        values = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in event.items() if k != "event")
        self.say(
            f"epoch {counts['epoch']:6.2f}  step {counts['step']:6d}  {name}: {event['event']} ({', '.join(values)})"
        )

    def show_summary(self, summary: dict[str, Any], folder: Path) -> None:
        """Prints the table of final and best values, and the files of a run."""
        table = plain_table("", "value", "step", "epoch", "training time")
        final, kind, trained = summary["final"], summary["best_on"], summary["train_seconds"]
        has_accuracies = summary["best_top1"] is not None
        losses = ".4f" if has_accuracies else ".6g"
        where = (str(final["step"]), f"{final['epoch']:.2f}", duration_text(trained))
        for name, value in {**{k: v for k, v in final.items() if k != "loss"}, "loss": final["loss"]}.items():
            if name in ("step", "epoch") or isinstance(value, dict) or (name in ACCURACIES and not has_accuracies):
                continue
            label, form, unit = metric_form(name)
            text = value_text(value, losses if name == "loss" else form, unit)
            table.add_row(f"final test {label}", text, *where)
        for of_set, values in final.items():
            for name, label, form, unit in shown_metrics(values) if isinstance(values, dict) else ():
                table.add_row(f"final {of_set} {label}", value_text(values[name], form.removeprefix("5"), unit), *where)
        best = summary.get("best") or {}
        rows = [("best top-1", summary["best_top1"], "top1"), ("lowest loss", summary["lowest_loss"], "loss")]
        if best.get("metric") not in (None, "top1", "loss"):
            rows.insert(0, (f"best {metric_form(best['metric'])[0]}", best, best["metric"]))
        for label, best, name in rows:
            if best is None:
                continue
            _, form, unit = metric_form(name)
            where = (str(best["step"]), f"{best['epoch']:.2f}", duration_text(best["train_seconds"]))
            text = value_text(best["value"], losses if name == "loss" else form, unit)
            table.add_row(f"{label} ({kind})", text, *where)
        if selected := summary.get("selected"):
            best = summary["best"]
            where = (str(best["step"]), f"{best['epoch']:.2f}", duration_text(best["train_seconds"]))
            chosen = best["metric"] if best["metric"] in selected else "loss"
            _, form, unit = metric_form(chosen)
            text = value_text(selected[chosen], losses if chosen == "loss" else form, unit)
            label = f"test {metric_form(chosen)[0]} at the best validation {metric_form(best['metric'])[0]}"
            table.add_row(label, text, *where)
        if not summary.get("range_test"):  # its last learning rates destroy the network
            self.say(table)
        names = [*FIGURES, ARRAYS, *(f"{name}.png" for name in summary.get("metrics", {}))]
        figures = "".join(f", {name}" for name in names if (folder / name).exists())
        self.say(f"files: {shown(folder)}/ (metrics.jsonl, summary.json{figures}, checkpoints/, …)")


def metric_form(name: str) -> tuple[str, str, str]:
    """Returns (label, format, unit) of a metric.

    >>> metric_form("raw_top1"), metric_form("rmse")
    (('raw top-1', '.2f', ' %'), ('rmse', '.4g', ''))
    """
    if name.startswith("raw_"):
        label, form, unit = metric_form(name.removeprefix("raw_"))
        return f"raw {label}", form, unit
    label, unit = LABELS.get(name, (name.replace("_", " "), ""))
    return label, ".2f" if unit else ".4g", unit


def shown_metrics(row: dict[str, Any], selected: str = "top1") -> list[tuple[str, str, str, str]]:
    """Returns (name, label, format, unit) of the metrics of an evaluation that fit into a line.

    These are top1, or the first ones, and the one that selects the best weights.

    >>> [name for name, *_ in shown_metrics({"loss": 0.1, "top1": 90.0, "top5": 99.0, "worst": 70.0}, "worst")]
    ['top1', 'worst']
    """
    numbers = [name for name, value in row.items() if isinstance(value, int | float) and name != "loss"]
    names = ["top1"] if "top1" in numbers else numbers[:3]
    names += [selected] if selected in numbers and selected not in names else []
    forms = [(name, *metric_form(name)) for name in names]
    return [(name, label, "5.2f" if name == "top1" else form, unit) for name, label, form, unit in forms]


def value_text(value: float | None, form: str, unit: str) -> str:
    """Returns a value as text; None, which stands in a summary for a value that is not finite, as `not finite`."""
    return "not finite" if value is None else f"{value:{form}}{unit}"


class LongWork:
    """Prints the remaining time of work on many images once, where it takes long.

    Args:
        what: is done with the images, as in `computing features of`.
    """

    def __init__(self, what: str):
        self._what, self._began, self._is_announced = what, monotonic(), False

    def update(self, done: int, total: int) -> None:
        """Notes how many of how many images are done."""
        elapsed = monotonic() - self._began
        if elapsed > PATIENCE_SECONDS and not self._is_announced:
            left = duration_text(elapsed * (total - done) / done)
            print(f"trainopt: {self._what} {total:,} images, {left} left", file=sys.stderr)
            self._is_announced = True


def duration_text(seconds: float | None) -> str:
    """Returns seconds as text, in a unit that suits them.

    >>> duration_text(4.21), duration_text(75), duration_text(3725)
    ('4.2 s', '1:15 min', '1:02 h')
    """
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def plain_table(*headers: str, left: int = 1) -> Table:
    """Returns an empty table without borders, with bold headers.

    Args:
        headers: of the columns.
        left: how many of the first columns are aligned left, as names are; the others are aligned right.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index < left else "right", overflow="fold")
    return table


def print_table(console: Console, table: Table, markup: bool = True) -> None:
    """Prints a table of `plain_table`; no row is wider than a terminal, and elsewhere each row is one whole line.

    Where the table is wider, its names are cut; where that would leave too little of them, or names that are the same,
    each row becomes a paragraph.

    Args:
        console: where to print.
        table: its first two columns may hold names.
        markup: whether rich's markup in cells is followed.
    """
    texts: dict[str, Text] = {}  # many cells are the same

    def rendered(cell: object) -> Text:
        text = str(cell)
        if text not in texts:
            texts[text] = console.render_str(text, markup=markup)
        return texts[text]

    columns = [[rendered(cell) for cell in column.cells] for column in table.columns]
    headers = [console.render_str(str(column.header), markup=False) for column in table.columns]
    widths = [max(c.cell_len for c in (header, *cells)) for header, cells in zip(headers, columns, strict=True)]
    if not console.is_terminal:
        console.width = max(console.width, sum(widths) + 2 * len(widths))
    excess = sum(widths) + 2 * len(widths) - console.width
    widest = max(range(len(widths)), key=widths.__getitem__)
    room = widths[widest] - excess
    starts = {cell.plain[: room - 1] for cell in columns[widest]}
    if (
        excess > 0
        and widest < 2
        and room >= NAME_WIDTH
        and len(starts) == len({cell.plain for cell in columns[widest]})
    ):
        column = table.columns[widest]
        column.no_wrap, column.overflow, column.max_width = True, "ellipsis", room
    elif excess > 0:
        if table.title:
            console.print(table.title, soft_wrap=True, markup=False)
        for row in zip(*columns, strict=True):
            print_paragraph(console, headers, row)
        return
    elif table.row_count > LONG_TABLE and not table.title:
        print_rows(console, table, headers, columns, widths)
        return
    console.print(table, markup=markup)


def print_rows(
    console: Console, table: Table, headers: list[Text], columns: list[list[Text]], widths: list[int]
) -> None:
    """Prints a long table whose rows fit, as rich prints it, in a fraction of its time.

    Args:
        console: where to print.
        table: of `plain_table`.
        headers: of the columns.
        columns: the cells of each.
        widths: of the columns, in characters.
    """
    aligned = []
    for column, header, cells, width in zip(table.columns, headers, columns, widths, strict=True):
        header.stylize("bold")
        aligned.append([aligned_text(cell, width, column.justify == "left") for cell in (header, *cells)])
    for row in zip(*aligned, strict=True):
        console.print(Text.assemble(*row), soft_wrap=True)


def aligned_text(cell: Text, width: int, left: bool) -> Text:
    """Returns a cell of a table, with blanks beside it and two behind it."""
    blanks = " " * (width - cell.cell_len)
    return Text.assemble(*((cell, blanks) if left else (blanks, cell)), "  ")


def print_paragraph(console: Console, headers: Sequence[Text], row: Sequence[Text]) -> None:
    """Prints a row of a table: its name, and the other cells behind their headers; no pair of both is divided."""
    headers = [Text(), *headers[1:]]  # the name says by itself what it is
    pairs = [Text(" ").join(filter(len, pair)) for pair in zip(headers, row, strict=True) if len(pair[1])]
    lines: list[Text] = []
    for pair in pairs:
        if lines and lines[-1].cell_len + 2 + pair.cell_len <= console.width:
            lines[-1] = Text("  ").join([lines[-1], pair])
        else:
            lines.append(Text("  ") + pair if lines else pair)
    for line in lines:
        console.print(line, overflow="fold")


def plain_console(**options: Any) -> Console:
    """Returns a console that prints text, in a notebook too: rich would show there what is for a file.

    A notebook's standard output passes for a terminal, and shows no live display.

    Args:
        options: of rich's `Console`.
    """
    if Console().is_jupyter:
        options |= {"force_jupyter": False, "force_terminal": False}
    return Console(highlight=False, **options)


def wide_console() -> Console:
    """Returns a console in which the rows of a table are not folded where the output is no terminal."""
    console = plain_console()
    if not console.is_terminal:
        console.width = max(console.width, FILE_WIDTH)
    return console
