"""What the optimizers refuse in one line, and what they take: groups, schedulers, states, types, losses, scalers."""

import contextlib
import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.references import Problem, closure_of, error, numbers
from trainopt.optimizers import AdaptiveNesterov, EHNewton, Newton, conjugate_gradient, hessian_vector_product

OURS = (EHNewton, Newton, AdaptiveNesterov)
TARGETS = torch.tensor([0, 2, 1, 1, 0, 2, 2, 1])
# torch warns of the cycle from a parameter to its gradient's graph, which step() ends
of_cycles = pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")


def mlp(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
    return Problem(network, numbers(8, 5).to(dtype), lambda z: F.cross_entropy(z, TARGETS))


def step(optimizer, loss):
    return optimizer.step(closure_of(optimizer, loss))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (EHNewton, {"lr": 0.5, "cg_max_iter": 1}),
        (EHNewton, {"lr": 0.5, "cg_max_iter": 3, "momentum": 0.9}),
        (EHNewton, {"lr": 0.5, "cg_max_iter": 3, "adapt_damping": True, "backtracking": 3}),
        (Newton, {"lr": 0.5, "damping": 1.0}),
        (AdaptiveNesterov, {"gamma": 0.3}),
    ],
)
def test_weight_decay_is_that_of_adamw_beside_the_step(kind, options):
    """The change -lr weight_decay w beside the step without it, from the same weights and state."""
    problem = mlp()
    decayed = [problem.params[0], problem.params[2]]
    groups = [{"params": decayed, "weight_decay": 0.3}, {"params": [problem.params[1], problem.params[3]]}]
    optimizer = kind(groups, **options)
    plain = kind([{"params": g["params"]} for g in groups], **options)
    for _ in range(4):
        before = [p.detach().clone() for p in problem.params]
        plain.load_state_dict(
            copy.deepcopy({**optimizer.state_dict(), "param_groups": plain.state_dict()["param_groups"]})
        )
        if "adapt_damping" in options:
            for ours, other in zip(optimizer.param_groups, plain.param_groups, strict=True):
                other["damping"] = ours["damping"]
        step(plain, problem.closure)
        expected = [p.detach().clone() for p in problem.params]
        with torch.no_grad():
            for p, b in zip(problem.params, before, strict=True):
                p.copy_(b)
        step(optimizer, problem.closure)
        lr = options.get("lr", optimizer.last_step.get("lr"))
        for p, b, e in zip(problem.params, before, expected, strict=True):
            is_decayed = any(p is d for d in decayed)
            torch.testing.assert_close(p.detach(), e - (lr * 0.3 * b if is_decayed else 0), rtol=1e-12, atol=1e-14)


def test_weight_decay_of_a_linear_classifier_is_that_of_the_general_form():
    """The closed form of EHNewton, with momentum and without."""
    for momentum in (0.0, 0.9):
        both = []
        for scale in (1.0, torch.ones(())):  # a product with a tensor is no linear classifier's loss
            torch.manual_seed(0)
            layer = nn.Linear(5, 3).double()
            optimizer = EHNewton(layer.parameters(), lr=0.5, momentum=momentum, weight_decay=0.2, cg_max_iter=3)
            for _ in range(3):
                optimizer.step(lambda s=scale, m=layer: F.cross_entropy(s * m(numbers(8, 5)), TARGETS))
            both.append(torch.cat([p.detach().flatten() for p in layer.parameters()]))
        assert error(*both) < 1e-9


def test_the_weight_decay_of_newton_ends_where_both_pulls_are_equal():
    """The iteration (1 - lr c) theta - lr (theta - a) rests at a / (1 + c)."""
    theta = nn.Parameter(torch.tensor([5.0, 3.0], dtype=torch.float64))
    a = torch.tensor([1.0, -2.0], dtype=torch.float64)
    optimizer = Newton([theta], lr=0.5, weight_decay=0.25)
    for _ in range(60):
        optimizer.step(lambda: (theta - a).square().sum() / 2)
    assert torch.allclose(theta, a / 1.25, rtol=1e-12)


@pytest.mark.parametrize("kind", OURS)
def test_an_unknown_option_of_a_group_is_refused_and_the_groups_stay(kind):
    with pytest.raises(
        ValueError, match=r"^weigth_decay=0.1: unknown option of a parameter group; did you mean weight_de"
    ):
        kind([{"params": mlp().params, "weigth_decay": 0.1}])
    optimizer = kind([nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="^betas=1: unknown option of a parameter group; there are "):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "betas": 1})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("name", ["params", "param_names", "name", "initial_lr", "lr_scale"])
def test_names_and_notes_of_schedulers_in_a_group_are_no_options(kind, name):
    group = {"params": list(mlp().network.named_parameters()), "name": "all", "initial_lr": 0.1, "lr_scale": 0.5}
    assert name in kind([group]).param_groups[0]


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, name) for kind in (EHNewton, Newton) for name in ("lr", "damping", "weight_decay")),
        (AdaptiveNesterov, "weight_decay"),
    ],
)
def test_numbers_that_are_not_finite_are_refused(kind, name, value):
    for arguments in ([mlp().params], [[{"params": mlp().params, name: value}]]):
        options = {name: value} if isinstance(arguments[0][0], torch.Tensor) else {}
        with pytest.raises(ValueError, match=f"^{name}={value}: must be >= 0 and finite$"):
            kind(*arguments, **options)


