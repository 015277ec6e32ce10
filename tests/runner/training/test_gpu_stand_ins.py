"""What is done on GPUs only, by stand-ins for torch's functions: choosing one, refusing waits, comparing replays."""

import warnings

import pytest
import torch

from trainopt.runner.distributed.group import Group
from trainopt.runner.system.device import choose_device
from trainopt.runner.training.graphs.capture import waiting_refused
from trainopt.runner.training.graphs.closure import CLOSE, check_same


def test_the_chosen_gpu_is_the_current_one(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert current == [1]


def test_waits_are_refused_inside_only_and_without_a_warning(monkeypatch):
    """Torch warns at the first call, which is an error here."""
    modes = ["default"]

    def set_mode(mode):
        modes.append(mode)
        warnings.warn("a prototype", stacklevel=1)

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    with pytest.raises(ValueError, match="of the body"), waiting_refused():
        raise ValueError("of the body")
    assert modes == ["default", "error", "default"]


@pytest.mark.parametrize(
    ("again", "replay", "is_same"),
    [
        (1.0, 1.0, True),
        (1.0, 1.0 + CLOSE / 2, False),
        (1.0 + CLOSE / 4, 1.0 + CLOSE / 2, True),
        (1.0 + CLOSE / 4, 1.0 + 2 * CLOSE, False),
        (1.0 + CLOSE / 4, float("nan"), False),
    ],
)
def test_a_replay_may_differ_by_little_where_eager_steps_do(again, replay, is_same):
    values = [[("loss", torch.tensor(value, dtype=torch.float64))] for value in (1.0, again, replay)]
    if is_same:
        check_same(*values)
    else:
        with pytest.raises(ValueError, match="the replayed loss is not that of an eager step"):
            check_same(*values)


def test_memory_that_is_full_is_no_lost_connection():
    with pytest.raises(torch.OutOfMemoryError), Group._connection(None):
        raise torch.OutOfMemoryError("CUDA out of memory")
