"""Which losses, gradients, types and layers our optimizers take, and what they say of others."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.references import TARGETS, Problem, classifier, error, numbers, of_cycles, step
from trainopt.optimizers import AdaptiveNesterov, EHNewton, Newton, hessian_vector_product

OURS = (EHNewton, Newton, AdaptiveNesterov)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize(
    "layers", [classifier, lambda: Problem(nn.Linear(5, 3).double(), numbers(8, 5), classifier().loss)]
)
def test_a_loss_of_one_element_is_a_scalar(kind, layers):
    torch.manual_seed(3)
    one = layers()
    torch.manual_seed(3)
    scalar = layers()
    first, second = kind(one.params), kind(scalar.params)
    for _ in range(2):
        loss = step(first, lambda: one.closure().reshape(1))
        assert loss.detach().item() == step(second, scalar.closure).item()
    assert torch.equal(one.weights(), scalar.weights())


@pytest.mark.parametrize("kind", [EHNewton, Newton])
def test_a_loss_of_several_elements_is_refused(kind):
    problem = classifier()
    with pytest.raises(
        ValueError, match=r"^the loss must be a scalar, and has the shape \(8, 3\); give its mean or sum$"
    ):
        kind(problem.params).step(lambda: problem.network(problem.inputs))


@pytest.mark.parametrize("kind", OURS)
def test_sparse_gradients_are_refused(kind):
    layer = nn.Embedding(7, 3, sparse=True)
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match="^gradients must not be sparse; give sparse=False"):
        step(kind(layer.parameters()), lambda: F.cross_entropy(layer(TARGETS), TARGETS))
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("kind", [EHNewton, Newton])
def test_complex_parameters_are_refused(kind):
    with pytest.raises(ValueError, match="takes no complex parameters"):
        kind([nn.Parameter(torch.ones(2, dtype=torch.complex64))])


def test_adaptive_nesterov_takes_a_complex_parameter_for_its_two_parts():
    def loss(z):
        return (z.abs() ** 2 * torch.tensor([1.0, 3.0])).sum() + z.real.sum()

    z = nn.Parameter(torch.tensor([1 + 2j, -0.5j], dtype=torch.complex128))
    parts = nn.Parameter(torch.view_as_real(z.detach().clone()))
    first, second = AdaptiveNesterov([z]), AdaptiveNesterov([parts])
    for _ in range(5):
        step(first, lambda: loss(z))
        step(second, lambda: loss(torch.view_as_complex(parts)))
    torch.testing.assert_close(torch.view_as_real(z.detach()), parts.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options",
    [{"cg_max_iter": 20}, {"cg_max_iter": 1}, {"cg_max_iter": 20, "blocks": "parameter"}],
)
def test_weights_in_half_precision_go_where_those_in_full_precision_go(dtype, options):
    half, full = classifier(dtype=dtype), classifier()
    optimizers = [EHNewton(p.params, lr=0.5, damping=0.05, curvature="gauss_newton", **options) for p in (half, full)]
    with torch.no_grad():
        for p, q in zip(half.params, full.params, strict=True):
            q.copy_(p)
    losses = [[float(step(o, p.closure)) for _ in range(12)] for o, p in zip(optimizers, (half, full), strict=True)]
    assert losses[0][-1] < 0.7 * losses[0][0]
    # from equal weights, a step differs by what the type rounds
    assert losses[0][1] == pytest.approx(losses[1][1], abs=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("kind", [Newton, AdaptiveNesterov])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_others_train_a_classifier_in_half_precision(kind, dtype):
    torch.manual_seed(0)
    layer, inputs = nn.Linear(5, 3).to(dtype), numbers(8, 5).to(dtype)
    optimizer = kind(layer.parameters())
    losses = [float(step(optimizer, lambda: F.cross_entropy(layer(inputs), TARGETS)).detach()) for _ in range(6)]
    assert losses[-1] < 0.75 * losses[0]


def test_weights_of_several_types_are_refused():
    problem = classifier()
    problem.network[2].float()
    optimizer = EHNewton(problem.params)
    with pytest.raises(ValueError, match="^parameters must be of one dtype and device"):
        optimizer.step(lambda: sum(p.double().square().sum() for p in problem.params))


@pytest.mark.parametrize(
    "options", [{"preconditioner": "diagonal"}, {"subspace": "last_step", "curvature": "gauss_newton"}]
)
def test_statistics_and_subspaces_are_refused_in_half_precision(options):
    problem = classifier(dtype=torch.bfloat16)
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"^{name}={value}: needs weights in float32 or float64"):
        EHNewton(problem.params, **options).step(problem.closure)


class Attention(nn.Module):
    """Scaled dot-product attention over the batch, as one sequence."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.inner(x)[None, None].chunk(3, -1)
        return self.outer(F.scaled_dot_product_attention(q, k, v)[0, 0])


@of_cycles
@pytest.mark.parametrize("kind", [EHNewton, Newton])
def test_attention_takes_the_kernel_with_a_second_derivative_or_the_line_says_how(kind):
    torch.manual_seed(0)
    network, inputs = Attention(), numbers(8, 5).float()
    optimizer = kind(network.parameters())

    def loss():
        return F.cross_entropy(network(inputs), TARGETS)

    optimizer.step(loss)
    loss().backward(create_graph=True)
    with pytest.raises(
        ValueError, match=r"^the attention kernel has no second derivative: .*sdpa_kernel\(SDPBackend.MATH\)"
    ):
        optimizer.step()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        optimizer.zero_grad()
        loss().backward(create_graph=True)
    optimizer.step()
    with pytest.raises(ValueError, match="^the attention kernel has no second derivative"):
        hessian_vector_product(loss(), network.parameters(), [torch.ones_like(p) for p in network.parameters()])


@pytest.mark.slow  # a compiler
@of_cycles
@pytest.mark.parametrize("kind", [EHNewton, Newton])
def test_a_compiled_model_runs_as_written_in_a_closure_and_elsewhere_the_line_says_what_to_do(kind):
    problem, other = classifier(dtype=torch.float32), classifier(dtype=torch.float32)
    compiled = torch.compile(problem.network)
    optimizer, uncompiled = kind(compiled.parameters()), kind(other.params)
    optimizer.step(lambda: F.cross_entropy(compiled(problem.inputs), TARGETS))
    uncompiled.step(other.closure)
    assert error(problem.weights(), other.weights()) < 1e-5
    F.cross_entropy(compiled(problem.inputs), TARGETS).backward(create_graph=True)
    with pytest.raises(
        ValueError, match=r"^a compiled function \(torch.compile\) has no second derivative: .*_orig_mod"
    ):
        optimizer.step()


@pytest.mark.parametrize("kind", [EHNewton, Newton])
def test_a_step_without_closure_and_graph_is_an_error_and_one_of_no_loss_and_no_gradient_moves_nothing(kind):
    problem = classifier()
    optimizer, before = kind(problem.params), problem.weights()
    assert optimizer.step(lambda: None) is None
    with pytest.raises(ValueError, match="^give a closure that returns the loss, or call loss.backward"):
        optimizer.step()
    problem.closure().backward()
    for closure in (None, lambda: None):
        with pytest.raises(ValueError, match="^give a closure|^the closure must return the loss with its graph"):
            optimizer.step(closure)
    assert torch.equal(problem.weights(), before)
