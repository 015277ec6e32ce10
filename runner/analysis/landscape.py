"""`trainopt landscape`: loss and error on the line through two checkpoints and on the plane through three."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ..system.display import Display
from ..system.errors import UserError
from ..system.files import shown
from ..training.last_layer import KEYS_WITHOUT_ARCHITECTURE
from .checkpoints import CheckpointRef, check_same_images, find_checkpoints, rebuilt_runs
from .evaluate import evaluation_errors_explained
from .interpolation import WeightInterpolation

NO_BARRIER = 2.0  # percentage points of error, below which Frankle et al. 2020 take a barrier for noise
INPUT_KEYS = ("mean", "std", "size", "channels")  # keys of data that determine how images become inputs
LINE_POINTS, PLANE_POINTS = 21, 15
MIN_SIDE_RATIO = 0.6  # of the shorter side of the plane to the longer side of the triangle
MIN_ANGLE = 1e-3  # radians between the sides of a triangle that spans a plane

ProgressBar = Callable[[Iterable[Any], str], Iterable[Any]]
Metrics = dict[str, float]


def landscape(
    paths: Sequence[str | Path],
    points: int | None = None,
    beyond: float = 0.2,
    images: int = 1000,
    batch_norm: str = "recompute",
    checkpoint: str = "last",
    device: str | None = None,
    display: Display | None = None,
    progress: ProgressBar = lambda points, name: points,
) -> dict[str, Any]:
    """Evaluates a network between checkpoints, on the test set and on training images.

    On the line through theta_0 and theta_1, the points are (1 - t) theta_0 + t theta_1. For a metric f
    (cross-entropy, and error in percent) the barrier between the two is

        max over 0 <= t <= 1 of  f(t) - ((1 - t) f(0) + t f(1))

    as in Entezari et al. 2022 (arXiv 2110.06296). Frankle et al. 2020 (arXiv 1912.05671) subtract the mean of f(0)
    and f(1) instead. Both are equal where f(0) = f(1); otherwise, as within a run, theirs is positive even for a
    straight line. A barrier below 2 percentage points of test error counts as none, as in their paper: the two
    checkpoints are then reported to lie in one basin.

    On the plane through three, the points are theta_0 + x u / |u| + y v / |v|, with u = theta_1 - theta_0 and v
    the part of theta_2 - theta_0 that is orthogonal to u (Garipov et al. 2018, arXiv 1802.10026); x and y are
    distances. The lines between each two are evaluated too.

    Running statistics of batch norm are no weights; means of the statistics of two checkpoints do not belong to
    the means of their weights. A checkpoint has its recorded statistics, so that its metrics are those that the
    run recorded; for all other points they are recomputed, from the same training images. A difference that comes
    from this alone is no barrier: for the barrier, f(0) and f(1) have recomputed statistics as well.

    Args:
        paths: two or three checkpoints or runs, of one network and the same data.
        points: of a line, from one checkpoint to the other; of the plane, along each side; None: 21 and 15.
        beyond: how far lines extend beyond the checkpoints, as a fraction of their distance, and the plane beyond
            the triangle, as a fraction of its longer side.
        images: number of training images, class-balanced, without augmentation; all where there are fewer.
        batch_norm: `recompute` the statistics, or `interpolate` them like weights.
        checkpoint: `best` or `last`, of runs.
        device: as in the configuration; None: the first run's.
        display: for notes; None: they are not printed.
        progress: wraps the points of a line or of the plane, as a progress bar does; takes `line` or `plane` too.

    Returns:
        A dict, the content of landscape.json:

        * checkpoints: of each `run`, `checkpoint`, `name` and `step`.
        * batch_norm: the argument; None where the network has no statistics that change.
        * images: number of `train` and of `test` images.
        * lines: for each two, `from` and `to` (numbers of checkpoints), `distance` and `relative_distance` (to the
          norm of the first's weights), `points` (`t` and the metrics, as `test_error`), `ends_recomputed` (the
          metrics at 0 and 1 with recomputed statistics, or None), `barriers` (of each metric `height` and `t`)
          and `one_basin`.
        * plane: None, or `x` and `y` of a grid, `values` of each metric (a row for each y), and `points`: of each
          checkpoint, its coordinates and its metrics.

    Raises:
        UserError: an argument is out of its range, or the checkpoints do not belong together.
    """
    for name, value, right, rule in (
        ("points", points, points is None or points >= 3, "at least 3"),
        ("beyond", beyond, 0 <= beyond <= 10, "in [0, 10]"),
        ("images", images, images >= 2, "at least 2"),
        ("batch-norm", batch_norm, batch_norm in ("recompute", "interpolate"), "recompute or interpolate"),
    ):
        if not right:
            raise UserError(f"--{name} {value}: must be {rule}")
    checkpoints = find_checkpoints(paths, checkpoint)
    if len(checkpoints) not in (2, 3):
        raise UserError(f"landscape: takes two or three checkpoints, got {len(checkpoints)}")
    check_same_network(checkpoints)
    with evaluation_errors_explained():
        run = next(iter(rebuilt_runs(checkpoints[:1], device, display or Display(quiet=True), images)))
        interpolation = WeightInterpolation(run, checkpoints, batch_norm == "recompute")
        two = list(combinations(range(len(checkpoints)), 2))
        lines = [evaluate_line(interpolation, i, j, checkpoints, points, beyond, progress) for i, j in two]
        plane = None
        if len(checkpoints) == 3:
            plane = evaluate_plane(interpolation, checkpoints, points, beyond, progress)
    steps = zip(checkpoints, interpolation.steps, strict=True)
    return {
        "checkpoints": [{**reference.description(), "step": step} for reference, step in steps],
        "batch_norm": batch_norm if interpolation.has_statistics else None,
        "images": {kind: len(interpolation.sets[kind]) for kind in ("train", "test")},
        "lines": lines,
        "plane": plane,
    }


def check_same_network(checkpoints: list[CheckpointRef]) -> None:
    """Raises UserError, which names a key, unless all runs have the same images, inputs and network."""
    check_same_images(checkpoints, INPUT_KEYS)
    first, *others = checkpoints
    for other in others:
        for key in dict.fromkeys([*first.config.model, *other.config.model]):
            one, two = (reference.config.model.get(key) for reference in (first, other))
            if one != two and key not in KEYS_WITHOUT_ARCHITECTURE:
                raise UserError(
                    f"{shown(other.folder)}: has another network than {shown(first.folder)}:"
                    f" model.{key} is {two} there, {one} here"
                )


def evaluate_line(
    interpolation: WeightInterpolation,
    i: int,
    j: int,
    checkpoints: list[CheckpointRef],
    points: int | None,
    beyond: float,
    progress: ProgressBar,
) -> dict[str, Any]:
    """Returns the metrics on the line from checkpoint i to checkpoint j, and the barriers between them."""
    distance = interpolation.distance(i, j)
    if distance == 0:
        raise UserError(f"{checkpoints[j].name}: holds the same weights as {checkpoints[i].name}")

    def coefficients(t: float) -> list[float]:
        values = [0.0] * len(checkpoints)
        values[i], values[j] = 1 - t, t
        return values

    positions = line_positions(points or LINE_POINTS, beyond)
    line = [{"t": t, **interpolation.evaluate(coefficients(t))} for t in progress(positions, "line")]
    recomputed = None
    if interpolation.recompute:
        recomputed = [interpolation.evaluate(coefficients(t), recorded_statistics=False) for t in (0.0, 1.0)]
    barriers = {}
    for key in interpolation.keys:
        inside = [(point["t"], point[key]) for point in line if 0 <= point["t"] <= 1]
        t, values = map(np.array, zip(*inside, strict=True))
        if recomputed is not None:
            values[0], values[-1] = (end[key] for end in recomputed)
        barriers[key] = barrier(t, values)
    return {
        "from": i,
        "to": j,
        "distance": distance,
        "relative_distance": distance / interpolation.norm(i),
        "points": line,
        "ends_recomputed": recomputed,
        "barriers": barriers,
        "one_basin": bool(barriers["test_error"]["height"] < NO_BARRIER),
    }


def line_positions(points: int, beyond: float) -> list[float]:
    """Returns t of so many points from 0 to 1, and of more, with the same spacing, on both sides.

    >>> line_positions(3, 0.6)
    [-0.5, 0.0, 0.5, 1.0, 1.5]
    """
    more = math.floor(beyond * (points - 1) + 1e-9)
    return [k / (points - 1) for k in range(-more, points + more)]


def barrier(t: np.ndarray, values: np.ndarray) -> Metrics:
    """Returns how far values rise above the straight line between the first and the last, and where.

    Values that are not finite are infinitely high.

    >>> barrier(np.array([0.0, 0.25, 1.0]), np.array([1.0, 4.0, 2.0]))
    {'height': 2.75, 't': 0.25}

    Args:
        t: from 0 to 1, increasing, (n,).
        values: (n,).
    """
    above = np.where(np.isfinite(values), values - ((1 - t) * values[0] + t * values[-1]), math.inf)
    highest = int(above.argmax())
    return {"height": float(above[highest]), "t": float(t[highest])}


def evaluate_plane(
    interpolation: WeightInterpolation,
    checkpoints: list[CheckpointRef],
    points: int | None,
    beyond: float,
    progress: ProgressBar,
) -> dict[str, Any]:
    """Returns the metrics on a grid of the plane through three checkpoints, and at the checkpoints."""
    corners = triangle(*(interpolation.distance(i, j) for i, j in combinations(range(3), 2)))
    if corners is None:
        names = ", ".join(reference.name for reference in checkpoints)
        raise UserError(f"landscape: {names} lie on one line; give two of them")
    count = points or PLANE_POINTS
    extent = np.ptp(corners, axis=0)
    middle, sides = (corners.min(0) + corners.max(0)) / 2, np.maximum(extent, MIN_SIDE_RATIO * extent.max())
    sides = sides / 2 + beyond * extent.max()
    x, y = (np.linspace(middle[k] - sides[k], middle[k] + sides[k], count) for k in (0, 1))
    nodes = progress([(b, a) for b in y for a in x], "plane")
    grid = [interpolation.evaluate(barycentric_coordinates(corners, px, py)) for py, px in nodes]
    at_corners = [interpolation.evaluate([float(k == corner) for k in range(3)]) for corner in range(3)]
    return {
        "x": x.tolist(),
        "y": y.tolist(),
        "values": {key: np.reshape([v[key] for v in grid], (count, count)).tolist() for key in interpolation.keys},
        "points": [
            {"x": float(px), "y": float(py), **metrics} for (px, py), metrics in zip(corners, at_corners, strict=True)
        ],
    }


def triangle(ab: float, ac: float, bc: float) -> np.ndarray | None:
    """Returns the corners (3, 2) of a triangle with these sides, A at 0 and B on the x-axis; None if it is flat.

    >>> triangle(3.0, 4.0, 5.0).tolist()
    [[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]
    """
    along = (ab**2 + ac**2 - bc**2) / (2 * ab)
    height_sq = ac**2 - along**2
    if height_sq <= (MIN_ANGLE * ac) ** 2:
        return None
    return np.array([[0.0, 0.0], [ab, 0.0], [along, math.sqrt(height_sq)]])


def barycentric_coordinates(corners: np.ndarray, x: float, y: float) -> list[float]:
    """Returns the coefficients, which add up to 1, of three corners (3, 2) at a point.

    >>> barycentric_coordinates(np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.0]]), 1.5, 0.5)
    [0.0, 0.5, 0.5]
    """
    third = y / corners[2, 1]
    second = (x - third * corners[2, 0]) / corners[1, 0]
    return [float(1 - second - third), float(second), float(third)]
