"""CPUs that do what a GPU does: replay steps, and read later what they have computed."""

import pytest

from helpers.gpu import StandIn
from trainopt.runner.training import divergence
from trainopt.runner.training.graphs import choice


@pytest.fixture
def stand_in(monkeypatch):
    """Lets a CPU record graphs."""
    capture = StandIn()
    monkeypatch.setattr(choice, "GRAPHS_ON", ("cpu",))
    monkeypatch.setattr(choice, "new_capture", lambda device: capture)
    return capture


@pytest.fixture
def late(monkeypatch):
    """Lets steps on a CPU not wait for the check, so that graphs may hold the update."""
    monkeypatch.setattr(divergence, "DEFERRED_ON", ("cpu",))
