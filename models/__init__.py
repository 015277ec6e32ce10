"""Networks: those of timm by name, small-image networks that timm lacks, test functions, and weights from files.

Imports no other package of trainopt.
"""

from .densenet import DenseNet
from .function import Function
from .input_size import input_failure, smallest_input
from .last_layer import LastLayer
from .mlp import MLP
from .plain_convnet import PlainConvNet
from .resnet import ResNet
from .test_functions import FUNCTIONS, Problem
from .timm_network import small_image_network, timm_network
from .weights import DamagedFile, WeightsError, load_weights, safe_load

__all__ = [
    "FUNCTIONS",
    "MLP",
    "DamagedFile",
    "DenseNet",
    "Function",
    "LastLayer",
    "PlainConvNet",
    "Problem",
    "ResNet",
    "WeightsError",
    "input_failure",
    "load_weights",
    "safe_load",
    "small_image_network",
    "smallest_input",
    "timm_network",
]
