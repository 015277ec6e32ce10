"""The figures of a search with Optuna: its history, each key, all keys together, and their importance."""

import math
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna import create_study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from ..reporting.figure_style import LEGEND_WIDTH, legend_width, points
from ..reporting.method_styles import key_label
from ..reporting.style import (
    PALETTE,
    SavedFigure,
    add_legend,
    escape_math,
    needs_log_scale,
    new_figure,
    save_figure,
    set_title,
    style_axes,
)
from .result import IMPORTANCE_TRIALS
from .study import SearchStudy, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "search_{}"
BEST, OTHERS = PALETTE[1], PALETTE[0]
ROW_HEIGHT = 2.6  # of the panels of keys, in inches
COLUMNS = 3  # in the style `notebook`
MARGIN = 0.1  # of the panels of keys, for the ring
LONG = 5  # letters of a choice, from which on names of choices stand upright
LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}  # so that lines do not cross them


def draw_search(folder: Path, study: SearchStudy, method: str = "") -> list[SavedFigure]:
    """Draws the figures of a search, and returns them. Trials that diverged are left out.

    Args:
        folder: of the files.
        study: of the search.
        method: the label of what was searched, which stands before the titles; empty: nothing does.
    """
    ended = [t for t in study.trials() if t.state == TrialState.COMPLETE and t.value is not None]
    ended = [trial for trial in ended if math.isfinite(trial.value)]
    figures: dict[str, tuple[Callable[[SearchStudy, list[FrozenTrial]], Figure | None], str]] = {
        "history": (draw_history, "trials and the best so far"),
        "slice": (draw_slices, "each key; later trials are darker, the ring is the best"),
        "parallel": (draw_parallel, "a line for each trial; the better, the darker, and the best in orange"),
        "importance": (draw_importance, f"importance of the keys, estimated from {len(ended)} trials"),
    }
    saved = []
    for name, (draw, title) in figures.items():
        figure = draw(study, ended) if ended else None
        if figure is not None:
            whole = f"{method}: {title}" if method else title
            set_title(figure, escape_math(whole))
            saved.append(save_figure(figure, NAME.format(name), whole, folder))
    return saved


