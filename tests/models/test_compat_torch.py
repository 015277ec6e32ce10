"""Each private part of torch that the models use, with the installed version."""

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from trainopt.models import compat_torch
from trainopt.models.compat_torch import Geometry

ACTIVATIONS = {
    ("none", ()): nn.Identity(),
    ("relu", ()): F.relu,
    ("hardtanh", (0.0, 6.0)): F.relu6,
    ("swish", ()): F.silu,
}
KNOWN = f"models/compat_torch.py is known to work with torch {compat_torch.KNOWN_TO_WORK}; this is {torch.__version__}"


@pytest.mark.parametrize(("activation", "numbers"), ACTIVATIONS)
@pytest.mark.parametrize("groups", [1, 2])
def test_onednn_computes_a_convolution_and_its_activation(activation, numbers, groups):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    assert compat_torch.has_onednn_convolutions(bf16=False), KNOWN
    torch.manual_seed(0)
    x, weight, bias = 5 * torch.randn(2, 4, 7, 8), torch.randn(6, 4 // groups, 3, 2), torch.randn(6)
    geometry = Geometry([1, 0], [2, 1], [1, 2], groups)
    packed = compat_torch.packed_weight(weight, geometry)
    actual = compat_torch.packed_convolution(x, packed, bias, geometry, activation, list(numbers))
    expected = ACTIVATIONS[activation, numbers](F.conv2d(x, weight, bias, (2, 1), (1, 0), (1, 2), groups))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4, msg=lambda text: f"{KNOWN}\n{text}")


def test_an_assertion_is_recognized():
    def function(x):
        torch._assert(x.shape[0] == 2, "two rows")
        return x + 1

    targets = [node.target for node in fx.symbolic_trace(function).graph.nodes]
    assert [compat_torch.is_assertion(target) for target in targets].count(True) == 1, KNOWN
