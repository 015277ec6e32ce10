"""How weights move: update rules, curvature, learning-rate schedules, regularizers. Needs torch alone."""

from .adaptive_nesterov import AdaptiveNesterov
from .conjugate_gradient import CGInfo, conjugate_gradient
from .curvature import Curvature, hessian_vector_product
from .ehnewton import EHNewton
from .l2 import L2
from .newton import Newton
from .schedules import Constant, Exponential, Multistep
from .taylor import TaylorEstimates, taylor_estimates
from .trace import Trace

__all__ = [
    "L2",
    "AdaptiveNesterov",
    "CGInfo",
    "Constant",
    "Curvature",
    "EHNewton",
    "Exponential",
    "Multistep",
    "Newton",
    "TaylorEstimates",
    "Trace",
    "conjugate_gradient",
    "hessian_vector_product",
    "taylor_estimates",
]
