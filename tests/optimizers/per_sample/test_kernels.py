"""The kernels for CPUs with matrix units, against sums in float64."""

import pytest
import torch
from torch.nn.functional import conv2d, unfold

from helpers.references import numbers
from trainopt.optimizers.per_sample import kernels as module
from trainopt.optimizers.per_sample.kernels import UNITS, cpu_flags, kernel_problem, kernels, load_kernels

# samples, channels, outputs, image, kernel, stride, padding, dilation
SHAPES = {
    "3x3": (5, 16, 16, (9, 12), (3, 3), (1, 1), (1, 1), (1, 1)),
    "lines of eight": (5, 20, 18, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1)),
    "an odd number of lines of eight": (4, 16, 16, (7, 8), (3, 3), (1, 1), (1, 1), (1, 1)),
    "few channels": (6, 3, 5, (12, 10), (5, 5), (1, 1), (2, 2), (1, 1)),
    "many channels, more columns than are kept": (200, 40, 36, (4, 5), (3, 3), (1, 1), (1, 1), (1, 1)),
    "1x1": (17, 20, 40, (7, 7), (1, 1), (1, 1), (0, 0), (1, 1)),
    "strided": (33, 18, 20, (9, 16), (3, 3), (2, 2), (1, 1), (1, 1)),
    "strided over lines that the kernel leaves out": (4, 6, 7, (10, 11), (1, 2), (3, 3), (0, 1), (1, 1)),
    "7x7 strided": (3, 3, 16, (23, 21), (7, 7), (2, 2), (3, 3), (1, 1)),
    "dilated": (5, 17, 16, (11, 12), (3, 3), (1, 1), (2, 2), (2, 2)),
    "all at once": (5, 17, 3, (13, 11), (3, 2), (2, 3), (1, 0), (2, 1)),
    "a margin wider than the image": (4, 4, 4, (2, 3), (5, 5), (1, 1), (4, 4), (1, 1)),
    "along a line": (7, 12, 9, (1, 40), (1, 3), (1, 1), (0, 1), (1, 1)),
    "one of each": (1, 1, 1, (1, 1), (1, 1), (1, 1), (0, 0), (1, 1)),
}


@pytest.fixture
def own():
    if kernels() is None:
        pytest.skip("the CPU has no matrix units, or there is no compiler")
    return kernels()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def convolution(name):
    """Inputs, gradients of outputs, the options, and the rows in float64, by patches of the image."""
    samples, channels, outputs, image, kernel, *options = SHAPES[name]
    x = numbers(samples, channels, *image).float()
    places = conv2d(x[:1], torch.zeros(outputs, channels, *kernel), None, *options).shape[2:]
    dy = numbers(samples, outputs, *places, seed=1).float() * 1e-3
    return x, dy, (kernel, *options), rows_by_patches(x, dy, kernel, *options)


def rows_by_patches(x, dy, kernel, stride, padding, dilation):
    patches = unfold(x.double(), kernel, dilation, padding, stride)
    return torch.einsum("bot,bkt->bok", dy.double().flatten(2), patches).flatten(1)


def gram_by(own, x, dy, options):
    total = torch.zeros(len(x), len(x))
    own.add_convolution(total, x, dy, *options)
    return (total.triu() + total.triu(1).T).double()


def error(gram, rows):
    """The largest error of an entry, in the product of the norms of its two rows."""
    norms = rows.norm(dim=1)
    return float(((gram - rows @ rows.T) / (norms[:, None] * norms)).abs().max())


@pytest.mark.parametrize("name", SHAPES)
def test_rows_of_a_convolution_are_multiplied_with_each_other(name, own):
    x, dy, options, rows = convolution(name)
    assert error(gram_by(own, x, dy, options), rows) < 6 * 2**-17  # the bound of a single product, twice


@pytest.mark.parametrize("name", ["3x3", "many channels, more columns than are kept", "one of each"])
def test_two_threads_share_the_work(name, own, two_threads):
    x, dy, options, rows = convolution(name)
    assert error(gram_by(own, x, dy, options), rows) < 6 * 2**-17


