"""Gram matrices of per-sample gradients against autograd, with a copy of every parameter for every sample."""

import copy
import gc
import weakref

import pytest
import torch
from timm.layers import BatchNormAct2d, Conv2dSame, GroupNormAct, LayerNorm2d
from timm.layers.attention import Attention
from torch import nn
from torch.nn.functional import cross_entropy, linear

from helpers.references import Flatten, Residual, close, expected_gram, numbers, rows_of, rows_of_samples
from trainopt.models import ResNet, Transformer
from trainopt.optimizers import gradient_gram
from trainopt.optimizers.per_sample.accumulator import NARROW, GramAccumulator
from trainopt.optimizers.per_sample.gram import own_loss_gram
from trainopt.optimizers.per_sample.recorder import GramRecorder
from trainopt.optimizers.per_sample.spectrum import spectrum

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch says that it copies

B = 5


def conv_net(*layers, shape=(3, 9, 9)):
    """Layers between convolutions, with outputs (B, 4); and their inputs."""
    dimensions = len(shape) - 1
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    return Flatten(kind(shape[0], 6, 3), nn.Tanh(), *layers, nn.Tanh(), kind(6, 4, 2)), shape


def token_net(*layers):
    """Layers at three places with six numbers each, between linear layers; and their inputs."""
    return nn.Sequential(nn.Linear(7, 6), nn.Tanh(), *layers, nn.Flatten(), nn.Linear(18, 4)), (3, 7)


class Tokens(nn.Module):
    """Numbers as tokens below a bound."""

    def __init__(self, bound):
        super().__init__()
        self.bound = bound

    def forward(self, x):
        return (100 * x.abs()).long() % self.bound


def embedded(count, **options):
    """A table of so many tokens, at three places, below a linear layer; and its inputs."""
    table = nn.Embedding(count, 6, **options)
    return nn.Sequential(Tokens(count), table, nn.Tanh(), nn.Flatten(), nn.Linear(18, 4)), (3,)


CASES = {
    "linear": lambda: (nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 4, bias=False)), (7,)),
    "linear at positions": lambda: token_net(nn.Linear(6, 6), nn.Tanh()),
    "wide linear at few positions": lambda: token_net(nn.Linear(6, 50), nn.Tanh(), nn.Linear(50, 40), nn.Linear(40, 6)),
    "embedding": lambda: embedded(2),
    "embedding of many tokens": lambda: embedded(40),
    "embedding with padding": lambda: embedded(3, padding_idx=-1),
    "transformer": lambda: (nn.Sequential(Tokens(5), Transformer((3,), 4, 5, 2, 6, 2, norm="pre", causal=True)), (3,)),
    "layer norm": lambda: token_net(nn.LayerNorm(6)),
    "attention": lambda: token_net(Residual(nn.LayerNorm(6), Attention(6, num_heads=2, qkv_bias=True))),
    "conv1d": lambda: conv_net(nn.Conv1d(6, 6, 3, padding=1), shape=(3, 12)),
    "conv3d": lambda: conv_net(nn.Conv3d(6, 6, 2, stride=(1, 2, 1)), shape=(3, 6, 7, 6)),
    "strided": lambda: conv_net(nn.Conv2d(6, 6, 3, stride=2, padding=1)),
    "dilated": lambda: conv_net(nn.Conv2d(6, 6, (3, 2), dilation=(1, 2), padding=(0, 2))),
    "grouped": lambda: conv_net(nn.Conv2d(6, 6, 3, groups=3)),
    "depthwise": lambda: conv_net(nn.Conv2d(6, 6, 3, groups=6, padding=1)),
    "depthwise with a multiplier": lambda: conv_net(nn.Conv2d(6, 12, 3, groups=6), nn.Conv2d(12, 6, 1)),
    "1x1": lambda: conv_net(nn.Conv2d(6, 6, 1, bias=False)),
    "16 channels": lambda: conv_net(nn.Conv2d(6, 16, 3), nn.Conv2d(16, 16, 3, 2, 1), nn.Conv2d(16, 6, 1)),
    "wide with few positions": lambda: conv_net(nn.Conv2d(6, 40, 5), nn.Conv2d(40, 40, 3, 1, 1), nn.Conv2d(40, 6, 2)),
    "same": lambda: conv_net(nn.Conv2d(6, 6, (2, 3), padding="same")),
    "same, dilated": lambda: conv_net(nn.Conv2d(6, 6, 4, padding="same", dilation=(1, 3))),
    "taps outside of the image": lambda: conv_net(nn.Conv2d(6, 6, 3, padding=(8, 5), dilation=(8, 4))),
    "valid": lambda: conv_net(nn.Conv2d(6, 6, 3, padding="valid")),
    "reflected": lambda: conv_net(nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect")),
    "circular": lambda: conv_net(nn.Conv2d(6, 6, 3, padding=(1, 2), padding_mode="circular")),
    "batch norm": lambda: conv_net(nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6)),
    "batch norm 1d": lambda: (nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)), (7,)),
    "batch norm 3d": lambda: conv_net(nn.BatchNorm3d(6), shape=(3, 5, 5, 4)),
    "batch norm, no running statistics": lambda: conv_net(nn.BatchNorm2d(6, track_running_stats=False)),
    "group norm": lambda: conv_net(nn.GroupNorm(3, 6)),
    "layer norm over places": lambda: conv_net(nn.LayerNorm((6, 7, 7))),
    "instance norm": lambda: conv_net(nn.InstanceNorm2d(6, affine=True)),
    "instance norm, running statistics": lambda: conv_net(nn.InstanceNorm2d(6, 1e-5, 0.1, True, True)),
    "timm's padding": lambda: conv_net(Conv2dSame(6, 6, 3, stride=2)),
    "timm's norm and activation": lambda: conv_net(BatchNormAct2d(6), nn.Conv2d(6, 6, 2), GroupNormAct(6, 3)),
    "timm's LayerNorm2d": lambda: conv_net(LayerNorm2d(6)),
    "ResNet-8": lambda: (ResNet(3, 4, 8), (3, 8, 8)),
}
CONVOLUTIONS = [
    *("conv1d", "conv3d", "strided", "dilated", "grouped", "depthwise", "depthwise with a multiplier", "1x1"),
    *("16 channels", "wide with few positions", "same", "same, dilated", "valid", "taps outside of the image"),
    *("reflected", "ResNet-8"),
]
MIXING = [name for name in CASES if "batch norm" in name or "activation" in name or "ResNet" in name]


