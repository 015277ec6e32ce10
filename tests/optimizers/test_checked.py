"""What our optimizers check for those who call them: groups, values that schedulers set, and states."""

import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.references import TARGETS, classifier, error, flat, step
from trainopt.optimizers import AdaptiveNesterov, EHNewton, Newton

OURS = (EHNewton, Newton, AdaptiveNesterov)


@pytest.mark.parametrize("kind", OURS)
def test_an_unknown_option_of_a_group_is_refused_and_the_groups_stay(kind):
    with pytest.raises(
        ValueError, match=r"^weigth_decay=0.1: unknown option of a parameter group; did you mean weight_de"
    ):
        kind([{"params": classifier().params, "weigth_decay": 0.1}])
    optimizer = kind([nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="^betas=1: unknown option of a parameter group; there are "):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "betas": 1})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("name", ["params", "param_names", "name", "initial_lr", "lr_scale"])
def test_names_and_notes_of_schedulers_in_a_group_are_no_options(kind, name):
    group = {"params": list(classifier().network.named_parameters()), "name": "all", "initial_lr": 0.1, "lr_scale": 0.5}
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
    for arguments in ([classifier().params], [[{"params": classifier().params, name: value}]]):
        options = {name: value} if isinstance(arguments[0][0], torch.Tensor) else {}
        with pytest.raises(ValueError, match=f"^{name}={value}: must be >= 0 and finite$"):
            kind(*arguments, **options)


@pytest.mark.parametrize(("kind", "name"), [(EHNewton, "lr"), (Newton, "lr"), (AdaptiveNesterov, "momentum")])
def test_a_value_that_a_scheduler_sets_is_checked_before_the_step(kind, name):
    problem = classifier()
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
    ours, theirs = kind(classifier().params), other(classifier().params)
    if kind is other:
        return ours.load_state_dict(theirs.state_dict())
    with pytest.raises(ValueError, match=f"^the state is that of another optimizer: {kind.__name__} has no "):
        ours.load_state_dict(theirs.state_dict())
    return None


@pytest.mark.parametrize(
    ("kind", "options"),
    [(AdaptiveNesterov, {}), (EHNewton, {"momentum": 0.5}), (EHNewton, {"preconditioner": "diagonal"})],
)
def test_the_state_of_another_network_is_refused(kind, options):
    first, second = nn.Linear(5, 3), nn.Linear(4, 3)
    optimizer = kind(first.parameters(), **options)
    step(optimizer, lambda: first(torch.ones(2, 5)).square().sum())
    line = r"^the state is that of another network: \w+ has the shape \(3, 5\), and the parameter \(3, 4\)$"
    with pytest.raises(ValueError, match=line):
        kind(second.parameters(), **options).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("kind", [EHNewton, Newton])
def test_a_learning_rate_may_be_a_tensor_as_of_torchs_optimizers(kind):
    one, other = classifier(), classifier()
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
    optimizer = kind(classifier().params, weight_decay=0.1)
    state = optimizer.state_dict()
    del state["param_groups"][0]["weight_decay"]
    again = kind(classifier().params)
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
    problem = classifier()
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
    problem, by_hand = classifier(), classifier()
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
def test_a_pickled_copy_goes_on(kind):
    problem = classifier()
    optimizer = kind(problem.params)
    step(optimizer, problem.closure)
    network, again = pickle.loads(pickle.dumps((problem.network, optimizer)))
    step(optimizer, problem.closure)
    step(again, lambda: F.cross_entropy(network(problem.inputs), TARGETS))
    assert torch.equal(flat(network.parameters()), problem.weights())
