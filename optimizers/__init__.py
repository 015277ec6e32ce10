"""How weights move: update rules, curvature, learning-rate schedules, regularizers. Needs torch alone."""

from .l2 import L2
from .schedules import Constant, Exponential, Multistep

__all__ = ["L2", "Constant", "Exponential", "Multistep"]
