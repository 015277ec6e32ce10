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
from ..training.last_layer import APART as NOT_OF_THE_FORM
from .checkpoints import Member, check_same_images, find_members, runs_of
from .ensemble import described
from .evaluate import enough_memory
from .interpolation import Surface

NO_BARRIER = 2.0  # percentage points of error: Frankle et al. 2020 take less for none, as noise
INPUTS = ("mean", "std", "size", "channels")  # keys of data that say how images become inputs
LINE_POINTS, PLANE_POINTS = 21, 15
NARROW = 0.6  # of the wider side of the triangle: what the other side of the plane is at least
LEAST_ANGLE = 1e-3  # radians between the sides of a triangle that spans a plane

Follow = Callable[[Iterable[Any], str], Iterable[Any]]
Values = dict[str, float]


def landscape(
    paths: Sequence[str | Path],
    points: int | None = None,
    beyond: float = 0.2,
    images: int = 1000,
    batch_norm: str = "recompute",
    checkpoint: str = "last",
    device: str | None = None,
    display: Display | None = None,
    follow: Follow = lambda steps, what: steps,
) -> dict[str, Any]:
    """Evaluates a network between checkpoints, on the test set and on training images.

    On the line through theta_0 and theta_1: at (1 - t) theta_0 + t theta_1. Of each quantity f (cross-entropy, and
    error in percent) the barrier between the two is

        max over 0 <= t <= 1 of  f(t) - ((1 - t) f(0) + t f(1))

    as in Entezari et al. 2022 (arXiv 2110.06296). Frankle et al. 2020 (arXiv 1912.05671) subtract the mean of f(0)
    and f(1), which is the same where the two are equal; where they are not, as within a run, theirs is above zero
    without any hill. Less than 2 percentage points of test error count as none, as in their paper: the checkpoints
    then are said to lie in one basin.

    On the plane through three: at theta_0 + x u / |u| + y v / |v|, with u = theta_1 - theta_0 and v what is left
    of theta_2 - theta_0 without its part along u (Garipov et al. 2018, arXiv 1802.10026); x and y are distances.
    The lines between each two are evaluated too.

    Running statistics of batch norm are no weights, and those between two checkpoints' are not those of the
    weights between them. At a checkpoint they are its own, so that its figures are those that the run recorded;
    elsewhere they are computed anew, from the same training images. What that alone changes is no barrier: for
    the barrier, f(0) and f(1) are with statistics computed anew as well.

    Args:
        paths: two or three checkpoints or runs, of one network and the same data.
        points: of a line, from one checkpoint to the other; of the plane, along each side; None: 21 and 15.
        beyond: how far lines go on beyond the checkpoints, as a share of their distance, and the plane beyond the
            triangle, as a share of its wider side.
        images: training images, class-balanced, without augmentation; all where there are not so many.
        batch_norm: `recompute` the statistics, or `interpolate` them as if they were weights.
        checkpoint: `best` or `last`, of runs.
        device: as in the configuration; None: the first run's.
        display: for notes; None: they are not said.
        follow: wraps what is walked through, as a progress bar does; it gets a word for it too.

    Returns:
        A dict, which is what landscape.json holds:
        checkpoints: of each `run`, `checkpoint`, `name` and `step`.
        batch_norm: as given; None where the network has no statistics that change.
        images: number of `train` and of `test` images.
        lines: for each two, `from` and `to` (numbers of checkpoints), `distance` and `relative_distance` (to the
            length of the first's weights), `points` (`t` and values of `test_error` and the other quantities),
            `ends_recomputed` (such values at 0 and 1 with new statistics, or None), `barriers` (of each quantity
            `height` and `t`) and `one_basin`.
        plane: None, or `x` and `y` of a grid, `values` of each quantity (a row for each y), and `points`: of each
            checkpoint, its place and its values.

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
    members = find_members(paths, checkpoint)
    if len(members) not in (2, 3):
        raise UserError(f"landscape: takes two or three checkpoints, and got {len(members)}")
    check_same_network(members)
    with enough_memory():
        run = next(iter(runs_of(members[:1], device, display or Display(quiet=True), images)))
        surface = Surface(run, members, batch_norm == "recompute")
        lines = [line(surface, i, j, members, points, beyond, follow) for i, j in combinations(range(len(members)), 2)]
        plane = plane_through(surface, members, points, beyond, follow) if len(members) == 3 else None
    return {
        "checkpoints": [{**described(m), "step": step} for m, step in zip(members, surface.steps, strict=True)],
        "batch_norm": batch_norm if surface.has_statistics else None,
        "images": {kind: len(surface.sets[kind]) for kind in ("train", "test")},
        "lines": lines,
        "plane": plane,
    }


def check_same_network(members: list[Member]) -> None:
    """Raises UserError, which names a key, unless all runs have the same images, inputs and network."""
    check_same_images(members, INPUTS)
    first, *others = members
    for other in others:
        for key in dict.fromkeys([*first.config.model, *other.config.model]):
            one, two = (m.config.model.get(key) for m in (first, other))
            if one != two and key not in NOT_OF_THE_FORM:
                raise UserError(
                    f"{shown(other.folder)}: has another network than {shown(first.folder)}:"
                    f" model.{key} is {two} there, {one} here"
                )


def line(
    surface: Surface, i: int, j: int, members: list[Member], points: int | None, beyond: float, follow: Follow
) -> dict[str, Any]:
    """Returns figures on the line from checkpoint i to checkpoint j, and the barriers between them."""
    distance = surface.distance(i, j)
    if distance == 0:
        raise UserError(f"{members[j].name}: holds the same weights as {members[i].name}")

    def weights(t: float) -> list[float]:
        share = [0.0] * len(members)
        share[i], share[j] = 1 - t, t
        return share

    places = line_places(points or LINE_POINTS, beyond)
    found = [{"t": t, **surface.at(weights(t))} for t in follow(places, "line")]
    anew = [surface.at(weights(t), own=False) for t in (0.0, 1.0)] if surface.recompute else None
    barriers = {}
    for key in surface.keys:
        inside = [(point["t"], point[key]) for point in found if 0 <= point["t"] <= 1]
        t, values = map(np.array, zip(*inside, strict=True))
        if anew is not None:
            values[0], values[-1] = (end[key] for end in anew)
        barriers[key] = barrier(t, values)
    return {
        "from": i,
        "to": j,
        "distance": distance,
        "relative_distance": distance / surface.norm(i),
        "points": found,
        "ends_recomputed": anew,
        "barriers": barriers,
        "one_basin": bool(barriers["test_error"]["height"] < NO_BARRIER),
    }


def line_places(points: int, beyond: float) -> list[float]:
    """Returns t of so many points from 0 to 1, and of more, equally far apart, on both sides.

    >>> line_places(3, 0.6)
    [-0.5, 0.0, 0.5, 1.0, 1.5]
    """
    more = math.floor(beyond * (points - 1) + 1e-9)
    return [k / (points - 1) for k in range(-more, points + more)]


def barrier(t: np.ndarray, values: np.ndarray) -> Values:
    """Returns how far values rise above the straight line between the first and the last, and where.

    Values that are not finite are infinitely high.

    >>> barrier(np.array([0.0, 0.25, 1.0]), np.array([1.0, 4.0, 2.0]))
    {'height': 2.75, 't': 0.25}

    Args:
        t: from 0 to 1, rising, (n,).
        values: (n,).
    """
    above = np.where(np.isfinite(values), values - ((1 - t) * values[0] + t * values[-1]), math.inf)
    highest = int(above.argmax())
    return {"height": float(above[highest]), "t": float(t[highest])}


def plane_through(
    surface: Surface, members: list[Member], points: int | None, beyond: float, follow: Follow
) -> dict[str, Any]:
    """Returns figures on a grid of the plane through three checkpoints, and at these."""
    corners = triangle(surface.distance(0, 1), surface.distance(0, 2), surface.distance(1, 2))
    if corners is None:
        raise UserError(f"landscape: {', '.join(m.name for m in members)} lie on one line; give two of them")
    count = points or PLANE_POINTS
    extent = np.ptp(corners, axis=0)
    middle, sides = (corners.min(0) + corners.max(0)) / 2, np.maximum(extent, NARROW * extent.max())
    sides = sides / 2 + beyond * extent.max()
    x, y = (np.linspace(middle[k] - sides[k], middle[k] + sides[k], count) for k in (0, 1))
    grid = [surface.at(shares(corners, px, py)) for py, px in follow([(b, a) for b in y for a in x], "plane")]
    at_corners = [surface.at([float(k == c) for k in range(3)]) for c in range(3)]
    return {
        "x": x.tolist(),
        "y": y.tolist(),
        "values": {key: np.reshape([v[key] for v in grid], (count, count)).tolist() for key in surface.keys},
        "points": [
            {"x": float(px), "y": float(py), **values} for (px, py), values in zip(corners, at_corners, strict=True)
        ],
    }


def triangle(ab: float, ac: float, bc: float) -> np.ndarray | None:
    """Returns the corners (3, 2) of a triangle with these sides, A at 0 and B on the axis; None if it is flat.

    >>> triangle(3.0, 4.0, 5.0).tolist()
    [[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]
    """
    along = (ab**2 + ac**2 - bc**2) / (2 * ab)
    height_sq = ac**2 - along**2
    if height_sq <= (LEAST_ANGLE * ac) ** 2:
        return None
    return np.array([[0.0, 0.0], [ab, 0.0], [along, math.sqrt(height_sq)]])


def shares(corners: np.ndarray, x: float, y: float) -> list[float]:
    """Returns the weights, which add up to 1, of three corners (3, 2) in a point: its barycentric coordinates.

    >>> shares(np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.0]]), 1.5, 0.5)
    [0.0, 0.5, 0.5]
    """
    third = y / corners[2, 1]
    second = (x - third * corners[2, 0]) / corners[1, 0]
    return [float(1 - second - third), float(second), float(third)]
