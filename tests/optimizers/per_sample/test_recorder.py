"""A recorder of Gram matrices in other people's passes: which pass counts, what it leaves as it was, and refuses."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear

from helpers.layer_cases import SAMPLES as B
from helpers.layer_cases import Twice, case
from helpers.references import close, expected_gram, numbers, rows_of
from trainopt.models import ResNet
from trainopt.optimizers import gradient_gram
from trainopt.optimizers.per_sample.gram import own_loss_gram
from trainopt.optimizers.per_sample.recorder import GramRecorder


def test_rows_of_shared_weights_add_up_before_they_are_multiplied():
    torch.manual_seed(0)
    network, x, y = Twice().double(), numbers(B, 3, 7, 7), torch.arange(B) % 4
    close(gradient_gram(network, cross_entropy, x, y), expected_gram(network, cross_entropy, x, y))


@pytest.mark.parametrize("frozen", ["bias", "weight", "0."])
def test_only_what_is_trained_counts(frozen):
    network, x, y = case("batch norm")
    for name, p in network.named_parameters():
        p.requires_grad_(frozen not in name)
    close(gradient_gram(network, cross_entropy, x, y), expected_gram(network, cross_entropy, x, y))


def test_the_sum_of_all_entries_is_the_squared_norm_of_the_gradient():
    network, x, y = case("ResNet-8")
    gradient = rows_of(network, [cross_entropy(network(x), y)])
    actual = gradient_gram(network, cross_entropy, x, y)
    close(actual.sum() / B**2, gradient.square().sum())


def test_a_regularizer_does_not_enter():
    network, x, y = case("batch norm")
    recorder = GramRecorder(network)
    with recorder.recording():
        penalty = sum(p.square().sum() for p in network.parameters())
        (cross_entropy(network(x), y) + penalty).backward()
    close(recorder.gram(), expected_gram(network, cross_entropy, x, y))


def test_the_last_forward_pass_with_a_backward_pass_counts():
    network, x, y = case("batch norm")
    recorder = GramRecorder(network)
    recorder.begin()
    cross_entropy(network(x.flip(2)), y).backward()
    loss = cross_entropy(network(x), y)
    params = list(network.parameters())
    torch.autograd.grad(loss, params, retain_graph=True)
    torch.autograd.grad(3 * loss, params)  # through the same pass again
    with torch.no_grad():
        network(x[:2])
    network(x[:3])  # without a backward pass
    recorder.end()
    cross_entropy(network(x[:3]), y[:3]).backward()  # not recorded any more
    close(recorder.gram(), expected_gram(network, cross_entropy, x, y))
    close(recorder.gram(), expected_gram(network, cross_entropy, x, y))  # asked again


def test_under_autocast_the_matrix_is_of_single_precision():
    torch.manual_seed(0)
    network, x, y = ResNet(3, 4, 8), torch.randn(B, 3, 16, 16), torch.arange(B) % 4
    expected = gradient_gram(network, cross_entropy, x, y)
    recorder = GramRecorder(network)
    with recorder.recording(), torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(network(x), y)
        loss.backward()
    assert recorder.gram().dtype == torch.float32
    close(recorder.gram(), expected, 0.1)  # eight bits


def trained(record):
    """Weights, gradients, buffers, momenta and generator after three steps."""
    torch.manual_seed(0)
    network = nn.Sequential(ResNet(3, 12, 8), nn.Dropout(0.3), nn.Linear(12, 4))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    recorder = GramRecorder(network)
    for _ in range(3):
        x, y = torch.randn(8, 3, 16, 16), torch.randint(4, (8,))
        optimizer.zero_grad()
        if record:
            recorder.begin()
        cross_entropy(network(x), y).backward()
        optimizer.step()
        if record:
            recorder.end()
            assert torch.isfinite(recorder.gram()).all()
    grads = [p.grad for p in network.parameters()]
    momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
    return [*network.state_dict().values(), *grads, *momenta, torch.get_rng_state()]


def test_training_is_bit_for_bit_the_same_with_and_without():
    assert all(torch.equal(a, b) for a, b in zip(trained(True), trained(False), strict=True))


def test_a_model_is_left_as_it_was():
    torch.manual_seed(0)
    network = nn.Sequential(ResNet(3, 12, 8), nn.Dropout(0.3), nn.Linear(12, 4))
    x, y = torch.randn(8, 3, 16, 16), torch.randint(4, (8,))
    cross_entropy(network(x), y).backward()
    before = copy.deepcopy([network.state_dict(), [p.grad for p in network.parameters()], torch.get_rng_state()])
    gradient_gram(network, cross_entropy, x, y)
    own_loss_gram(network, lambda: cross_entropy(network(x), y, reduction="none"))
    after = [network.state_dict(), [p.grad for p in network.parameters()], torch.get_rng_state()]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert network.training


def test_no_hook_and_no_memory_remains(no_collector):
    network, x, y = case("ResNet-8")
    seen = []
    handle = network.layer1.register_forward_hook(lambda module, args, output: seen.append(weakref.ref(output)))
    recorder = GramRecorder(network)
    with recorder.recording():
        cross_entropy(network(x), y).backward()
    with pytest.raises(RuntimeError, match="channels"), recorder.recording():
        network(x[:, :1])
    handle.remove()
    gc.collect()
    assert seen[0]() is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert torch.overrides._get_current_function_mode() is None


class Own(nn.Linear):
    """Has one parameter more than a linear layer."""

    def __init__(self):
        super().__init__(3, 3)
        self.scale = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), "MultiheadAttention"),
        (nn.Embedding(3, 4, scale_grad_by_freq=True), "Embedding"),
        (nn.ConvTranspose2d(3, 3, 3), "ConvTranspose2d"),
        (nn.PReLU(), "PReLU"),
        (Own(), r"Own\).*scale"),
    ],
)
def test_a_layer_that_cannot_be_done_is_named_before_the_run(layer, name):
    with pytest.raises(ValueError, match=f"^1 .{name}") as error:
        GramRecorder(nn.Sequential(nn.Linear(3, 3), layer))
    assert "\n" not in str(error.value)
    for p in layer.parameters():
        p.requires_grad_(False)
    GramRecorder(nn.Sequential(nn.Linear(3, 3), layer))


class Standardized(nn.Linear):
    """Its weights are computed of its parameter."""

    def forward(self, x):
        return linear(x, self.weight / self.weight.norm(), self.bias)


def test_a_parameter_that_no_layer_was_called_with_is_named():
    network = nn.Sequential(nn.Linear(3, 3), Standardized(3, 3))
    with pytest.raises(ValueError, match=r"^1\.weight"):
        gradient_gram(network, cross_entropy, torch.ones(2, 3), torch.zeros(2).long())
    network = nn.Sequential(nn.Linear(3, 3), nn.Flatten(0, 1), nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"^2\.weight.* batch of 2"):  # samples cannot be told apart
        gradient_gram(network, cross_entropy, torch.ones(2, 5, 3), torch.zeros(10).long())


def test_without_a_pass_there_is_no_matrix():
    with pytest.raises(ValueError, match="no forward and backward pass"):
        GramRecorder(nn.Linear(2, 2)).gram()