@pytest.mark.parametrize(("kind", "name"), [(EHNewton, "lr"), (Newton, "lr"), (AdaptiveNesterov, "momentum")])
def test_a_value_that_a_scheduler_sets_is_checked_before_the_step(kind, name):
    problem = mlp()
    optimizer = kind(problem.params)
    step(optimizer, problem.closure)
    before = problem.weights()
    optimizer.param_groups[0][name] = float("nan")
    with pytest.raises(ValueError, match=f"^{name}=nan: must be "):
        step(optimizer, problem.closure)
    assert torch.equal(problem.weights(), before)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("other", [torch.optim.SGD, torch.optim.AdamW, torch.optim.LBFGS, *OURS])
def test_the_state_of_another_optimizer_is_refused(kind, other):
    ours, theirs = kind(mlp().params), other(mlp().params)
    if kind is other:
        return ours.load_state_dict(theirs.state_dict())
    with pytest.raises(ValueError, match=f"^the state is that of another optimizer: {kind.__name__} has no "):
        ours.load_state_dict(theirs.state_dict())
    return None


@pytest.mark.parametrize(("kind", "options"), [(AdaptiveNesterov, {}), (EHNewton, {"momentum": 0.5})])
def test_the_state_of_another_network_is_refused(kind, options):
    first, second = nn.Linear(5, 3), nn.Linear(4, 3)
    optimizer = kind(first.parameters(), **options)
    step(optimizer, lambda: first(torch.ones(2, 5)).square().sum())
    line = r"^the state is that of another network: \w+ has the shape \(3, 5\), and the parameter \(3, 4\)$"
    with pytest.raises(ValueError, match=line):
        kind(second.parameters(), **options).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("kind", [EHNewton, Newton])
def test_a_learning_rate_may_be_a_tensor_as_of_torchs_optimizers(kind):
    one, other = mlp(), mlp()
    first = kind(one.params, lr=torch.tensor(0.5, dtype=torch.float64), weight_decay=0.1, damping=1.0)
    second = kind(other.params, lr=0.5, weight_decay=0.1, damping=1.0)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) for optimizer in (first, second)]
    for _ in range(2):
        step(first, one.closure)
        step(second, other.closure)
        for schedule in schedules:
            schedule.step()
    assert error(one.weights(), other.weights()) < 1e-12


@pytest.mark.parametrize("kind", OURS)
def test_a_state_without_weight_decay_is_one_of_an_earlier_version(kind):
    optimizer = kind(mlp().params, weight_decay=0.1)
    state = optimizer.state_dict()
    del state["param_groups"][0]["weight_decay"]
    again = kind(mlp().params)
    again.load_state_dict(state)
    assert again.param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=9),
        torch.optim.lr_scheduler.ReduceLROnPlateau,
    ],
)
def test_a_scheduler_over_adaptive_nesterov_is_refused_where_it_is_made_or_at_the_step_after_it(scheduler):
    line = "^AdaptiveNesterov computes its learning rate at every step: leave the scheduler out$"
    problem = mlp()
    optimizer = AdaptiveNesterov(problem.params)
    with pytest.raises(ValueError, match=line):
        scheduler(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match=line):
        scheduler(optimizer)
    for _ in range(2):
        step(optimizer, problem.closure)
    optimizer.param_groups[0]["lr"] *= 0.5
    with pytest.raises(ValueError, match=line):
        step(optimizer, problem.closure)


def test_the_momentum_of_ehnewton_can_cycle():
    problem, by_hand = mlp(), mlp()
    optimizer, other = EHNewton(problem.params, cg_max_iter=2), EHNewton(by_hand.params, cg_max_iter=2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=8)
    for _ in range(8):
        other.param_groups[0].update({k: optimizer.param_groups[0][k] for k in ("lr", "momentum")})
        step(optimizer, problem.closure)
        step(other, by_hand.closure)
        schedule.step()
    assert torch.equal(problem.weights(), by_hand.weights())
    with pytest.raises(ValueError, match="momentum"):
        torch.optim.lr_scheduler.OneCycleLR(Newton(problem.params), 0.5, total_steps=8)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("layers", [mlp, lambda: Problem(nn.Linear(5, 3).double(), numbers(8, 5), mlp().loss)])
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
    problem = mlp()
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
    half, full = mlp(dtype=dtype), mlp()
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
    problem = mlp()
    problem.network[2].float()
    optimizer = EHNewton(problem.params)
    loss = lambda: sum(p.double().square().sum() for p in problem.params)  # noqa: E731
    with pytest.raises(ValueError, match="^parameters must be of one dtype and device"):
        optimizer.step(loss)


@pytest.mark.parametrize(
    "options", [{"preconditioner": "diagonal"}, {"subspace": "last_step", "curvature": "gauss_newton"}]
)
def test_statistics_and_subspaces_are_refused_in_half_precision(options):
    problem = mlp(dtype=torch.bfloat16)
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"^{name}={value}: needs weights in float32 or float64"):
        EHNewton(problem.params, **options).step(problem.closure)


