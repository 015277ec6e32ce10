"""Networks: those of timm by name, small networks that timm lacks, test functions, and weights from files.

Imports no other package of trainopt.
"""

from .function import Function
from .input_size import input_failure, smallest_input
from .last_layer import LastLayer
from .networks.autoencoder import Autoencoder
from .networks.densenet import DenseNet
from .networks.mlp import MLP
from .networks.plain_convnet import PlainConvNet
from .networks.resnet import ResNet
from .networks.transformer import Transformer
from .outputs import output_failure
from .test_functions import FUNCTIONS, Problem
from .timm_network import small_image_network, timm_network
from .weights import DamagedFile, WeightsError, load_weights, safe_load

__all__ = [
    "FUNCTIONS",
    "MLP",
    "Autoencoder",
    "DamagedFile",
    "DenseNet",
    "Function",
    "LastLayer",
    "PlainConvNet",
    "Problem",
    "ResNet",
    "Transformer",
    "WeightsError",
    "input_failure",
    "load_weights",
    "output_failure",
    "safe_load",
    "small_image_network",
    "smallest_input",
    "timm_network",
]
