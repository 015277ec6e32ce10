"""Numbers as they are typed: any form that is the number asked for, and messages and tables that show it."""

import json

import pytest

from helpers.cli import prepared, refusal
from trainopt.runner import load_runs

RUN = ("model=mlp", "model.hidden=[4]", "duration=2steps", "logger=none")


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("data.limit=2e1", 20),
        ("data.limit='20'", 20),
        ("optimizer.lr='1e-3'", 1e-3),
        ("optimizer.lr=1", 1),
        ("batching.size=1e2", 100),  # of a class whose signature says what it takes
        ("batching.persistency=[2.0,1]", [2, 1]),
        ("model.hidden=[2e1,8]", [20, 8]),
    ],
)
def test_a_number_may_have_any_form(typed, value):
    section, name = typed.partition("=")[0].split(".")
    number = prepared(*RUN, typed)[0][section][name]
    assert repr(number) == repr(value)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("data.limit=2.5", "data.limit=2.5: must be an integer"),
        ("data.limit=-2e3", "data.limit=-2e3: must be an integer"),
        ("optimizer.lr=-1e0", "optimizer.lr=-1e0: must be a number"),
        ("optimizer.lr=much", "optimizer.lr=much: must be a number"),
    ],
)
def test_a_number_that_is_wrong_is_named_as_it_was_typed(typed, message):
    assert refusal(*RUN, typed).startswith(message)


def test_integers_stay_integers_beside_runs_that_have_none(trained, tmp_path):
    trained(*RUN, "data.limit=40", name="a")
    trained(*RUN, name="b")
    configs = load_runs(tmp_path / "outputs").configs
    assert json.dumps(configs["data.limit"].tolist()) == "[40, null]"
