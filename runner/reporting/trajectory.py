"""A picture of a run over a function of two variables: its contour lines and the way that was gone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..system.display import figure
from .curves import visited
from .style import FEW, PATH_COLOUR, is_wide

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from trainopt.models import Problem

GRID = 401  # points along each side
LEVELS = 18
FAR = 3.0  # a path is shown up to so many times the distance from its start to the optimum
NEAR = 0.05  # a path shorter than this share of that distance is shown alone
MARGIN = 0.12  # around what must be seen, as a share of it
NARROW = 0.6  # of the wider side: what the other side is at least
DEEP = 1e-5  # of the highest value in the picture: the lowest contour above the minimum


def draw_path(folder: Path) -> Path | None:
    """Draws a run's path into path.png, and returns its path; None where it is no function of two variables.

    What is drawn are the points of the rows: the more often `log_every` or `evaluate_every`, the finer.
    """
    from ..records.run_folder import read_config

    rows = [row for row in visited(folder) if row[2] is not None and len(row[2]) == 2 and None not in row[2]]
    if not rows:
        return None
    config, choices = read_config(folder)
    problem = problem_of(config)
    if problem is None:
        return None
    from matplotlib.figure import Figure

    path = np.array([theta for _, _, theta in rows], dtype=float)
    optimum = problem.optimum(2)
    star = None if optimum is None else optimum.numpy()
    special = np.zeros(2) if problem.saddle else star
    low, high = window(path, special)
    width, height = high - low
    canvas = Figure(figsize=(7.5, 1.6 + 6.0 * min(1.0, height / width)), layout="constrained")
    axis = canvas.subplots()
    axis.set_aspect("equal")
    draw_contours(axis, problem, low, high)
    draw_way(axis, path)
    inside = special is not None and bool(np.all((special >= low) & (special <= high)))
    if special is not None and inside:
        marker, label = ("X", "saddle point") if problem.saddle else ("*", "optimum")
        size = 11 if problem.saddle else 17
        style: dict[str, Any] = {"color": "#F0E442", "markeredgecolor": "black", "linestyle": "none", "zorder": 6}
        axis.plot(*special, marker=marker, markersize=size, label=f"{label} {point_text(special)}", **style)
    axis.set_xlim(low[0], high[0])
    axis.set_ylim(low[1], high[1])
    axis.set_xlabel(r"$\theta_1$")
    axis.set_ylabel(r"$\theta_2$", rotation=0, labelpad=10)
    lr = config.optimizer.get("lr")
    rate = "" if lr is None else f", lr {float(lr):g}"
    steps, value, _ = rows[-1]
    name = config.model.get("function", choices.get("model"))
    notes = [f"{name}: {choices.get('optimizer')}{rate}, {steps} steps, value {figure(value, '.4g', '')}"]
    if special is not None and not inside:
        notes.append(f"{'saddle point' if problem.saddle else 'optimum'} {point_text(special)}: outside the picture")
    if np.any((path < low) | (path > high)):
        notes.append("the path leaves the picture")
    canvas.suptitle("\n".join(notes), fontsize=10)
    canvas.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    target = folder / "path.png"
    canvas.savefig(target, dpi=120)
    return target


def problem_of(config: Any) -> "Problem | None":
    """Returns the function that a configuration's network is, as one that takes many points at a time."""
    from ..config.instantiate import construct
    from ..config.options import COMMON

    network = construct(config.model, "model", common=COMMON["model"])
    return getattr(network, "problem", None)


def window(path: np.ndarray, special: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lower left and the upper right corner of what is shown.

    The path (k, 2) and the optimum or saddle point (2,) are in it, but for two cases: of a path that runs away,
    what lies far from start and optimum is left out; and where a path is very short, the optimum is.
    """
    start = path[0]
    extent = np.ptp(path, axis=0).max()
    points = path
    if special is not None:
        distance = np.abs(special - start).max()
        if not 0 < extent < NEAR * distance:
            near = np.abs(path - special).max(axis=1) <= FAR * (distance or 1.0)
            points = np.vstack([path[near], start, special])
    low, high = points.min(axis=0), points.max(axis=0)
    size = (high - low).max() or max(1.0, np.abs(start).max())
    sides = np.maximum(high - low, NARROW * size) + 2 * MARGIN * size
    middle = (low + high) / 2
    return middle - sides / 2, middle + sides / 2


def draw_contours(axis: "Axes", problem: "Problem", low: np.ndarray, high: np.ndarray) -> None:
    """Draws lines of equal value; spaced geometrically above the minimum where the values' range is wide."""
    import torch

    x, y = np.linspace(low[0], high[0], GRID), np.linspace(low[1], high[1], GRID)
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    values = problem(torch.from_numpy(grid)).numpy()
    base = problem.minimum
    above = values if base is None else values - base
    highest = above.max()
    lowest = max(above.min(), DEEP * highest)
    if base is not None and is_wide(np.array([lowest, highest])):
        levels = base + np.geomspace(lowest, highest, LEVELS + 1)[:-1]
    else:
        levels = np.linspace(values.min(), values.max(), LEVELS + 2)[1:-1]
    levels = np.unique(levels)
    if len(levels) < 2:
        return
    shades = np.linspace(0.15, 0.95, len(levels))
    from matplotlib import colormaps

    colours = colormaps["Blues_r"](shades * 0.75)
    lines = axis.contour(x, y, values, levels=levels, colors=list(colours), linewidths=0.9, zorder=1)
    axis.clabel(lines, levels=list(levels[::3]), fmt="%.4g", fontsize=7, inline=True)


def draw_way(axis: "Axes", path: np.ndarray) -> None:
    """Draws the points in their order, the first and the last one marked."""
    count = len(path)
    size = 4.5 if count < FEW else 2.2
    axis.plot(*path.T, ".-", color=PATH_COLOUR, linewidth=1.2, markersize=size * 1.5, label="steps", zorder=4)
    style: dict[str, Any] = {"markeredgecolor": "black", "linestyle": "none"}
    axis.plot(*path[0], "o", color="white", markersize=8, label=f"start {point_text(path[0])}", zorder=5, **style)
    end = f"end {point_text(path[-1])}"
    axis.plot(*path[-1], "s", color=PATH_COLOUR, markersize=7.5, label=end, zorder=7, **style)


def point_text(point: np.ndarray) -> str:
    """Returns a point as (x, y), to four digits."""
    return f"({point[0]:.4g}, {point[1]:.4g})"
