"""What is trained: networks of timm by name, the small-image networks that timm lacks, and weights from files."""

from .function import Function
from .input_size import smallest_input
from .mlp import MLP
from .problems import FUNCTIONS, Problem
from .resnet import ResNet
from .timm_network import timm_network
from .weights import DamagedFile, WeightsError, load_weights, safe_load

__all__ = [
    "FUNCTIONS",
    "MLP",
    "DamagedFile",
    "Function",
    "Problem",
    "ResNet",
    "WeightsError",
    "load_weights",
    "safe_load",
    "smallest_input",
    "timm_network",
]
