"""Optimizers, averages of weights, curvature, per-sample gradients, learning-rate schedules and regularizers.

Needs torch alone, and imports no other package of trainopt.
"""

from .adaptive_nesterov import AdaptiveNesterov
from .averaging.ema import EMA
from .averaging.optimizer_average import OptimizerAverage, averages_itself
from .averaging.swa import SWA
from .curvature.conjugate_gradient import CGInfo, conjugate_gradient
from .curvature.curvature import Curvature
from .curvature.double_backward_mode import FastDoubleBackward
from .curvature.hessian_product import hessian_vector_product
from .curvature.taylor import TaylorEstimates, taylor_estimates
from .ehnewton.ehnewton import EHNewton
from .ehnewton.recording import RecordedStep
from .libraries.pytorch_optimizer import pytorch_optimizer
from .libraries.timm_optimizer import timm_optimizer
from .newton import Newton
from .parameter_groups import parameter_groups
from .per_sample.gram import gradient_gram
from .protocols import Averaging, Optimizer, Regularizer, Schedule
from .regularizers.checkpoint_distance import CheckpointDistance
from .regularizers.l2 import L2
from .schedules.base import ProgressSchedule
from .schedules.cosine import CosineRestarts
from .schedules.cyclic import Cyclic
from .schedules.decay import Cosine, Linear, Polynomial, WarmupStableDecay
from .schedules.one_cycle import OneCycle
from .schedules.plateau import Plateau
from .schedules.range_test import RangeTest
from .schedules.steps import Constant, Exponential, Multistep
from .schedules.torch_scheduler import TorchScheduler
from .schedules.warmup import WarmUp
from .shard import Shard

__all__ = [
    "EMA",
    "L2",
    "SWA",
    "AdaptiveNesterov",
    "Averaging",
    "CGInfo",
    "CheckpointDistance",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Curvature",
    "Cyclic",
    "EHNewton",
    "Exponential",
    "FastDoubleBackward",
    "Linear",
    "Multistep",
    "Newton",
    "OneCycle",
    "Optimizer",
    "OptimizerAverage",
    "Plateau",
    "Polynomial",
    "ProgressSchedule",
    "RangeTest",
    "RecordedStep",
    "Regularizer",
    "Schedule",
    "Shard",
    "TaylorEstimates",
    "TorchScheduler",
    "WarmUp",
    "WarmupStableDecay",
    "averages_itself",
    "conjugate_gradient",
    "gradient_gram",
    "hessian_vector_product",
    "parameter_groups",
    "pytorch_optimizer",
    "taylor_estimates",
    "timm_optimizer",
]
