"""The terms of the training loss and their total vs. steps, as in figures 4.3, 4.6 and 4.9 of Zorca 2020."""

from collections.abc import Iterable, Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..records.metrics import read_metrics
from ..records.run_folder import read_config
from .style import PALETTE, needs_log_scale, plot_smoothed, save_png, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAIN = {
    "cross_entropy": "cross-entropy",
    "mse": "mean squared error",
    "bce": "binary cross-entropy",
    "objective": "objective",
    "value": "value of the function",
}
AUXILIARY = "auxiliary"
ALL_REGULARIZERS = "regularization, all"
SUMS = (*(f"{label} with auxiliary" for label in MAIN.values()), ALL_REGULARIZERS)


def terms_drawn(columns: Mapping[str, np.ndarray], regularizers: Iterable[str]) -> dict[str, np.ndarray]:
    """Returns the terms of a loss that are drawn, by their labels; empty where there is a single term.

    These are the terms, the sum of the losses of a network with an auxiliary classifier, and the sum of
    several regularizers.

    Args:
        columns: arrays of one length by the names that training records have; nan where a record lacks one.
        regularizers: names in the configurations: training records also hold what optimizers report.

    >>> columns = {"cross_entropy": np.array([2.0, 1.0]), "auxiliary": np.array([0.5, np.nan])}
    >>> terms_drawn(columns, [])["cross-entropy with auxiliary"].tolist()
    [2.5, 1.0]
    """
    main = next((name for name in MAIN if name in columns), None)
    if main is None:
        return {}
    terms = {MAIN[main]: columns[main]}
    penalties = {f"regularization: {name}": columns[name] for name in regularizers if name in columns}
    if AUXILIARY in columns:
        both = columns[main] + np.nan_to_num(columns[AUXILIARY])  # of many runs, some have none
        auxiliary = {f"auxiliary {MAIN[main]}, weighted": columns[AUXILIARY]}
        terms = {f"{MAIN[main]} with auxiliary": both, **terms, **auxiliary}
    if len(penalties) > 1:
        values = np.array(list(penalties.values()))
        total = np.where(np.isnan(values).all(axis=0), np.nan, np.nansum(values, axis=0))
        penalties = {ALL_REGULARIZERS: total, **penalties}
    terms |= penalties
    return terms if len(terms) > 1 else {}


def term_names(regularizers: Iterable[str]) -> list[str]:
    """Returns the names that terms of a loss may have in training records."""
    return [*MAIN, AUXILIARY, *regularizers]


def draw_loss_terms(folder: Path, title: str) -> Path | None:
    """Draws the terms of a run's loss and their total vs. steps into losses.png, and returns its path.

    None where the loss has a single term: curves.png shows that.
    """
    figure = loss_terms_figure(folder)
    return None if figure is None else save_png(figure, folder / "losses.png", title)


def loss_terms_figure(folder: Path) -> "Figure | None":
    """Returns the figure of the terms of a run's loss and their total; None where the loss has a single term."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    records = read_metrics(folder, "train")
    regularizers = list(read_config(folder)[0].get("regularizer") or {})
    names = [name for name in term_names(regularizers) if records and name in records[0]]
    columns = {name: np.array([record.get(name) for record in records], dtype=float) for name in names}
    terms = terms_drawn(columns, regularizers)
    if not terms:
        return None
    steps = np.array([record["step"] for record in records])
    total = np.array([record["total"] for record in records], dtype=float)
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, lines in ((axes[0], terms), (axes[1], {"total": total})):
        for (label, values), colour in zip(lines.items(), cycle(PALETTE), strict=False):
            width = 3.5 if label in SUMS else 1.5  # below its parts
            plot_smoothed(axis, steps, values, colour, linewidth=width, label=label)
        drawn = np.concatenate(list(lines.values()))
        positive = drawn[drawn > 0]
        if len(positive) and not (drawn < 0).any() and needs_log_scale(positive):
            axis.set_yscale("log", nonpositive="mask")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("step")
        style_axes(axis)
    axes[0].set_ylabel("terms of the training loss")
    axes[1].set_ylabel("total training loss")
    axes[0].set_title("faint: batches; solid: running mean", fontsize=9, loc="left")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(terms)), frameon=False, fontsize=9)
    return figure
