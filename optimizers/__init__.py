"""How weights move: update rules, curvature, learning-rate schedules, regularizers. Needs torch alone."""

from .adaptive_nesterov import AdaptiveNesterov
from .checkpoint_distance import CheckpointDistance
from .conjugate_gradient import CGInfo, conjugate_gradient
from .cosine import CosineRestarts
from .curvature import Curvature, hessian_vector_product
from .cyclic import Cyclic
from .ehnewton import EHNewton
from .l2 import L2
from .newton import Newton
from .range_test import RangeTest
from .schedule import Schedule
from .schedules import Constant, Exponential, Multistep
from .taylor import TaylorEstimates, taylor_estimates
from .trace import Trace
from .warmup import WarmUp

__all__ = [
    "L2",
    "AdaptiveNesterov",
    "CGInfo",
    "CheckpointDistance",
    "Constant",
    "CosineRestarts",
    "Curvature",
    "Cyclic",
    "EHNewton",
    "Exponential",
    "Multistep",
    "Newton",
    "RangeTest",
    "Schedule",
    "TaylorEstimates",
    "Trace",
    "WarmUp",
    "conjugate_gradient",
    "hessian_vector_product",
    "taylor_estimates",
]
