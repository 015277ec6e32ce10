"""How weights move: update rules, curvature, learning-rate schedules, regularizers. Needs torch alone."""

from .adaptive_nesterov import AdaptiveNesterov
from .curvature.conjugate_gradient import CGInfo, conjugate_gradient
from .curvature.curvature import Curvature, hessian_vector_product
from .curvature.double_backward_mode import Trace
from .curvature.taylor import TaylorEstimates, taylor_estimates
from .ehnewton.ehnewton import EHNewton
from .newton import Newton
from .protocols import Optimizer, Regularizer, Schedule
from .regularizers.checkpoint_distance import CheckpointDistance
from .regularizers.l2 import L2
from .schedules.base import ProgressSchedule
from .schedules.cosine import CosineRestarts
from .schedules.cyclic import Cyclic
from .schedules.range_test import RangeTest
from .schedules.steps import Constant, Exponential, Multistep
from .schedules.warmup import WarmUp

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
    "Optimizer",
    "ProgressSchedule",
    "RangeTest",
    "Regularizer",
    "Schedule",
    "TaylorEstimates",
    "Trace",
    "WarmUp",
    "conjugate_gradient",
    "hessian_vector_product",
    "taylor_estimates",
]
