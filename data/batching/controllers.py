"""How measures of the per-sample gradients move batch size and learning rate."""

import json
from collections.abc import Mapping, Sequence
from math import ceil, inf
from pathlib import Path
from typing import Any

import numpy as np

from .adaptive import Answer, Controlled, between
from .stages import Duration

SIZE_PER_L = 2 / 3

Bounds = Sequence[float]  # lowest and highest


class ByGrowth(Controlled):
    """Moves size and learning rate with the growth of C_K and L_K of Liao et al. 2018; the base of two.

    (Equations 7 and 8.) Between two measurements at epochs e' < e the growth is

        (C_K(e) - C_K(e')) / (e - e')        and the same of L_K

    A subclass says in `bounds` between which rates of growth they are to stay. Which knob answers which measure:

    * C_K, the mean condition number of the per-sample gradients, is the batch size's: at equal sizes it is nearly
      the same whatever the learning rate is (section 4.2), and more rows make a matrix's condition worse. Where it
      grows too fast the size is divided by `factor`, where it grows too slowly multiplied: by which power it
      depends on the size is not known.
    * L_K, the sum of l_k = lr / B * sqrt(trace), is the learning rate's (section 4.2). Where it grows q times as
      fast as the bound that it is beyond, the rate is divided by q. Where the rate may not be moved, the size
      answers, with q^(2/3): the trace is a sum over B samples, and an epoch has N / B updates, so that an epoch
      adds about lr B^(-3/2).

    Where C_K and L_K ask for opposite sizes, the size is kept.
    """

    reads = ("C_K", "L_K")
    _last: list[float] | None = None  # epochs, C_K and L_K of the last measurement

    def bounds(self) -> tuple[Bounds | None, Bounds | None] | None:
        """Returns lowest and highest growth per epoch of C_K and of L_K, each None for any; None: not known now."""
        raise NotImplementedError

    def measure(self, values: Mapping[str, Any], epochs: float) -> dict[str, float] | None:
        """Returns the growth per epoch since the last measurement; None at the first, and in a batch's repeats."""
        before, last = self._last, [epochs, float(values["C_K"]), float(values["L_K"])]
        if before is not None and epochs <= before[0]:
            return None
        self._last = last
        if before is None:
            return None
        passed, C, L = (new - old for new, old in zip(last, before, strict=True))
        return {"C_growth": C / passed, "L_growth": L / passed}

    def answer(self, measures: Mapping[str, float]) -> Answer:
        """Returns what the growth asks for."""
        size, lr = self._now
        bounds = self.bounds()
        if bounds is None:
            return Answer(size, lr, "nothing to go by here")
        reasons, by_C, by_L = [], 1.0, 1.0  # factors on the size
        for name, growth, allowed in zip("CL", measures.values(), bounds, strict=True):
            if allowed is None:
                continue
            excess = beyond(growth, *allowed)
            reasons.append(f"{name}_K grows by {growth:.4g} an epoch, {placed(growth, *allowed)}")
            if name == "L" and "lr" in self.adjust:
                lr /= between(excess, 1 / self.factor, self.factor)
            elif name == "L":
                by_L = excess**SIZE_PER_L
            elif excess != 1:
                by_C = 1 / self.factor if excess > 1 else self.factor
        if min(by_C, by_L) < 1 < max(by_C, by_L):
            return Answer(size, lr, f"{', '.join(reasons)}; they ask for opposite sizes")
        return Answer(size * by_C * by_L, lr, ", ".join(reasons))

    def state_dict(self) -> dict[str, Any]:
        """Returns what was decided, what is being smoothed, and the last measurement."""
        return {**super().state_dict(), "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        super().load_state_dict(state)
        self._last = state["last"]


class GrowthControl(ByGrowth):
    """Keeps the growth of C_K and L_K per epoch within bounds that are stated.

    That they "do not increase too quickly" is what Liao et al. 2018 (section 5) propose to tune batch size and
    learning rate for. `ByGrowth` says what moves, and how far.

    Args:
        C_growth: lowest and highest growth of C_K per epoch; None: any.
        L_growth: lowest and highest growth of L_K per epoch; None: any.
        size, min_size, max_size, adjust, lr_bounds, factor, smoothing, every: as in `Controlled`.
        persistency, drop_last, repeat_lr_factor, duration: as in `Batching`.

    Raises:
        ValueError: there are no bounds, or they are no rising pair, or the learning rate alone is to move C_K.
    """

    def __init__(
        self,
        C_growth: Bounds | None = None,
        L_growth: Bounds | None = None,
        size: int = 32,
        min_size: int = 8,
        max_size: int = 512,
        adjust: Sequence[str] = ("size", "lr"),
        lr_bounds: Bounds = (0.01, 10.0),
        factor: float = 2.0,
        smoothing: float = 0.9,
        every: str = "1epochs",
        persistency: int | Sequence[int] = 1,
        drop_last: bool = False,
        repeat_lr_factor: float = 1.0,
        duration: Duration | None = None,
    ):
        shared = (factor, smoothing, every, persistency, drop_last, repeat_lr_factor, duration)
        super().__init__(size, min_size, max_size, adjust, lr_bounds, *shared)
        if C_growth is None and L_growth is None:
            raise ValueError("C_growth and L_growth are both null: give the growth per epoch, as L_growth=[0,5]")
        for name, bounds in (("C_growth", C_growth), ("L_growth", L_growth)):
            if bounds is not None and not bounds[0] < bounds[1]:
                raise ValueError(f"{name}={list(bounds)}: must be the lowest and the highest")
        if L_growth is not None and L_growth[0] < 0:
            raise ValueError(f"L_growth={list(L_growth)}: must be >= 0; L_K never falls")
        if C_growth is not None and "size" not in self.adjust:
            raise ValueError("C_growth: the learning rate does not move C_K; give null, or adjust=[size,lr]")
        self._bounds = C_growth, L_growth

    def bounds(self) -> tuple[Bounds | None, Bounds | None]:
        """Returns lowest and highest growth per epoch of C_K and of L_K, each None for any."""
        return self._bounds


class ReferenceControl(ByGrowth):
    """Keeps C_K and L_K on the path of a reference run.

    "New models must navigate close to this reference model", says Liao et al. 2018 (section 3.1). At epoch e, h
    epochs after the last decision, with the reference's value L*, interpolated linearly between its measurements,
    the growth of L_K is to be between

        (L*(e + h) (1 - tolerance) - L_K) / h    and    (L*(e + h) (1 + tolerance) - L_K) / h

    that is, lead to within a tolerance of the path when it is time to decide again; the same of C_K. `ByGrowth`
    says what moves, and how far. Where the reference has no such epoch, all stays as it is.

    Args:
        reference: folder of a run with probe=[fisher].
        tolerance: share by which C_K and L_K may be above or below the reference's.
        size, min_size, max_size, adjust, lr_bounds, factor, smoothing, every: as in `Controlled`.
        persistency, drop_last, repeat_lr_factor, duration: as in `Batching`.

    Raises:
        ValueError: there is no such run, it is damaged, or it has no rows of the probe.
    """

    def __init__(
        self,
        reference: str,
        tolerance: float = 0.1,
        size: int = 32,
        min_size: int = 8,
        max_size: int = 512,
        adjust: Sequence[str] = ("size", "lr"),
        lr_bounds: Bounds = (0.01, 10.0),
        factor: float = 2.0,
        smoothing: float = 0.9,
        every: str = "1epochs",
        persistency: int | Sequence[int] = 1,
        drop_last: bool = False,
        repeat_lr_factor: float = 1.0,
        duration: Duration | None = None,
    ):
        shared = (factor, smoothing, every, persistency, drop_last, repeat_lr_factor, duration)
        super().__init__(size, min_size, max_size, adjust, lr_bounds, *shared)
        self.tolerance = tolerance
        self._epochs, *self._paths = read_path(Path(reference), self.needs_probe)
        self._decided = 0.0  # epochs at the last decision

    def bounds(self) -> tuple[Bounds | None, Bounds | None] | None:
        """Returns the growth per epoch that leads to the path; None where the reference has none."""
        assert self._last is not None  # measures come before decisions
        epochs, *values = self._last
        ahead, self._decided = epochs - self._decided, epochs
        if not self._epochs[0] <= epochs + ahead <= self._epochs[-1]:
            return None
        C, L = (
            [(share * np.interp(epochs + ahead, self._epochs, path).item() - value) / ahead for share in around]
            for path, value in zip(self._paths, values, strict=True)
            for around in [(1 - self.tolerance, 1 + self.tolerance)]
        )
        return (C if "size" in self.adjust else None), L

    def state_dict(self) -> dict[str, Any]:
        """Returns what was decided and when, what is being smoothed, and the last measurement."""
        return {**super().state_dict(), "decided": self._decided}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        super().load_state_dict(state)
        self._decided = state["decided"]


class NormTest(Controlled):
    """Enlarges batches where the gradient is too noisy: the norm test of Byrd et al. 2012.

    ("Sample size selection in optimization methods for machine learning", Math. Program. 134.) With the sample
    variance Var of the per-sample gradients (added up over all parameters), their mean g, and batches of size B,
    a batch is large enough where

        Var / B <= theta^2 |g|^2            else the new size is   ceil(Var / (theta^2 |g|^2))

    Here Var and |g|^2 are smoothed, so that one batch does not decide alone. The size never falls.

    Args:
        theta: share of the gradient's length that its error may have.
        size, max_size, factor, smoothing, every: as in `Controlled`.
        persistency, drop_last, repeat_lr_factor, duration: as in `Batching`.

    Raises:
        ValueError: theta is not above 0.
    """

    reads = ("gradient_variance", "mean_gradient_norm_sq")

    def __init__(
        self,
        theta: float = 0.9,
        size: int = 32,
        max_size: int = 512,
        factor: float = 2.0,
        smoothing: float = 0.9,
        every: str = "1epochs",
        persistency: int | Sequence[int] = 1,
        drop_last: bool = False,
        repeat_lr_factor: float = 1.0,
        duration: Duration | None = None,
    ):
        shared = (factor, smoothing, every, persistency, drop_last, repeat_lr_factor, duration)
        super().__init__(size, size, max_size, ("size",), (1.0, 1.0), *shared)
        if not theta > 0:
            raise ValueError(f"theta={theta}: must be > 0")
        self.theta = theta

    def measure(self, values: Mapping[str, Any], epochs: float) -> dict[str, float]:
        """Returns variance and squared norm of the gradient."""
        return {name: float(values[name]) for name in self.reads}

    def answer(self, measures: Mapping[str, float]) -> Answer:
        """Returns the size that the test asks for."""
        variance, allowed = measures["gradient_variance"], self.theta**2 * measures["mean_gradient_norm_sq"]
        size, lr_factor = self._now
        passes = variance / size <= allowed
        sign = "<=" if passes else ">"
        reason = f"norm test: variance / size {variance / size:.4g} {sign} theta^2 |g|^2 {allowed:.4g}"
        if passes:
            return Answer(size, lr_factor, reason)
        return Answer(ceil(variance / allowed) if allowed > 0 else inf, lr_factor, reason)


def beyond(value: float, low: float, high: float) -> float:
    """Returns how many times as large as the bound that it is beyond a value is; 1 where it is within.

    What has no such ratio, as a value above 0 with a bound below, is infinitely many times as large, or 0.

    >>> beyond(6.0, 1.0, 4.0), beyond(0.5, 1.0, 4.0), beyond(2.0, 1.0, 4.0), beyond(2.0, -3.0, -1.0)
    (1.5, 0.5, 1.0, inf)
    """
    if value > high:
        return value / high if high > 0 else inf
    if value < low:
        return value / low if value > 0 else 0.0
    return 1.0


def placed(value: float, low: float, high: float) -> str:
    """Says where a value lies.

    >>> placed(3.0, 0.0, 2.0)
    'above 2'
    """
    return f"above {high:g}" if value > high else f"below {low:g}" if value < low else f"within [{low:g}, {high:g}]"


def read_path(folder: Path, probe: str) -> tuple[list[float], list[float], list[float]]:
    """Returns epochs, C_K and L_K of the rows that a probe wrote in a run's folder, in order.

    Raises:
        ValueError: there is no run, it is damaged, or no such rows are in it.
    """
    try:
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found = [
            (row["epoch"], row["C_K"], row["L_K"])
            for row in rows
            if row["kind"] == "probe" and row["probe"] == probe and None not in (row["C_K"], row["L_K"])
        ]
    except FileNotFoundError:
        raise ValueError(f"reference={folder}: holds no run; give the folder of one") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"reference={folder}: its metrics.jsonl cannot be read") from None
    if not found:
        raise ValueError(f"reference={folder}: has no rows of the probe; run it with probe=[{probe}]")
    epochs, C, L = zip(*found, strict=True)
    return list(epochs), list(C), list(L)
