"""The rule by which Zorca 2020 searches a learning rate (section 4.3.2)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class LRSearchRule:
    """Stage one tries base^-i for every exponent i; stage two n * base^-i for the best i, while the loss falls.

    The losses so far are a dict by learning rate, in the order in which they were tried; the loss of a learning rate
    that cannot be trained with is infinite. Of equal losses the one that was tried first counts as the lowest.

    Attributes:
        base: of the powers.
        exponents: i, in the order in which ties are decided.
        factors: n, in the order in which they are tried.
    """

    base: int
    exponents: tuple[int, ...]
    factors: tuple[float, ...]

    def next_lrs(self, losses: Mapping[float, float]) -> list[float]:
        """Returns the learning rates to try next, which may be tried at once; an empty list at the end.

        >>> rule = LRSearchRule(10, (1, 2), (2, 3))
        >>> rule.next_lrs({})
        [0.1, 0.01]
        >>> rule.next_lrs({0.1: 5.0, 0.01: 4.0})
        [0.02]
        >>> rule.next_lrs({0.1: 5.0, 0.01: 4.0, 0.02: 4.0})
        []
        """
        by_exponent = {i: self._lr(1, i) for i in self.exponents}
        untried = [lr for lr in by_exponent.values() if lr not in losses]
        if untried:
            return untried
        best = min(by_exponent, key=lambda i: losses[by_exponent[i]])
        lowest = losses[by_exponent[best]]
        if lowest == math.inf:
            return []
        for n in self.factors:
            lr = self._lr(n, best)
            if lr not in losses:
                return [lr]
            if losses[lr] >= lowest:
                return []
            lowest = losses[lr]
        return []

    def all_lrs(self) -> set[float]:
        """Returns every learning rate that the rule may try.

        >>> sorted(LRSearchRule(10, (1, 2), (2,)).all_lrs())
        [0.01, 0.02, 0.1, 0.2]
        """
        return {self._lr(n, i) for n in (1, *self.factors) for i in self.exponents}

    def _lr(self, n: float, i: int) -> float:
        """Returns n * base^-i, rounded once: 0.3, and not 0.30000000000000004."""
        return float(Fraction(str(n)) / Fraction(self.base) ** i)


def best_lr(losses: Mapping[float, float]) -> float | None:
    """Returns the learning rate with the lowest loss; None where no loss is finite."""
    best = min(losses, key=lambda lr: losses[lr], default=None)
    return None if best is None or losses[best] == math.inf else best


def is_at_boundary(lr: float, losses: Mapping[float, float]) -> bool:
    """Returns whether a learning rate is the lowest or the highest one that was tried.

    >>> losses = {0.1: 2.0, 0.01: 3.0, 0.2: 4.0}
    >>> is_at_boundary(0.1, losses), is_at_boundary(0.01, losses)
    (False, True)
    """
    return lr in (min(losses), max(losses))