def case(name, train=True):
    """A network in float64 with weights that are not special, inputs and targets."""
    torch.manual_seed(0)
    network, shape = CASES[name]()
    network.double().train(train)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn_like(p))
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer))
    return network, numbers(B, *shape), torch.arange(B) % 4


@pytest.mark.parametrize("name", CASES)
def test_rows_are_gradients_with_respect_to_each_samples_copy_of_the_parameters(name):
    network, x, y = case(name)
    close(gradient_gram(network, cross_entropy, x, y), expected_gram(network, cross_entropy, x, y))


@pytest.mark.parametrize("name", CASES)
def test_in_evaluation_mode_rows_are_gradients_of_each_samples_loss(name):
    if "no running statistics" in name:
        pytest.skip("mixes samples in evaluation mode too")
    network, x, y = case(name, train=False)
    J = rows_of_samples(network, cross_entropy, x, y)
    close(gradient_gram(network, cross_entropy, x, y), J @ J.T)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_own_losses_are_those_of_one_graph_of_the_batch(name):
    network, x, y = case(name)
    J = rows_of(network, cross_entropy(network(x), y, reduction="none"))
    actual = own_loss_gram(network, lambda: cross_entropy(network(x), y, reduction="none"))
    close(actual, J @ J.T)
    differ = not torch.allclose(actual, gradient_gram(network, cross_entropy, x, y), rtol=1e-3)
    assert differ == (name in MIXING)


def test_own_losses_of_parameters_that_do_not_fit_in_memory_together():
    network, x, y = case("batch norm")
    J = rows_of(network, cross_entropy(network(x), y, reduction="none"))
    actual = own_loss_gram(network, lambda: cross_entropy(network(x), y, reduction="none"), max_entries=400)
    close(actual, J @ J.T)


BLOCKS = ["16 channels", "grouped", "depthwise", "linear at positions", "embedding", "ResNet-8"]


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_columns_add_up(name):
    network, x, y = case(name)
    recorder = GramRecorder(network, block=300)
    with recorder.recording():
        cross_entropy(network(x), y).backward()
    close(recorder.gram(), expected_gram(network, cross_entropy, x, y))


