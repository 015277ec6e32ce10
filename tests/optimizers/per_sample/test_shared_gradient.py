"""Gradients of convolutions' weights that a step takes from the rows, against autograd's in float64."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from helpers.layer_cases import CASES, Twice, case
from helpers.layer_cases import SAMPLES as B
from helpers.references import close, expected_gram, numbers
from trainopt.models import ResNet
from trainopt.optimizers.per_sample.layers import BLOCK
from trainopt.optimizers.per_sample.recorder import GramRecorder
from trainopt.optimizers.vectors import flatten

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch says that it copies


class Only:
    """The benchmark of one form, where a layer has it; holds the names of all forms that layers had."""

    def __init__(self, name):
        self.name, self.seen = name, set()

    def add(self, total, layer, forms):
        self.seen |= set(forms)
        return forms[self.name if self.name in forms else next(iter(forms))](total)


def gradient(network, loss):
    """The gradient of a loss at the network's trained parameters, as one vector; clears theirs."""
    loss.backward()
    values = flatten([p.grad for p in network.parameters() if p.requires_grad])
    network.zero_grad()
    return values


def check(network, x, y, block=BLOCK, benchmark=None, rtol=1e-9):
    """Compares gradients and G of a recorded pass with those of plain ones, in float64."""
    recorder = GramRecorder(network, block, benchmark, share_gradients=True)
    with recorder.recording():
        actual = gradient(network, cross_entropy(network(x), y))
    close(actual, gradient(network, cross_entropy(network(x), y)), rtol)
    close(recorder.gram(), expected_gram(network, cross_entropy, x, y), rtol)


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("form", ["groups", "unfold", "shifted"])
@pytest.mark.parametrize("name", [name for name, make in CASES.items() if "conv" in str(make()[0]).lower()])
def test_gradients_are_sums_of_rows_of_any_form(name, form):
    network, x, y = case(name)
    only = Only(form)
    check(network, x, y, benchmark=only)
    if name != "timm's padding":
        assert form in only.seen


@pytest.mark.parametrize("name", ["16 channels", "grouped", "depthwise", "conv3d", "ResNet-8"])
def test_gradients_from_blocks_of_rows(name):
    for form in ("groups", "unfold", "shifted"):
        check(*case(name), block=300, benchmark=Only(form))


def test_convolutions_with_few_positions_compare_pairs_and_compute_the_gradient_apart():
    network, x, y = case("wide with few positions")
    only = Only("pairs")
    check(network, x, y, benchmark=only)
    assert "pairs" in only.seen


def test_weights_that_are_used_twice():
    torch.manual_seed(0)
    check(Twice().double(), numbers(B, 3, 7, 7), torch.arange(B) % 4)


@pytest.mark.parametrize("frozen", ["bias", "weight", "0."])
def test_frozen_parameters(frozen):
    network, x, y = case("batch norm")
    for name, p in network.named_parameters():
        p.requires_grad_(frozen not in name)
    check(network, x, y)


def test_an_activation_that_overwrites_the_outputs():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU(True), nn.Flatten())
    check(network.double(), numbers(B, 3, 6, 6), torch.arange(B) % 4)


def test_each_pass_has_its_gradients_and_the_first_backward_pass_counts():
    network, x, y = case("batch norm")
    recorder, params = GramRecorder(network, share_gradients=True), list(network.parameters())
    recorder.begin()
    loss = cross_entropy(network(x), y)
    first = torch.autograd.grad(loss, params, retain_graph=True)
    second = torch.autograd.grad(3 * loss, params)  # through the same pass again
    late = cross_entropy(network(x[:3]), y[:3])
    recorder.end()
    close(recorder.gram(), expected_gram(network, cross_entropy, x, y))
    unrecorded = gradient(network, late)  # its backward pass comes after the end
    close(recorder.gram(), expected_gram(network, cross_entropy, x, y))
    expected = gradient(network, cross_entropy(network(x), y))
    close(flatten(first), expected)
    close(flatten(second), 3 * expected)
    close(unrecorded, gradient(network, cross_entropy(network(x[:3]), y[:3])))


@pytest.mark.parametrize("few", [False, True], ids=["rows", "pairs"])
def test_under_autocast_gradients_have_the_precision_of_the_weights(few):
    torch.manual_seed(0)
    size = 4 if few else 16
    network, x, y = ResNet(3, 4, 8), torch.randn(B, 3, size, size), torch.arange(B) % 4
    recorder = GramRecorder(network, share_gradients=True)
    with torch.autocast("cpu", torch.bfloat16):
        with recorder.recording():
            actual = gradient(network, cross_entropy(network(x), y))
        expected = gradient(network, cross_entropy(network(x), y))
    assert recorder.gram().dtype == actual.dtype == torch.float32
    assert (actual - expected).norm() <= 0.01 * expected.norm()  # eight bits


def test_a_gradient_that_is_to_be_differentiated_is_refused():
    network, x, y = case("16 channels")
    with GramRecorder(network, share_gradients=True).recording():
        value = torch.autograd.grad(cross_entropy(network(x), y), next(network.parameters()), create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        value.square().sum().backward()


def test_no_memory_remains(no_collector):
    network, x, y = case("ResNet-8")
    seen = []
    network.layer1.register_forward_hook(lambda module, args, output: seen.append(weakref.ref(output)))
    recorder = GramRecorder(network, share_gradients=True)
    with recorder.recording():
        cross_entropy(network(x), y).backward()
    gc.collect()
    assert seen[0]() is None


def test_activations_are_freed_as_the_backward_pass_goes(no_collector):
    network, x, y = case("ResNet-8")
    seen = []
    network.layer3.register_forward_pre_hook(lambda module, args: seen.append(weakref.ref(args[0])))
    with GramRecorder(network, share_gradients=True).recording():
        loss = cross_entropy(network(x), y)
        loss.backward()
    assert seen[0]() is None  # though the loss, and with it the graph, is there
    assert loss.grad_fn is not None
