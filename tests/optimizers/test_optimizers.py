"""Schedules against closed forms at every step; the L2 term against its definition."""

import pytest
import torch
from torch import nn

from trainopt.optimizers import L2, Constant, Exponential, Multistep
from trainopt.runner.objective import covered_parameters
from trainopt.runner.progress import Progress


class Walk:
    """A run that makes `per_epoch` equal steps an epoch."""

    def __init__(self, per_epoch):
        self.progress = Progress(epoch_size=10 * per_epoch)
        self.optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)

    def rates(self, schedule, steps):
        """The learning rate of each step."""
        rates = []
        for _ in range(steps):
            rates.append(self.optimizer.param_groups[0]["lr"])
            self.optimizer.step()
            self.progress.step += 1
            self.progress.samples_passed += 10
            schedule.step()
        return rates


def test_constant_stays():
    walk = Walk(5)
    assert set(walk.rates(Constant(walk.optimizer), 20)) == {0.5}


def test_multistep_drops_at_its_milestones():
    walk = Walk(4)
    schedule = Multistep(walk.optimizer, walk.progress, ["1.5epochs", "9steps"], factor=0.1)
    rates = walk.rates(schedule, 12)
    assert rates == pytest.approx([0.5] * 6 + [0.05] * 3 + [0.005] * 3)


@pytest.mark.parametrize("every", ["0.05epochs", "1epochs", "3steps"])
@pytest.mark.parametrize("staircase", [True, False])
def test_exponential_is_its_closed_form(every, staircase):
    walk = Walk(40)
    schedule = Exponential(walk.optimizer, walk.progress, rate=0.8, every=every, staircase=staircase)
    steps = {"0.05epochs": 2, "1epochs": 40, "3steps": 3}[every]
    passed = [k // steps if staircase else k / steps for k in range(120)]
    assert walk.rates(schedule, 120) == pytest.approx([0.5 * 0.8**p for p in passed])


def test_a_step_every_twentieth_of_an_imagenet_epoch_falls_where_the_thesis_has_it():
    """Zorca 2020, section 4.4.3: 0.05 epochs of 1,281,167 images at batch 96 are 667 steps and a quarter."""
    progress = Progress(epoch_size=1_281_167)
    counts = []
    for step in (667, 668, 1334, 1335):
        progress.samples_passed = step * 96
        counts.append(int(progress.elapsed("0.05epochs")))
    assert counts == [0, 1, 1, 2]


def test_a_schedule_goes_on_where_the_run_does():
    walk = Walk(4)
    whole = walk.rates(Exponential(walk.optimizer, walk.progress, 0.9, "2steps"), 20)
    first = Walk(4)
    schedule = Exponential(first.optimizer, first.progress, 0.9, "2steps")
    rates = first.rates(schedule, 7)
    second = Walk(4)
    again = Exponential(second.optimizer, second.progress, 0.9, "2steps")
    second.progress.load_state_dict(first.progress.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    again.load_state_dict(schedule.state_dict())
    assert rates + second.rates(again, 13) == pytest.approx(whole)


def test_the_l2_term_and_its_gradient_are_those_of_the_definition():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)).double()
    penalty = L2(strength=0.3)
    params = covered_parameters(network, penalty)
    weights = [network[0].weight, network[3].weight]  # no biases, no norms
    assert [id(p) for p in params] == [id(w) for w in weights]
    value = penalty(params)
    assert value.item() == pytest.approx(0.3 * sum((w**2).sum().item() for w in weights), rel=1e-12)
    value.backward()
    for w in weights:
        assert torch.allclose(w.grad, 0.6 * w, rtol=1e-12)
    assert network[0].bias.grad is None
    assert torch.autograd.gradgradcheck(lambda *p: penalty(p), params)


def test_frozen_weights_are_not_penalised_and_a_penalty_without_a_choice_gets_all():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    network[0].weight.requires_grad_(False)
    assert covered_parameters(network, L2()) == []
    assert len(covered_parameters(network, lambda params: params[0].sum())) == 3


def test_a_negative_strength_is_refused():
    with pytest.raises(ValueError, match="must be >= 0"):
        L2(strength=-1)
