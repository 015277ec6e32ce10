"""Singular values and moments of per-sample gradients, from their Gram matrix G = J J^T."""

from math import nan
from typing import NamedTuple

import torch
from torch import Tensor


class Spectrum(NamedTuple):
    """The singular values of J (B, P).

    Attributes:
        values: all of them, the largest first, also those that count as zero.
        rank: the number of those that do not count as zero.
        largest: sigma_max.
        smallest: sigma_min, the smallest that does not count as zero; nan where all do.
    """

    values: list[float]
    rank: int
    largest: float
    smallest: float

    @property
    def condition(self) -> float:
        """sigma_max / sigma_min; nan where the rank is 0."""
        return self.largest / self.smallest if self.rank else nan


def spectrum(gram: Tensor, zero_below: float = 1e-4) -> Spectrum:
    """Returns the singular values of J from G = J J^T, in float64: the roots of G's eigenvalues, clamped at 0.

    Args:
        gram: (B, B), finite.
        zero_below: sigma counts as zero where sigma <= zero_below * sigma_max.

    >>> rows = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 4.0]], dtype=torch.float64)
    >>> of_rows = spectrum(rows @ rows.T)
    >>> of_rows.rank, round(of_rows.condition, 6)
    (2, 1.885618)
    """
    eigenvalues = torch.linalg.eigvalsh(gram.double().cpu()).clamp(min=0.0)
    values = eigenvalues.sqrt().flip(0).tolist()
    rank = sum(value > zero_below * values[0] for value in values)
    return Spectrum(values, rank, values[0], values[rank - 1] if rank else nan)


class Moments(NamedTuple):
    """Moments of B gradients g_i, as floats.

    Attributes:
        trace: sum_i |g_i|^2.
        mean_norm_sq: |g|^2, g being their mean.
        variance: trace of their sample covariance, (sum_i |g_i|^2 - B |g|^2) / (B - 1); nan where B is 1.
    """

    trace: float
    mean_norm_sq: float
    variance: float


def moments(gram: Tensor) -> Moments:
    """Returns the moments of the rows of J from G = J J^T (B, B), in float64.

    >>> rows = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    >>> moments(rows @ rows.T)
    Moments(trace=26.0, mean_norm_sq=8.0, variance=10.0)
    """
    size, gram = len(gram), gram.double()
    trace, total = torch.stack([gram.diagonal().sum(), gram.sum()]).tolist()
    norm_sq = total / size**2
    return Moments(trace, norm_sq, (trace - size * norm_sq) / (size - 1) if size > 1 else nan)
