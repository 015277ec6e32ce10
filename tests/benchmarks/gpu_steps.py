"""On a GPU: products in gradients, steps of EHNewton in steps of SGD, and as graphs."""

from collections.abc import Iterator
from functools import partial

import torch

import second_order
from gpu_setting import Figure, Piece, Setting, ratio_of
from trainopt.optimizers import Curvature, EHNewton

PRODUCTS = {"mlp": 30, "resnet20": 8, "resnet50": 3}  # calls that are timed together
BEFORE = 11  # steps before the one that is recorded: those in which K-FAC's factors change


def products(setting: Setting) -> Iterator[Piece]:
    """Measures a further product in gradients, and steps of EHNewton in steps of SGD."""
    for name in PRODUCTS:
        if name != "resnet50" or not setting.smoke:
            yield f"{name}, products", partial(products_of, setting, name)
            yield f"{name}, steps", partial(newton_steps, setting, name)
            yield f"{name}, steps as graphs", partial(graph_steps, setting, name)


def case_of(setting: Setting, name: str) -> tuple[second_order.Case, str, int]:
    """Returns a network and its batch, its title, and how many calls are timed together."""
    with setting.device:
        case = second_order.Case(name, 4 if setting.smoke else None)
    return case, second_order.TITLES[name], setting.fewer(PRODUCTS[name])


def products_of(setting: Setting, name: str) -> Iterator[Figure]:
    case, title, calls = case_of(setting, name)
    hessian = Curvature(case.loss, case.params)
    newton = Curvature(case.loss, case.params, "gauss_newton")
    for what, product, bound in (
        ("a further Hessian product", hessian.matvec, 2.0),
        ("a further Gauss-Newton product", newton.matvec, None),
    ):
        ratio = ratio_of(setting, lambda f=product, c=case: f(c.vectors), case.gradient, calls)
        yield Figure(f"{title}: {what}, in gradients", ratio, "ratio", bound)


def newton_steps(setting: Setting, name: str) -> Iterator[Figure]:
    case, title, calls = case_of(setting, name)
    sgd = torch.optim.SGD(case.params, lr=1e-4)

    def sgd_step() -> None:
        sgd.zero_grad()
        case.loss().backward()
        sgd.step()

    for curvature, bound in (("hessian", 2.2), ("gauss_newton", None)):
        optimizer = EHNewton(case.params, lr=1e-4, cg_max_iter=1, cg_tol=0.0, curvature=curvature, damping=1.0)
        ratio = ratio_of(setting, lambda o=optimizer: o.step(case.loss), sgd_step, calls)
        yield Figure(f"{title}: EHNewton, {curvature}, one iteration, in steps of SGD", ratio, "ratio", bound)


def graph_steps(setting: Setting, name: str) -> Iterator[Figure]:
    """Measures replays of steps of EHNewton against the same steps without a graph, which read no number either."""
    case, title, calls = case_of(setting, name)
    one = {"lr": 1e-4, "cg_max_iter": 1, "damping": 1.0}
    for what, options in (("one iteration", one), ("ehnewton_auto", second_order.PRESET)):
        optimizer = EHNewton(case.params, **options)
        for _ in range(BEFORE):
            optimizer.step(case.loss)
        replay = setting.captured(lambda o=optimizer: o.record(case.loss))
        ratio = ratio_of(setting, replay, lambda o=optimizer: o.record(case.loss), calls)
        yield Figure(f"{title}: EHNewton, {what}, as a graph, in eager steps", ratio, "ratio", 1.0)
