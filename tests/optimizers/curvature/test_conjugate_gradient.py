"""Conjugate gradients against direct solves of numpy and against scipy, in float64."""

import numpy as np
import pytest
import torch
from scipy.sparse import linalg

from helpers.references import classifier, error, flat, numbers
from trainopt.optimizers import conjugate_gradient, hessian_vector_product

N = 12


def matrix(condition=30.0, eigenvalues=None):
    """A symmetric matrix with these eigenvalues, in no particular basis."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(N, N)))[0]
    eigenvalues = np.geomspace(1, condition, N) if eigenvalues is None else np.asarray(eigenvalues, float)
    return basis @ np.diag(eigenvalues) @ basis.T


def right_hand_side():
    return np.random.default_rng(1).normal(size=N)


def parts(vector):
    """A vector as a list of tensors of several shapes."""
    t = torch.tensor(vector, dtype=torch.float64)
    return [t[:6].view(2, 3).clone(), t[6:7].view(()).clone(), t[7:].clone()]


def joined(tensors):
    return torch.cat([t.reshape(-1) for t in tensors]).numpy()


def solved(A, b, **options):
    """The solution as a vector, and the report, with the products counted."""
    calls = []

    def product(v):
        calls.append(joined(v))
        return parts(A @ joined(v))

    as_parts = {k: parts(v) if k == "x0" else v for k, v in options.items()}
    x, info = conjugate_gradient(product, parts(b), **as_parts)
    assert [t.shape for t in x] == [t.shape for t in parts(b)]
    assert info.products == len(calls)
    return joined(x), info


def test_the_solution_is_the_direct_one():
    A, b = matrix(), right_hand_side()
    x, info = solved(A, b, max_iter=50, tol=1e-11)
    assert x == pytest.approx(np.linalg.solve(A, b), rel=1e-9)
    assert info.reason == "converged"
    assert info.iterations <= N + 2
    assert info.residual <= 1e-11


@pytest.mark.parametrize("iterations", [1, 2, 5, 9])
@pytest.mark.parametrize("warm", [False, True])
def test_each_iterate_is_that_of_scipy(iterations, warm):
    A, b = matrix(), right_hand_side()
    x0 = np.random.default_rng(2).normal(size=N) if warm else None
    x, info = solved(A, b, max_iter=iterations, tol=0.0, **({"x0": x0} if warm else {}))
    expected, _ = linalg.cg(A, b, x0=x0, rtol=0, atol=0, maxiter=iterations)
    assert x == pytest.approx(expected, rel=1e-9)
    assert info.iterations == iterations
    assert info.products == iterations + warm
    assert info.reason == "max_iter"
    assert info.residual == pytest.approx(np.linalg.norm(b - A @ x), rel=1e-9)


def test_it_ends_in_as_many_iterations_as_there_are_eigenvalues():
    eigenvalues = [1] * 4 + [3] * 5 + [10] * 3
    _, info = solved(matrix(eigenvalues=eigenvalues), right_hand_side(), tol=1e-10)
    assert info.iterations == 3
    assert info.reason == "converged"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_tolerance_is_absolute(scale):
    A, b = matrix(), scale * right_hand_side()
    x, info = solved(A, b, max_iter=100, tol=1e-4)
    # the residual is carried along: rounding of the right-hand side's size stays in it
    assert info.residual == pytest.approx(np.linalg.norm(b - A @ x), rel=1e-8, abs=1e-13 * np.linalg.norm(b))
    assert info.residual <= 1e-4
    before = solved(A, b, max_iter=info.iterations - 1, tol=1e-4)[1]
    assert before.residual > 1e-4
    assert before.reason == "max_iter"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_or_relative_to_the_right_hand_side(scale):
    A, b = matrix(), scale * right_hand_side()
    _, info = solved(A, b, max_iter=100, tol=1e-4, relative=True)
    assert info.iterations == solved(A, b / scale, max_iter=100, tol=1e-4, relative=True)[1].iterations
    limit = 1e-4 * np.linalg.norm(b)
    assert info.residual <= limit
    assert solved(A, b, max_iter=info.iterations - 1, tol=1e-4, relative=True)[1].residual > limit


def test_a_relative_tolerance_with_a_start_is_still_relative_to_the_right_hand_side():
    A, b = matrix(), right_hand_side()
    near = np.linalg.solve(A, b) + 1e-7
    x, info = solved(A, b, x0=near, tol=1e-5, relative=True)
    assert (info.iterations, info.products, info.reason) == (0, 1, "converged")
    assert x == pytest.approx(near, rel=1e-15)


def test_a_small_right_hand_side_is_solved_by_nothing():
    x, info = solved(matrix(), np.full(N, 1e-7), tol=1e-5)
    assert not x.any()
    assert (info.iterations, info.products, info.reason) == (0, 0, "converged")
    assert info.residual == pytest.approx(1e-7 * N**0.5)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("tol", [0.0, 1e-5])
def test_a_right_hand_side_of_zero_gives_zero(relative, tol):
    x, info = solved(matrix(), np.zeros(N), tol=tol, relative=relative)
    assert not x.any()
    assert info == (0, 0.0, "converged", 0)


def test_negative_curvature_at_once_gives_the_right_hand_side():
    A, b = -matrix(), right_hand_side()
    x, info = solved(A, b)
    assert x == pytest.approx(b, rel=1e-15)
    assert (info.iterations, info.products, info.reason) == (0, 1, "negative_curvature")
    assert info.residual == pytest.approx(np.linalg.norm(b - A @ b), rel=1e-12)


def test_zero_curvature_counts_as_negative():
    x, info = solved(np.zeros((N, N)), right_hand_side())
    assert x == pytest.approx(right_hand_side())
    assert info.reason == "negative_curvature"


def test_negative_curvature_later_keeps_what_was_reached():
    b = right_hand_side()
    A = matrix(eigenvalues=[-1.0, *np.geomspace(1, 30, N - 1)])
    x, info = solved(A, b, max_iter=100, tol=1e-12)
    assert info.reason == "negative_curvature"
    assert info.iterations >= 1
    assert info.products == info.iterations + 1
    reached, before = solved(A, b, max_iter=info.iterations, tol=1e-12)
    assert np.array_equal(x, reached)
    assert before.reason == "max_iter"
    assert info.residual == before.residual == pytest.approx(np.linalg.norm(b - A @ x), rel=1e-10)
    # up to there, each step lowered the quadratic: x is a direction of descent
    assert x @ b > 0


def test_negative_curvature_at_once_with_a_start_returns_the_right_hand_side():
    x0 = np.random.default_rng(2).normal(size=N)
    A = -matrix()
    x, info = solved(A, right_hand_side(), x0=x0)
    assert np.array_equal(x, right_hand_side())
    assert (info.iterations, info.products, info.reason) == (0, 3, "negative_curvature")
    assert info.residual == pytest.approx(np.linalg.norm(right_hand_side() - A @ x), rel=1e-12)


def test_a_singular_system_with_a_solution_is_solved():
    A = matrix(eigenvalues=[0, 0, 0, *np.geomspace(1, 30, N - 3)])
    b = A @ right_hand_side()
    x, info = solved(A, b, max_iter=50, tol=1e-10)
    assert info.reason == "converged"
    assert x == pytest.approx(np.linalg.pinv(A) @ b, rel=1e-8)  # of all solutions the shortest


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_products_that_are_not_finite_are_told(value):
    b = right_hand_side()
    for at in (1, 3):
        calls = []

        def product(v, at=at, calls=calls):
            calls.append(1)
            return parts(value * joined(v) if len(calls) == at else matrix() @ joined(v))

        x, info = conjugate_gradient(product, parts(b), tol=1e-12)
        assert info.reason == "not_finite"
        assert np.isfinite(joined(x)).all()
        if at > 1:
            assert np.array_equal(joined(x), solved(matrix(), b, max_iter=at - 1, tol=1e-12)[0])


def test_a_right_hand_side_that_is_not_finite_is_told():
    b = right_hand_side()
    b[3] = np.nan
    assert solved(matrix(), b)[1].reason == "not_finite"


def test_arguments_are_left_alone_and_the_answer_is_new():
    A, b, x0 = matrix(), parts(right_hand_side()), parts(np.ones(N))
    x, _ = conjugate_gradient(lambda v: parts(A @ joined(v)), b, x0=x0, max_iter=3)
    assert np.array_equal(joined(b), right_hand_side())
    assert np.array_equal(joined(x0), np.ones(N))
    x, _ = conjugate_gradient(lambda v: [-t for t in v], b)  # b itself is the answer
    x[0].add_(1)
    assert np.array_equal(joined(b), right_hand_side())


def test_no_graph_is_kept():
    b = torch.ones(3, requires_grad=True)
    (x,), _ = conjugate_gradient(lambda v: [2 * v[0] * b.detach()], [b])
    assert not x.requires_grad


def test_single_precision_stays_so():
    A = torch.from_numpy(matrix()).float()
    b = torch.from_numpy(right_hand_side()).float()
    (x,), info = conjugate_gradient(lambda v: [A @ v[0]], [b], tol=1e-5, relative=True)
    assert x.dtype == torch.float32
    assert info.reason == "converged"
    # a residual of 1e-5 and a condition number of 30
    assert x.numpy() == pytest.approx(np.linalg.solve(matrix(), right_hand_side()), rel=1e-3)


def test_products_and_conjugate_gradients_take_any_lists_of_tensors_and_name_wrong_shapes():
    problem = classifier()
    vector = numbers(len(problem.weights()), seed=1)
    parts = problem.split(vector)
    expected = problem.hessian() @ vector
    product = hessian_vector_product(problem.closure(), problem.network.parameters(), iter(parts))
    assert error(flat(product), expected) < 1e-12
    with pytest.raises(ValueError, match=r"^vectors: the shapes are \[\(4, 5\)\], and must be \[\(4, 5\), \(4,\)"):
        hessian_vector_product(problem.closure(), problem.params, parts[:1])

    A = problem.hessian() + torch.eye(len(vector))
    b = tuple(problem.split(A @ vector))

    def apply(v):
        return (part for part in problem.split(A @ flat(v)))

    x, info = conjugate_gradient(apply, b, max_iter=200, tol=1e-12)
    assert [p.shape for p in x] == [p.shape for p in parts]
    assert error(flat(x), vector) < 1e-9
    assert info.reason == "converged"
    with pytest.raises(ValueError, match="^product: the shapes are "):
        conjugate_gradient(lambda v: v[:1], b)
    with pytest.raises(ValueError, match="^x0: the shapes are "):
        conjugate_gradient(apply, b, x0=b[:1])
    with pytest.raises(ValueError, match="^max_iter=-1: must be >= 0$"):
        conjugate_gradient(apply, b, max_iter=-1)