def draw_history(study: SearchStudy, trials: list[FrozenTrial]) -> "Figure":
    """Draws the metric vs. the number of the trial, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(3.4, 0.4)
    axis = figure.subplots()
    values = _values(trials)
    best = np.minimum.accumulate(values) if study.settings.direction == "minimize" else np.maximum.accumulate(values)
    numbers = [trial.number for trial in trials]
    (dots,) = axis.plot(numbers, values, "o", color=OTHERS, markersize=points(4), zorder=3)
    (line,) = axis.step(numbers, best, where="post", color=BEST)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("trial")
    _metric_axis(axis, study, values)
    add_legend(figure, {"trials": dots, "best so far": line}, columns=2)
    return figure


def draw_slices(study: SearchStudy, trials: list[FrozenTrial]) -> "Figure":
    """Draws the metric vs. each key that was searched; later trials are darker, the best one has a ring."""
    columns = min(max(1, COLUMNS * legend_width() // LEGEND_WIDTH), COLUMNS, len(study.space))
    rows = math.ceil(len(study.space) / columns)
    figure = new_figure(ROW_HEIGHT * rows + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    values = _values(trials)
    best = _best(study, values)
    for axis, (key, distribution) in zip(panels.flat, study.space.items(), strict=False):
        places = _places(distribution, [trial.params[key] for trial in trials])
        axis.scatter(
            places,
            values,
            c=[trial.number for trial in trials],
            cmap="Blues",
            vmin=-len(trials) / 2,
            s=points(4.2) ** 2,
        )
        ring = {"markersize": points(10), "fillstyle": "none", "clip_on": False, "zorder": 3}
        axis.plot(places[best], values[best], "o", color=BEST, **ring)
        axis.margins(MARGIN)
        _key_axis(axis, distribution)
        axis.set_xlabel(escape_math(key_label(key)))
    for axis in panels.flat[len(study.space) :]:
        axis.set_axis_off()
    for axis in panels[:, 0]:
        _metric_axis(axis, study, values)
    for axis in panels.flat:
        style_axes(axis)
    return figure


def draw_parallel(study: SearchStudy, trials: list[FrozenTrial]) -> "Figure | None":
    """Draws each trial as a line through its values and its metric; the better, the darker. None: one key only."""
    if len(study.space) < 2:
        return None
    figure = new_figure(3.8)
    axis = figure.subplots()
    values = _values(trials)
    names = [*map(key_label, study.space), metric_label(study)]
    columns = [_fractions(d, [trial.params[key] for trial in trials]) for key, d in study.space.items()]
    ranks = np.argsort(np.argsort(values if study.settings.direction == "minimize" else -values))
    spread = np.ptp(values)
    columns.append((values - values.min()) / spread if spread else np.full(len(values), 0.5))
    for line, rank in sorted(zip(np.array(columns).T, ranks, strict=True), key=lambda entry: -entry[1]):
        colour, alpha = (BEST, 1.0) if rank == 0 else (OTHERS, max(0.15, 1 - rank / len(trials)))
        axis.plot(range(len(names)), line, color=colour, alpha=alpha, linewidth=1.2)
    width = legend_width() // len(names)
    axis.set_xticks(range(len(names)), ["\n".join(textwrap.wrap(escape_math(name), width)) for name in names])
    axis.set_yticks([])
    for position, distribution in enumerate([*study.space.values(), None]):
        axis.axvline(position, color="grey", linewidth=0.8)
        for height, text in _end_labels(distribution, values):
            axis.annotate(
                text,
                (position, height),
                (3, 0),
                textcoords="offset points",
                fontsize=points(8),
                va="center",
                bbox=LABEL_BOX,
            )
    axis.spines[:].set_visible(False)
    return figure


def draw_importance(study: SearchStudy, trials: list[FrozenTrial]) -> "Figure | None":
    """Draws the part of the metric's variance that each key explains (fANOVA, Hutter et al. 2014).

    None: one key, fewer than IMPORTANCE_TRIALS trials, or all have one value.
    """
    if len(study.space) < 2 or len(trials) < IMPORTANCE_TRIALS or np.ptp(_values(trials)) == 0:
        return None
    with quiet():
        finite = create_study(direction=study.settings.direction)
        finite.add_trials(trials)
        try:
            importances = get_param_importances(finite, evaluator=FanovaImportanceEvaluator(seed=0))
        except ZeroDivisionError:  # no tree found a split
            return None
    figure = new_figure(0.3, 0.4 * len(importances) + 0.9)
    axis = figure.subplots()
    names = list(reversed(importances))
    labels = [escape_math(key_label(name)) for name in names]
    bars = axis.barh(labels, [importances[name] for name in names], color=OTHERS)
    axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=points(8))
    axis.set_xlim(0, 1.08)
    axis.set_xlabel(f"fraction of the variance of {escape_math(metric_label(study))} (fANOVA)")
    style_axes(axis)
    return figure


def metric_label(study: SearchStudy) -> str:
    """Returns the metric of a search in words."""
    return study.settings.metric.replace("_", " ")


def _values(trials: list[FrozenTrial]) -> np.ndarray:
    return np.array([trial.value for trial in trials])


def _best(study: SearchStudy, values: np.ndarray) -> int:
    return int(values.argmin() if study.settings.direction == "minimize" else values.argmax())


def _metric_axis(axis: "Axes", study: SearchStudy, values: np.ndarray) -> None:
    axis.set_ylabel(escape_math(metric_label(study)))
    if needs_log_scale(values):
        axis.set_yscale("log")
    style_axes(axis)


def _key_axis(axis: "Axes", distribution: BaseDistribution) -> None:
    """Lets the x axis of a panel show all values of a key that may be chosen."""
    if isinstance(distribution, CategoricalDistribution):
        labels = [escape_math(str(choice)) for choice in distribution.choices]
        is_long = max(map(len, labels)) > LONG
        axis.set_xticks(range(len(labels)), labels, rotation=90 if is_long else 0)
        low, high = 0, len(labels) - 1
    else:
        bounds: Any = distribution
        low, high = bounds.low, bounds.high
        if bounds.log:
            axis.set_xscale("log")
    axis.update_datalim([(low, 0.0), (high, 0.0)], updatey=False)
    axis.autoscale_view()


def _places(distribution: BaseDistribution, values: list[Any]) -> list[float]:
    """Returns where values lie on an axis: choices at 0, 1, 2 and so on."""
    return [distribution.to_internal_repr(value) for value in values]


def _fractions(distribution: BaseDistribution, values: list[Any]) -> np.ndarray:
    """Returns where values lie between the bounds of their distribution, 0 to 1."""
    places = np.array(_places(distribution, values))
    if isinstance(distribution, CategoricalDistribution):
        return places / max(1, len(distribution.choices) - 1)
    bounds: Any = distribution
    low, high = bounds.low, bounds.high
    if bounds.log:
        places, low, high = np.log(places), math.log(low), math.log(high)
    return (places - low) / (high - low) if high > low else np.full(len(places), 0.5)


def _end_labels(distribution: BaseDistribution | None, values: np.ndarray) -> list[tuple[float, str]]:
    """Returns the height and the text of the labels on an axis of the parallel coordinates; None: the metric's."""
    if isinstance(distribution, CategoricalDistribution):
        number = max(1, len(distribution.choices) - 1)
        return [(i / number, escape_math(str(choice))) for i, choice in enumerate(distribution.choices)]
    bounds: Any = distribution
    low, high = (values.min(), values.max()) if distribution is None else (bounds.low, bounds.high)
    return [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")]
