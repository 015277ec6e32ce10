"""What a Gram matrix of per-sample gradients says of a batch: its singular values, and the gradient's variance."""

from math import nan
from typing import NamedTuple

import torch
from torch import Tensor


class Spectrum(NamedTuple):
    """Singular values of J (B, P), those that count as not zero.

    Attributes:
        values: of all of them, the largest first; what is zero by the threshold is in it as it was found.
        rank: how many are not zero.
        largest: sigma_max.
        smallest: the smallest that is not zero.
    """

    values: list[float]
    rank: int
    largest: float
    smallest: float

    @property
    def condition(self) -> float:
        """sigma_max / sigma_min; not a number where there are none."""
        return self.largest / self.smallest if self.rank else nan


def spectrum(gram: Tensor, zero_below: float = 1e-4) -> Spectrum:
    """Returns the singular values of J from G = J J^T, in float64: the roots of G's eigenvalues, clamped at 0.

    Args:
        gram: (B, B), finite.
        zero_below: sigma counts as zero where sigma <= zero_below * sigma_max. 0: what came out as 0 exactly.

    >>> rows = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 4.0]], dtype=torch.float64)
    >>> found = spectrum(rows @ rows.T)
    >>> found.rank, round(found.condition, 6)
    (2, 1.885618)
    """
    eigenvalues = torch.linalg.eigvalsh(gram.double().cpu()).clamp(min=0.0)
    values = eigenvalues.sqrt().flip(0).tolist()
    rank = sum(value > zero_below * values[0] for value in values)
    return Spectrum(values, rank, values[0], values[rank - 1] if rank else nan)


class Moments(NamedTuple):
    """Of B gradients g_i, as floats.

    Attributes:
        trace: sum_i |g_i|^2.
        mean_norm_sq: |g|^2, g being their mean.
        variance: trace of their sample covariance, (sum_i |g_i|^2 - B |g|^2) / (B - 1); nan where B is 1.
    """

    trace: float
    mean_norm_sq: float
    variance: float


def moments(gram: Tensor) -> Moments:
    """Returns what the entries of G = J J^T (B, B) add up to, in float64.

    >>> rows = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    >>> moments(rows @ rows.T)
    Moments(trace=26.0, mean_norm_sq=8.0, variance=10.0)
    """
    size, gram = len(gram), gram.double()
    trace, total = torch.stack([gram.diagonal().sum(), gram.sum()]).tolist()
    norm_sq = total / size**2
    return Moments(trace, norm_sq, (trace - size * norm_sq) / (size - 1) if size > 1 else nan)
