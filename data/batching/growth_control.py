"""Batch size and learning rate adjusted by the growth of C_K and L_K."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

from .adaptive import AdaptiveBatchSize, Proposal, clamp

SIZE_PER_L = 2 / 3  # power of the size's answer to L_K

Bounds = Sequence[float]  # lowest and highest


@dataclass(kw_only=True, eq=False)
class GrowthController(AdaptiveBatchSize):
    """Adjusts size and learning rate by the growth of C_K and L_K of Liao et al. 2018; the base of two rules.

    (Equations 7 and 8.) Between two measurements at epochs e' < e the growth is

        (C_K(e) - C_K(e')) / (e - e')        and the same of L_K

    A subclass returns in `bounds` the interval in which each is to stay. Which parameter responds to which quantity:

    * The size responds to C_K, the mean condition number of the per-sample gradients. At equal sizes C_K is nearly
      the same whatever the learning rate is (section 4.2), and more rows make the condition of a matrix worse. Where
      it grows too fast the size is divided by `factor`, where it grows too slowly multiplied: how C_K depends on the
      size is not known.
    * The learning rate responds to L_K, the sum of l_k = lr / B * sqrt(trace) (section 4.2). Where it grows q times
      as fast as the bound that it violates, the learning rate is divided by q. Where the learning rate must not be
      adjusted, the size is multiplied by q^(2/3): the trace is a sum over B samples, and an epoch has N / B updates,
      so that an epoch adds about lr B^(-3/2).

    Where C_K and L_K suggest opposite changes of the size, it stays the same.
    """

    reads: ClassVar[tuple[str, ...]] = ("C_K", "L_K")

    adjust: Sequence[str] = ("size", "lr")
    lr_bounds: Bounds = (0.01, 10.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._last: list[float] | None = None  # epochs, C_K and L_K of the last measurement

    def bounds(self) -> tuple[Bounds | None, Bounds | None] | None:
        """Returns lowest and highest growth per epoch of C_K and of L_K, each None for any; None: not known now."""
        raise NotImplementedError

    def measure(self, values: Mapping[str, Any], epochs: float) -> dict[str, float] | None:
        """Returns the growth per epoch since the last measurement; None at the first, and in repeats of a batch."""
        before, last = self._last, [epochs, float(values["C_K"]), float(values["L_K"])]
        if before is not None and epochs <= before[0]:
            return None
        self._last = last
        if before is None:
            return None
        passed, C, L = (new - old for new, old in zip(last, before, strict=True))
        return {"C_growth": C / passed, "L_growth": L / passed}

    def propose(self, measures: Mapping[str, float]) -> Proposal:
        """Returns the size and the factor on the learning rate that bring the growth into its bounds."""
        size, lr_factor = self.size, self.lr_scale
        bounds = self.bounds()
        if bounds is None:
            return Proposal(size, lr_factor, "the reference has no such epoch")
        reasons, by_C, by_L = [], 1.0, 1.0  # factors on the size
        for name, growth, interval in zip("CL", measures.values(), bounds, strict=True):
            if interval is None:
                continue
            ratio = excess(growth, *interval)
            reasons.append(f"{name}_K grows by {growth:.4g} an epoch, {describe_position(growth, *interval)}")
            if name == "L" and "lr" in self.adjust:
                lr_factor /= clamp(ratio, 1 / self.factor, self.factor)
            elif name == "L":
                by_L = ratio**SIZE_PER_L
            elif ratio != 1:
                by_C = 1 / self.factor if ratio > 1 else self.factor
        if min(by_C, by_L) < 1 < max(by_C, by_L):
            return Proposal(size, lr_factor, f"{', '.join(reasons)}; they suggest opposite sizes")
        return Proposal(size * by_C * by_L, lr_factor, ", ".join(reasons))

    def state_dict(self) -> dict[str, Any]:
        """Returns the last change, the moving average and the last measurement."""
        return {**super().state_dict(), "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state)
        self._last = state["last"]


@dataclass(eq=False)
class GrowthControl(GrowthController):
    """Keeps the growth of C_K and L_K per epoch within fixed bounds.

    Liao et al. 2018 (section 5) propose to tune batch size and learning rate such that they "do not increase too
    quickly". `GrowthController` describes what is adjusted, and by how much.

    Args:
        C_growth: lowest and highest growth of C_K per epoch; None: any.
        L_growth: lowest and highest growth of L_K per epoch; None: any.
        size, min_size, max_size, adjust, lr_bounds, factor, smoothing, every: as in `AdaptiveBatchSize`.
        persistency, drop_last, repeat_lr_factor, duration: as in `BatchUse`.

    Raises:
        ValueError: there are no bounds, or they do not increase, or the learning rate alone is to adjust C_K.
    """

    C_growth: Bounds | None = None
    L_growth: Bounds | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.C_growth is None and self.L_growth is None:
            raise ValueError("C_growth and L_growth are both null: give the growth per epoch, as L_growth=[0,5]")
        for name, bounds in (("C_growth", self.C_growth), ("L_growth", self.L_growth)):
            if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
                raise ValueError(f"{name}={list(bounds)}: must be [lowest, highest], as [0, 5]")
        if self.L_growth is not None and self.L_growth[0] < 0:
            raise ValueError(f"L_growth={list(self.L_growth)}: must be >= 0; L_K never falls")
        if self.C_growth is not None and "size" not in self.adjust:
            raise ValueError("C_growth: the learning rate does not change C_K; give null, or adjust=[size,lr]")

    def bounds(self) -> tuple[Bounds | None, Bounds | None]:
        """Returns lowest and highest growth per epoch of C_K and of L_K, each None for any."""
        return self.C_growth, self.L_growth


def excess(value: float, low: float, high: float) -> float:
    """Returns the ratio of a value to the bound that it violates; 1 where it violates none.

    Where there is no such ratio, as for a value above 0 and a bound below 0, it is infinity, or 0.

    >>> excess(6.0, 1.0, 4.0), excess(0.5, 1.0, 4.0), excess(2.0, 1.0, 4.0), excess(2.0, -3.0, -1.0)
    (1.5, 0.5, 1.0, inf)
    """
    if value > high:
        return value / high if high > 0 else inf
    if value < low:
        return value / low if value > 0 else 0.0
    return 1.0


def describe_position(value: float, low: float, high: float) -> str:
    """Returns where a value lies relative to an interval, as text.

    >>> describe_position(3.0, 0.0, 2.0)
    'above 2'
    """
    return f"above {high:g}" if value > high else f"below {low:g}" if value < low else f"within [{low:g}, {high:g}]"
