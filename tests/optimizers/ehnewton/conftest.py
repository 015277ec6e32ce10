"""Which form of the Hessian a step of EHNewton uses: the closed one of linear softmax classifiers, or the general."""

from contextlib import contextmanager

import pytest

from trainopt.optimizers import Curvature
from trainopt.optimizers.ehnewton.softmax_hessian import LinearSoftmax


def refused(*arguments, **options):
    raise AssertionError("this form must not be used")


@pytest.fixture
def forms(monkeypatch):
    """Contexts by name, in which the other form is refused."""

    @contextmanager
    def without(kind, method):
        with monkeypatch.context() as patch:
            patch.setattr(kind, method, refused)
            yield

    return {"closed": lambda: without(Curvature, "of_loss"), "general": lambda: without(LinearSoftmax, "__init__")}


@pytest.fixture
def only_closed_form(forms):
    with forms["closed"]():
        yield


@pytest.fixture
def closed_forms(monkeypatch):
    """Returns the number of steps so far that used the closed form."""
    steps, construct = [], LinearSoftmax.__init__

    def counted(*arguments):
        steps.append(True)
        construct(*arguments)

    monkeypatch.setattr(LinearSoftmax, "__init__", counted)
    return lambda: len(steps)
