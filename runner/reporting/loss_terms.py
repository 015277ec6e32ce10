"""The terms of the training loss and its total, drawn as figures 4.3, 4.6 and 4.9 of Zorca 2020 do."""

from collections.abc import Iterable, Mapping
from itertools import cycle
from pathlib import Path

import numpy as np

from ..records.metrics import read_metrics
from .style import PALETTE, is_wide, running_mean, saved, tidy

MAIN = {"cross_entropy": "cross-entropy", "value": "value of the function"}
AUXILIARY = "auxiliary"
WITH_AUXILIARY = "cross-entropy with auxiliary"
ALL_REGULARIZERS = "regularization, all"
SUMS = (WITH_AUXILIARY, ALL_REGULARIZERS)


def terms_drawn(columns: Mapping[str, np.ndarray], regularizers: Iterable[str]) -> dict[str, np.ndarray]:
    """Returns by its label what is drawn of the terms of a loss; empty where there is a single term.

    These are the terms, the sum of the cross-entropies of a network with an auxiliary classifier, and the sum of
    several regularizers.

    Args:
        columns: arrays of one length by the names that they have in training rows; nan where a row lacks one.
        regularizers: names in the configurations: training rows also hold what optimizers report.

    >>> rows = {"cross_entropy": np.array([2.0, 1.0]), "auxiliary": np.array([0.5, np.nan])}
    >>> terms_drawn(rows, [])["cross-entropy with auxiliary"].tolist()
    [2.5, 1.0]
    """
    main = next((name for name in MAIN if name in columns), None)
    if main is None:
        return {}
    found = {MAIN[main]: columns[main]}
    penalties = {f"regularization: {name}": columns[name] for name in regularizers if name in columns}
    if AUXILIARY in columns:
        both = columns[main] + np.nan_to_num(columns[AUXILIARY])  # of many runs, some have none
        found = {WITH_AUXILIARY: both, **found, "auxiliary cross-entropy, weighted": columns[AUXILIARY]}
    if len(penalties) > 1:
        values = np.array(list(penalties.values()))
        total = np.where(np.isnan(values).all(axis=0), np.nan, np.nansum(values, axis=0))
        penalties = {ALL_REGULARIZERS: total, **penalties}
    found |= penalties
    return found if len(found) > 1 else {}


def term_names(regularizers: Iterable[str]) -> list[str]:
    """Returns the names that terms of a loss may have in training rows."""
    return [*MAIN, AUXILIARY, *regularizers]


def draw_losses(folder: Path, title: str) -> Path | None:
    """Draws the terms of a run's loss and their total over steps into losses.png, and returns its path.

    None where the loss has a single term: that is in curves.png.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from ..records.run_folder import read_config

    rows = read_metrics(folder, "train")
    regularizers = list(read_config(folder)[0].get("regularizer") or {})
    there = {name: [row.get(name) for row in rows] for name in term_names(regularizers) if rows and name in rows[0]}
    terms = terms_drawn({name: np.array(values, dtype=float) for name, values in there.items()}, regularizers)
    if not terms:
        return None
    steps = [row["step"] for row in rows]
    total = np.array([row["total"] for row in rows], dtype=float)
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, lines in ((axes[0], terms), (axes[1], {"total": total})):
        for (label, values), colour in zip(lines.items(), cycle(PALETTE), strict=False):
            axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            width = 3.5 if label in SUMS else 1.5  # below its parts
            axis.plot(steps, running_mean(values), color=colour, linewidth=width, label=label)
        drawn = np.concatenate(list(lines.values()))
        positive = drawn[drawn > 0]
        if len(positive) and not (drawn < 0).any() and is_wide(positive):
            axis.set_yscale("log", nonpositive="mask")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("step")
        tidy(axis)
    axes[0].set_ylabel("terms of the training loss")
    axes[1].set_ylabel("total training loss")
    axes[0].set_title("faint: batches; strong: running mean", fontsize=9, loc="left")
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=min(3, len(terms)), frameon=False, fontsize=9)
    return saved(figure, folder / "losses.png", title)
