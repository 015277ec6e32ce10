"""The rule by which Zorca 2020 finds a learning rate (section 4.3.2): which to try next, and which it is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class LRSearchRule:
    """Stage one tries base^-i for every exponent i, stage two n * base^-i for the best i, while the loss falls.

    What is known so far is a dict of losses by rate, in the order in which they were tried; a rate that cannot be
    trained with has an infinite loss. Of equal losses the one that was tried first is the lowest.

    Attributes:
        base: of the powers.
        exponents: i, in the order in which ties are decided.
        factors: n, in the order in which they are tried.
    """

    base: int
    exponents: tuple[int, ...]
    factors: tuple[float, ...]

    def next_rates(self, losses: Mapping[float, float]) -> list[float]:
        """Returns the rates to try next, which may be tried at once; empty at the end.

        >>> rule = LRSearchRule(10, (1, 2), (2, 3))
        >>> rule.next_rates({})
        [0.1, 0.01]
        >>> rule.next_rates({0.1: 5.0, 0.01: 4.0})
        [0.02]
        >>> rule.next_rates({0.1: 5.0, 0.01: 4.0, 0.02: 4.0})
        []
        """
        by_exponent = {i: self._rate(1, i) for i in self.exponents}
        untried = [rate for rate in by_exponent.values() if rate not in losses]
        if untried:
            return untried
        best = min(by_exponent, key=lambda i: losses[by_exponent[i]])
        lowest = losses[by_exponent[best]]
        if lowest == math.inf:
            return []
        for n in self.factors:
            rate = self._rate(n, best)
            if rate not in losses:
                return [rate]
            if losses[rate] >= lowest:
                return []
            lowest = losses[rate]
        return []

    def all_rates(self) -> set[float]:
        """Returns every rate that it may come to.

        >>> sorted(LRSearchRule(10, (1, 2), (2,)).all_rates())
        [0.01, 0.02, 0.1, 0.2]
        """
        return {self._rate(n, i) for n in (1, *self.factors) for i in self.exponents}

    def _rate(self, n: float, i: int) -> float:
        """Returns n * base^-i, rounded once: 0.3, and not 0.30000000000000004."""
        return float(Fraction(str(n)) / Fraction(self.base) ** i)


def chosen_rate(losses: Mapping[float, float]) -> float | None:
    """Returns the rate with the lowest loss; None where none has a finite one."""
    best = min(losses, key=lambda rate: losses[rate])
    return None if losses[best] == math.inf else best


def is_at_edge(rate: float, losses: Mapping[float, float]) -> bool:
    """Returns whether nothing beyond a rate was tried, to one side.

    >>> losses = {0.1: 2.0, 0.01: 3.0, 0.2: 4.0}
    >>> is_at_edge(0.1, losses), is_at_edge(0.01, losses)
    (False, True)
    """
    return rate in (min(losses), max(losses))