@pytest.mark.slow
@of_cycles
@pytest.mark.parametrize("kind", [EHNewton, Newton])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_a_scaled_loss_gives_the_steps_of_the_loss(kind, dtype):
    """GradScaler's factor is a power of 2, so it changes no bit until something underflows."""
    problems = [mlp(dtype=torch.float32) for _ in range(2)]
    plain, scaled = (kind(p.params, damping=1.0 if kind is Newton else 0.1, lr=0.5) for p in problems)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        losses = []
        for problem in problems:
            with torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext():
                losses.append(problem.closure())
        plain.zero_grad()
        scaled.zero_grad()
        losses[0].backward(create_graph=True)
        plain.step()
        scaler.scale(losses[1]).backward(create_graph=True)
        scaler.step(scaled)
        scaler.update()
        assert error(problems[1].weights(), problems[0].weights()) < (1e-3 if dtype else 1e-6)
        assert scaled.last_step["hvps"] == plain.last_step["hvps"]
    assert "fallbacks" not in plain.last_step or scaled.last_step["fallbacks"] == 0


@of_cycles
@pytest.mark.parametrize("kind", [EHNewton, Newton])
def test_a_scaled_gradient_that_is_not_finite_skips_the_step_and_lowers_the_factor(kind):
    problem = mlp(dtype=torch.float32)
    optimizer, before = kind(problem.params), problem.weights()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(problem.closure() * float("inf")).backward(create_graph=True)
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(problem.weights(), before)
    assert scaler.get_scale() == 512
    optimizer.zero_grad()


@of_cycles
@pytest.mark.parametrize("kind", [EHNewton, Newton])
def test_gradients_that_were_divided_without_their_graph_are_refused(kind):
    problem = mlp(dtype=torch.float32)
    optimizer, before = kind(problem.params), problem.weights()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(problem.closure()).backward(create_graph=True)
    scaler.unscale_(optimizer)
    with pytest.raises(ValueError, match=r"^scaler.unscale_\(optimizer\) divides the gradients, but not their graph"):
        scaler.step(optimizer)
    assert torch.equal(problem.weights(), before)
    optimizer.zero_grad()
    other = kind(mlp(dtype=torch.float32).params)
    with pytest.raises(ValueError, match="^a GradScaler scales gradients in .grad; give no closure"):
        scaler.step(other, problem.closure)


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
    problem, other = mlp(dtype=torch.float32), mlp(dtype=torch.float32)
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
    problem = mlp()
    optimizer, before = kind(problem.params), problem.weights()
    assert optimizer.step(lambda: None) is None
    with pytest.raises(ValueError, match="^give a closure that returns the loss, or call loss.backward"):
        optimizer.step()
    problem.closure().backward()
    for closure in (None, lambda: None):
        with pytest.raises(ValueError, match="^give a closure|^the closure must return the loss with its graph"):
            optimizer.step(closure)
    assert torch.equal(problem.weights(), before)


@pytest.mark.parametrize("kind", OURS)
def test_a_pickled_copy_goes_on(kind):
    problem = mlp()
    optimizer = kind(problem.params)
    step(optimizer, problem.closure)
    network, again = pickle.loads(pickle.dumps((problem.network, optimizer)))
    step(optimizer, problem.closure)
    step(again, lambda: F.cross_entropy(network(problem.inputs), TARGETS))
    assert torch.equal(torch.cat([p.detach().flatten() for p in network.parameters()]), problem.weights())


def test_products_and_conjugate_gradients_take_any_lists_of_tensors_and_name_wrong_shapes():
    problem = mlp()
    vector = numbers(len(problem.weights()), seed=1)
    parts = problem.split(vector)
    expected = problem.hessian() @ vector
    product = hessian_vector_product(problem.closure(), problem.network.parameters(), iter(parts))
    assert error(torch.cat([p.flatten() for p in product]), expected) < 1e-12
    with pytest.raises(ValueError, match=r"^vectors: the shapes are \[\(4, 5\)\], and must be \[\(4, 5\), \(4,\)"):
        hessian_vector_product(problem.closure(), problem.params, parts[:1])

    A = problem.hessian() + torch.eye(len(vector))
    b = tuple(problem.split(A @ vector))

    def apply(v):
        return (part for part in problem.split(A @ torch.cat([p.flatten() for p in v])))

    x, info = conjugate_gradient(apply, b, max_iter=200, tol=1e-12)
    assert [p.shape for p in x] == [p.shape for p in parts]
    assert error(torch.cat([p.flatten() for p in x]), vector) < 1e-9
    assert info.reason == "converged"
    with pytest.raises(ValueError, match="^product: the shapes are "):
        conjugate_gradient(lambda v: v[:1], b)
    with pytest.raises(ValueError, match="^x0: the shapes are "):
        conjugate_gradient(apply, b, x0=b[:1])
    with pytest.raises(ValueError, match="^max_iter=-1: must be >= 0$"):
        conjugate_gradient(apply, b, max_iter=-1)