def test_what_stood_in_the_sum_stays(own):
    x, dy, options, rows = convolution("3x3")
    total = torch.full((len(x), len(x)), 2.0)
    own.add_convolution(total, x, dy, *options)
    assert torch.equal(total.tril(-1), torch.full_like(total, 2.0).tril(-1))
    expected = (rows @ rows.T + 2).triu().float()
    torch.testing.assert_close(total.triu(), expected, rtol=1e-4, atol=1e-6)


def test_small_singular_values_are_as_exact_as_single_precision_can_be(own):
    x, dy, options, _ = convolution("3x3")
    x[1], dy[1] = x[0], dy[0]  # a sample twice
    x[3], dy[3] = x[2], dy[2] * (1 + 0.01 * numbers(*dy.shape[1:], seed=3).float())  # and one almost
    expected = torch.linalg.svdvals(rows_by_patches(x, dy, *options))
    found = torch.linalg.eigvalsh(gram_by(own, x, dy, options)).clamp(min=0).sqrt().flip(0)
    assert found[-1] < 1e-4 * found[0]
    assert expected[-2] < 0.01 * expected[0]
    torch.testing.assert_close(found[:-1], expected[:-1], rtol=2e-3, atol=0)


def test_gradients_that_are_not_finite_show(own):
    x, dy, options, _ = convolution("strided")
    dy[2, 1, 0, 0] = torch.inf
    gram = gram_by(own, x, dy, options)
    assert not gram[2].isfinite().any()
    others = [i for i in range(len(x)) if i != 2]
    assert gram[others][:, others].isfinite().all()


@pytest.mark.parametrize("shape", [(5, 3, 7, 9), (2, 20, 8, 8), (4, 6)])
def test_sums_of_batch_norm(shape, own, two_threads):
    x, dy = (numbers(*shape, seed=seed).float() + 3 for seed in (0, 1))
    mean, scale = x.transpose(0, 1).flatten(1).mean(1), numbers(shape[1], seed=2).float()
    as_channel = (1, -1, *[1] * (len(shape) - 2))
    xhat = (x.double() - mean.double().view(as_channel)) * scale.double().view(as_channel)
    expected = torch.cat([t.reshape(*shape[:2], -1).sum(2) for t in (dy.double() * xhat, dy.double())], 1)
    torch.testing.assert_close(own.norm_sums(x, dy, mean, scale).double(), expected, rtol=1e-4, atol=1e-4)


def test_only_what_they_can_do_is_given_to_them(own):
    x = torch.zeros(2, 3)
    assert own.supports(x, x)
    assert not own.supports(x.double(), x.double())
    assert not own.supports(x.bfloat16(), x)
    assert not own.supports(x.new_zeros(2000, 3), x.new_zeros(2000, 3))
    assert not own.supports(x[:0], x[:0])


@pytest.fixture
def looked_for_anew():
    for cached in (load_kernels, kernels):
        cached.cache_clear()
    yield
    for cached in (load_kernels, kernels):
        cached.cache_clear()


@pytest.mark.skipif(not set(UNITS) <= cpu_flags(), reason="the CPU has no matrix units")
@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_torch_computes_and_the_run_says_so(
    compiler, tmp_path, monkeypatch, trainopt, looked_for_anew
):
    monkeypatch.setenv("TRAINOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", compiler)
    done = trainopt("model=resnet8", "data.limit=60", "batching.size=12", "duration=1steps", "probe=[fisher]")
    assert done.code == 0
    assert f"no kernels for per-sample gradients ({compiler}" in " ".join(done.out.split())
    assert kernels() is None
    assert not list((tmp_path / "cache/kernels").iterdir())


def test_kernels_can_be_switched_off(monkeypatch, looked_for_anew):
    monkeypatch.setenv("TRAINOPT_KERNELS", "0")
    assert kernels() is None
    assert kernel_problem() is None


def test_a_cpu_without_the_units_compiles_nothing(monkeypatch, looked_for_anew):
    monkeypatch.setattr(module, "cpu_flags", lambda: {"avx2"})
    monkeypatch.setattr(module, "compile_into", pytest.fail)
    assert kernels() is None
    assert kernel_problem() is None
