"""What is trained: networks of timm by name, the small-image networks that timm lacks, and weights from files."""

from .densenet import DenseNet
from .function import Function
from .input_size import smallest_input
from .last_layer import LastLayer
from .mlp import MLP
from .plain_convnet import PlainConvNet
from .resnet import ResNet
from .small_images import small_image_network
from .test_functions import FUNCTIONS, Problem
from .timm_network import timm_network
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
    "load_weights",
    "safe_load",
    "small_image_network",
    "smallest_input",
    "timm_network",
]
