"""Every scheduler of torch, by steps and by epochs: its own learning rates, also after a resume; and plateau."""

import inspect
import io
from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler

from helpers.walk import Walk
from trainopt.optimizers import Plateau, TorchScheduler, WarmUp

PARTS = [partial(lr_scheduler.LinearLR, total_iters=4), partial(lr_scheduler.ExponentialLR, gamma=0.8)]
ARGUMENTS = {
    "ChainedScheduler": {"schedulers": PARTS},
    "ConstantLR": {},
    "CosineAnnealingLR": {"T_max": 7},
    "CosineAnnealingWarmRestarts": {"T_0": 4},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.4, "step_size_up": 5},
    "ExponentialLR": {"gamma": 0.9},
    "LambdaLR": {"lr_lambda": lambda k: 0.9**k},
    "LinearLR": {},
    "MultiStepLR": {"milestones": [3, 8]},
    "MultiplicativeLR": {"lr_lambda": lambda k: 0.95},
    "OneCycleLR": {"max_lr": 0.5, "total_steps": 30},
    "PolynomialLR": {"total_iters": 12},
    "ReduceLROnPlateau": None,  # follows evaluations
    "SequentialLR": {"schedulers": PARTS, "milestones": [4]},
    "StepLR": {"step_size": 3},
}


def sgd(groups, lr):
    return torch.optim.SGD(groups, lr, momentum=0.9)


def scheduler_of(name):
    return partial(getattr(lr_scheduler, name), **ARGUMENTS[name])


def of_torch(name, optimizer):
    """The scheduler as people create it."""
    options = dict(ARGUMENTS[name])
    if "schedulers" in options:
        options["schedulers"] = [part(optimizer) for part in options["schedulers"]]
    return getattr(lr_scheduler, name)(optimizer=optimizer, **options)


def test_every_scheduler_of_torch_is_listed():
    classes = {
        name
        for name, value in vars(lr_scheduler).items()
        if inspect.isclass(value)
        and issubclass(value, lr_scheduler.LRScheduler)
        and name not in ("LRScheduler", "_LRScheduler", "SWALR")
    }
    assert classes == set(ARGUMENTS)


@pytest.mark.parametrize("per", ["step", "epoch"])
@pytest.mark.parametrize("name", [name for name, arguments in ARGUMENTS.items() if arguments is not None])
def test_it_is_torchs_own_and_resumes(name, per):
    per_epoch = 1 if per == "step" else 3
    length = 20 * per_epoch
    torchs = Walk(1, (0.5, 0.02), sgd)
    expected = torchs.rates(of_torch(name, torchs.optimizer), 20, None)
    walk = Walk(per_epoch, (0.5, 0.02), sgd)
    schedule = TorchScheduler(walk.optimizer, walk.progress, scheduler_of(name), per)
    begun = walk.rates(schedule, length // 2 - 1, None)
    saved = io.BytesIO()
    torch.save([walk.optimizer.state_dict(), schedule.state_dict()], saved)
    saved.seek(0)
    optimizer_state, schedule_state = torch.load(saved, weights_only=True)
    again = Walk(per_epoch, (0.5, 0.02), sgd)
    again.progress = walk.progress
    resumed = TorchScheduler(again.optimizer, again.progress, scheduler_of(name), per)
    again.optimizer.load_state_dict(optimizer_state)
    resumed.load_state_dict(schedule_state)
    rates = begun + again.rates(resumed, length - len(begun), None)
    assert rates == [lrs for lrs in expected for _ in range(per_epoch)]


def test_one_that_follows_evaluations_is_refused():
    walk = Walk()
    with pytest.raises(ValueError, match="give schedule=plateau"):
        TorchScheduler(walk.optimizer, walk.progress, lr_scheduler.ReduceLROnPlateau)


def test_schedulers_of_a_scheduler_are_partials():
    walk = Walk()
    whole = partial(lr_scheduler.ChainedScheduler, schedulers=[3])
    with pytest.raises(ValueError, match="scheduler.schedulers: must be a list of {_target_: …, _partial_: true, …}"):
        TorchScheduler(walk.optimizer, walk.progress, whole)


LOSSES = [1.0, 0.9, 0.95, 0.91, 0.92, 0.93, 0.5, 0.6, 0.6, 0.6]


@pytest.mark.parametrize("warmup", [False, True])
def test_plateau_is_torchs_by_the_validation_set(warmup):
    walk, torchs = Walk(), Walk()
    schedule = Plateau(walk.optimizer, factor=0.5, patience=1, min_delta=0.001)
    if warmup:
        schedule = WarmUp(schedule, walk.optimizer, walk.progress, "2steps", start=0.5)
    peer = lr_scheduler.ReduceLROnPlateau(
        torchs.optimizer, factor=0.5, patience=1, threshold=1e-3, threshold_mode="abs"
    )
    rates, expected = [], []
    for loss in LOSSES:
        schedule.after_evaluation({"validation": {"loss": loss}, "test": {"loss": 0.0}})
        peer.step(loss)
        rates += walk.rates(schedule, 1)
        expected.append(torchs.optimizer.param_groups[0]["lr"])
    if warmup:
        expected[:2] = [0.25, 0.375]
    assert rates == expected
    assert rates[-1] == 0.5 * 0.5**3