class Preferred:
    """Chooses a form by its name, where a layer has it; counts how often."""

    def __init__(self, name):
        self.name, self.uses = name, 0

    def add(self, total, layer, forms):
        self.uses += self.name in forms
        forms[self.name if self.name in forms else next(iter(forms))](total)


FORMS = {
    "rows": ["linear at positions", "wide linear at few positions", "embedding of many tokens", "transformer"],
    "pairs": ["linear at positions", "embedding", "conv1d", "wide with few positions", "attention"],
    "groups": CONVOLUTIONS,
    "unfold": CONVOLUTIONS,
    "shifted": CONVOLUTIONS,
}


@pytest.mark.parametrize(("form", "name"), [(form, name) for form, names in FORMS.items() for name in names])
def test_every_form_of_a_layer_computes_the_same(form, name):
    network, x, y = case(name)
    preferred = Preferred(form)
    recorder = GramRecorder(network, benchmark=preferred)
    with recorder.recording():
        cross_entropy(network(x), y).backward()
    close(recorder.gram(), expected_gram(network, cross_entropy, x, y))
    assert preferred.uses


@pytest.mark.parametrize("form", ["groups", "unfold", "shifted"])
def test_small_singular_values_are_as_exact_as_single_precision_can_be(form):
    network, x, y = case("16 channels")
    x[1], y[1] = x[0], y[0]  # a sample twice
    x[3], y[3] = x[2] * (1 + 0.01 * numbers(*x.shape[1:], seed=3)), y[2]  # and one almost
    expected = torch.linalg.eigvalsh(expected_gram(network, cross_entropy, x, y)).clamp(min=0).sqrt().flip(0)
    network.float()
    recorder = GramRecorder(network, benchmark=Preferred(form))
    with recorder.recording():
        cross_entropy(network(x.float()), y).backward()
    actual = spectrum(recorder.gram())
    assert actual.rank == B - 1
    assert expected[-2] < 0.02 * expected[0]
    torch.testing.assert_close(torch.tensor(actual.values[:-1]).double(), expected[:-1], rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_single_precision_computes_the_same_with_other_kernels(name):
    network, x, y = case(name)
    expected = expected_gram(network, cross_entropy, x, y).float()
    close(gradient_gram(network.float(), cross_entropy, x.float(), y), expected, 1e-4)


@pytest.mark.parametrize("name", ["16 channels", "batch norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channels_last_makes_no_difference(name, dtype):
    network, x, y = case(name)
    expected = expected_gram(network, cross_entropy, x, y).to(dtype)
    x = x.to(dtype, memory_format=torch.channels_last)
    network.to(dtype, memory_format=torch.channels_last)
    tolerance = 1e-4 if dtype is torch.float32 else 1e-9
    close(gradient_gram(network, cross_entropy, x, y), expected, tolerance)


@pytest.mark.parametrize("strip", [1, 2, 5, 8])
def test_a_matrix_of_several_strips_is_whole(strip):
    blocks = [numbers(B, columns, seed=columns) for columns in (1, 7, NARROW, 3, NARROW - 2, NARROW + 9)]
    accumulator = GramAccumulator(B, torch.float64, torch.device("cpu"), strip)
    for block in blocks:
        accumulator.add(block)
    rows = torch.cat(blocks, 1)
    close(accumulator.total(), rows @ rows.T)


class Twice(nn.Module):
    """Layers that are used more than once."""

    def __init__(self):
        super().__init__()
        self.first, self.conv, self.norm = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, 16)
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        x = self.norm(self.conv(torch.tanh(self.first(x))))
        x = self.norm(self.conv(torch.tanh(x))).mean((2, 3))
        return self.last(self.linear(torch.tanh(self.linear(x))))


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


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # BackPACK's own
def test_backpack_finds_the_same():
    backpack = pytest.importorskip("backpack")
    extensions = pytest.importorskip("backpack.extensions")
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 2, padding=1, groups=2), nn.Flatten())
    network = nn.Sequential(*layers, nn.Linear(200, 4)).double()
    x, y = numbers(B, 3, 9, 9), torch.arange(B) % 4
    actual = gradient_gram(network, cross_entropy, x, y)
    network, loss = backpack.extend(network), backpack.extend(nn.CrossEntropyLoss())
    with backpack.backpack(extensions.BatchGrad()):
        loss(network(x), y).backward()
    rows = B * torch.cat([p.grad_batch.flatten(1) for p in network.parameters()], 1)
    close(actual, rows @ rows.T)


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
