"""The trajectory of a run on a function of two variables, with the function's contours."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from ..config.options import COMMON
from ..records.run_folder import read_config
from ..system.display import value_text
from .curves import function_trajectory
from .style import MARKER_LIMIT, TRAJECTORY_COLOUR, needs_log_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from trainopt.models import Problem

GRID = 401  # points along each side
CONTOURS = 18
# lengths below are fractions of the distance from the start to the optimum, or the saddle point
MAX_DISTANCE = 3.0  # from the optimum, up to which points of the trajectory are in the figure
MIN_EXTENT = 0.05  # of the trajectory, below which the figure shows it without the optimum
MARGIN = 0.12  # around what is shown, of its extent
MIN_ASPECT = 0.6  # of the shorter side of the figure to the longer
LOWEST_LEVEL = 1e-5  # of the highest value in the figure: the lowest contour above the minimum


def draw_trajectory(folder: Path) -> Path | None:
    """Draws a run's trajectory into path.png, and returns its path; None where it is no function of two variables.

    It has a point for each record: the more often `log_every` or `evaluate_every`, the finer.
    """
    points = [p for p in function_trajectory(folder) if p[2] is not None and len(p[2]) == 2 and None not in p[2]]
    if not points:
        return None
    config, choices = read_config(folder)
    problem = problem_of(config)
    if problem is None:
        return None
    from matplotlib.figure import Figure

    trajectory = np.array([theta for _, _, theta in points], dtype=float)
    optimum = problem.optimum(2)
    special = np.zeros(2) if problem.saddle else None if optimum is None else optimum.numpy()
    low, high = window(trajectory, special)
    width, height = high - low
    canvas = Figure(figsize=(7.5, 1.6 + 6.0 * min(1.0, height / width)), layout="constrained")
    axis = canvas.subplots()
    axis.set_aspect("equal")
    draw_contours(axis, problem, low, high)
    draw_steps(axis, trajectory)
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
    steps, value, _ = points[-1]
    name = config.model.get("function", choices.get("model"))
    notes = [f"{name}: {choices.get('optimizer')}{rate}, {steps} steps, value {value_text(value, '.4g', '')}"]
    if special is not None and not inside:
        notes.append(f"{'saddle point' if problem.saddle else 'optimum'} {point_text(special)}: outside the figure")
    if np.any((trajectory < low) | (trajectory > high)):
        notes.append("the trajectory leaves the figure")
    canvas.suptitle("\n".join(notes), fontsize=10)
    canvas.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    path = folder / "path.png"
    canvas.savefig(path, dpi=120)
    return path


def problem_of(config: DictConfig) -> "Problem | None":
    """Returns the test function of a configuration's network; None where it is no test function."""
    from ..config.instantiate import construct  # imports torch; a finished run of images is shown without it

    network = construct(config.model, "model", common=COMMON["model"])
    return getattr(network, "problem", None)


def window(trajectory: np.ndarray, special: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lower left and the upper right corner of what is shown.

    The trajectory (k, 2) and the optimum or saddle point (2,) are in it, with two exceptions. Of a trajectory that
    diverges, points far from start and optimum are left out. Where a trajectory is very short, the optimum is.
    """
    start = trajectory[0]
    extent = np.ptp(trajectory, axis=0).max()
    points = trajectory
    if special is not None:
        distance = np.abs(special - start).max()
        if not 0 < extent < MIN_EXTENT * distance:
            near = np.abs(trajectory - special).max(axis=1) <= MAX_DISTANCE * (distance or 1.0)
            points = np.vstack([trajectory[near], start, special])
    low, high = points.min(axis=0), points.max(axis=0)
    size = (high - low).max() or max(1.0, np.abs(start).max())
    sides = np.maximum(high - low, MIN_ASPECT * size) + 2 * MARGIN * size
    middle = (low + high) / 2
    return middle - sides / 2, middle + sides / 2


def draw_contours(axis: "Axes", problem: "Problem", low: np.ndarray, high: np.ndarray) -> None:
    """Draws contours, spaced geometrically above the minimum where the values cover a wide range."""
    import torch
    from matplotlib import colormaps

    x, y = np.linspace(low[0], high[0], GRID), np.linspace(low[1], high[1], GRID)
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    values = problem(torch.from_numpy(grid)).numpy()
    base = problem.minimum
    above = values if base is None else values - base
    highest = above.max()
    lowest = max(above.min(), LOWEST_LEVEL * highest)
    if base is not None and needs_log_scale(np.array([lowest, highest])):
        levels = base + np.geomspace(lowest, highest, CONTOURS + 1)[:-1]
    else:
        levels = np.linspace(values.min(), values.max(), CONTOURS + 2)[1:-1]
    levels = np.unique(levels)
    if len(levels) < 2:
        return
    shades = np.linspace(0.15, 0.95, len(levels))
    colours = colormaps["Blues_r"](shades * 0.75)
    lines = axis.contour(x, y, values, levels=levels, colors=list(colours), linewidths=0.9, zorder=1)
    axis.clabel(lines, levels=list(levels[::3]), fmt="%.4g", fontsize=7, inline=True)


def draw_steps(axis: "Axes", trajectory: np.ndarray) -> None:
    """Draws the points (k, 2) of a trajectory in their order, the first and the last one marked."""
    size = 4.5 if len(trajectory) < MARKER_LIMIT else 2.2
    line: dict[str, Any] = {"color": TRAJECTORY_COLOUR, "linewidth": 1.2, "markersize": size * 1.5, "zorder": 4}
    axis.plot(*trajectory.T, ".-", label="steps", **line)
    start, end = trajectory[0], trajectory[-1]
    style: dict[str, Any] = {"markeredgecolor": "black", "linestyle": "none"}
    axis.plot(*start, "o", color="white", markersize=8, label=f"start {point_text(start)}", zorder=5, **style)
    label = f"end {point_text(end)}"
    axis.plot(*end, "s", color=TRAJECTORY_COLOUR, markersize=7.5, label=label, zorder=7, **style)


def point_text(point: np.ndarray) -> str:
    """Returns a point as text, (x, y), with four digits."""
    return f"({point[0]:.4g}, {point[1]:.4g})"
