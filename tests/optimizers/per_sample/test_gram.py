"""Gram matrices of per-sample gradients against autograd, with a copy of every parameter for every sample."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from helpers.layer_cases import CASES, case
from helpers.layer_cases import SAMPLES as B
from helpers.references import close, expected_gram, numbers, rows_of, rows_of_samples
from trainopt.optimizers import gradient_gram
from trainopt.optimizers.per_sample.accumulator import NARROW, GramAccumulator
from trainopt.optimizers.per_sample.gram import own_loss_gram
from trainopt.optimizers.per_sample.recorder import GramRecorder
from trainopt.optimizers.per_sample.spectrum import spectrum

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch says that it copies

CONVOLUTIONS = [
    *("conv1d", "conv3d", "strided", "dilated", "grouped", "depthwise", "depthwise with a multiplier", "1x1"),
    *("16 channels", "wide with few positions", "same", "same, dilated", "valid", "taps outside of the image"),
    *("reflected", "ResNet-8"),
]

MIXING = [name for name in CASES if "batch norm" in name or "activation" in name or "ResNet" in name]


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


@pytest.mark.quick_every(3)
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


@pytest.mark.quick_every(3)
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


@pytest.mark.quick_every(3)
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
