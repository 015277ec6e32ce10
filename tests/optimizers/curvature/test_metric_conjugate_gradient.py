"""Conjugate gradients in the metric M = L L^T of coordinates c against those on the vectors L^T c, in float64."""

import math

import pytest
import torch

from helpers.references import close, numbers
from trainopt.optimizers import conjugate_gradient
from trainopt.optimizers.curvature.conjugate_gradient import conjugate_gradient_in_metric

ROWS = numbers(7, 5)
DEPENDENT = torch.cat([ROWS[:3], ROWS[:1] - 2 * ROWS[1:2], torch.zeros(1, 5), ROWS[:2]]).double()
FACTORS = {"independent": numbers(5, 9, seed=1), "dependent": DEPENDENT}
CURVATURE = numbers(7, 7, seed=2)
B = numbers(7, seed=3)
TAU = 0.3
UNIT = 0.25  # of products


def system(rows, sign=1.0, tau=TAU):
    """The product and the metric of L^T S L + tau, with S symmetric; the right-hand side; the matrix itself."""
    L, b = FACTORS[rows], B[: len(FACTORS[rows])].clone()
    S = sign * (CURVATURE @ CURVATURE.T)[: len(L), : len(L)]
    M = L @ L.T

    def product(d, Md, Ad):
        return lambda: Ad.copy_((S @ Md + tau * d) / UNIT)

    def metric(r, Mr):
        return lambda: torch.mv(M, r, out=Mr)

    return (product, metric, b), L.T @ S @ L + tau * torch.eye(L.shape[1], dtype=L.dtype)


def solved(rows, sign=1.0, tau=TAU, **limits):
    """L^T x, its report, and what plain conjugate gradients find."""
    parts, A = system(rows, sign, tau)
    L, b = FACTORS[rows], parts[-1].clone()
    options = {"max_iter": 20, "tol": 1e-10, "relative": False, **limits}
    x, Mx, info = conjugate_gradient_in_metric(*parts, **options, unit=UNIT)
    close(Mx, L @ L.T @ x)
    expected = conjugate_gradient(lambda v: [A @ v[0]], [L.T @ b], **options)
    return L.T @ x, info, expected[0][0], expected[1], torch.linalg.vector_norm(L.T @ b)


def check_report(info, expected):
    """The residual of dependent coordinates is known to the root of a rounding error."""
    assert info._replace(residual=0.0) == expected._replace(residual=0.0)
    assert info.residual == pytest.approx(expected.residual, rel=1e-8, abs=1e-7)


@pytest.mark.parametrize("rows", FACTORS)
@pytest.mark.parametrize("iterations", [1, 2, 3, 4])
def test_each_iterate_is_that_of_the_vectors(rows, iterations):
    x, info, expected, of_expected, _ = solved(rows, max_iter=iterations, tol=0.0)
    close(x, expected)
    check_report(info, of_expected)


@pytest.mark.parametrize("rows", FACTORS)
@pytest.mark.parametrize("relative", [False, True])
def test_it_stops_where_the_tolerance_says(rows, relative):
    x, info, expected, of_expected, _ = solved(rows, tol=1e-3, relative=relative)
    close(x, expected)
    assert info.reason == of_expected.reason == "converged"
    assert info.iterations == of_expected.iterations > 1


def test_what_is_solved_by_nothing_is_zero():
    for limits in ({"max_iter": 0}, {"tol": 1e9}):
        x, info, _, of_expected, _ = solved("independent", **limits)
        assert not x.any()
        check_report(info, of_expected)


@pytest.mark.parametrize("max_iter", [1, 20])
def test_negative_curvature_at_once_gives_the_right_hand_side(max_iter):
    x, info, expected, of_expected, _ = solved("independent", sign=-1.0, max_iter=max_iter)
    close(x, expected)
    close(x, FACTORS["independent"].T @ B[:5])
    check_report(info, of_expected)
    assert info.reason == "negative_curvature"


def test_negative_curvature_later_keeps_what_was_reached():
    A = system("independent")[1]
    tau = TAU - float(torch.linalg.eigvalsh(A)[-1]) / 2  # the matrix is indefinite
    x, info, expected, of_expected, _ = solved("independent", tau=tau)
    close(x, expected)
    check_report(info, of_expected)
    assert info.reason == "negative_curvature"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_told(value):
    (product, metric, b), _ = system("independent")
    b[1] = value
    _, _, info = conjugate_gradient_in_metric(product, metric, b, 20, 1e-5, False, UNIT)
    assert (info.iterations, info.reason) == (0, "not_finite")
