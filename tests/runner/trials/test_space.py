"""What Hydra's overrides leave open, as distributions of Optuna."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from trainopt.runner.system.errors import UserError
from trainopt.runner.system.hydra_compat import parse_override
from trainopt.runner.trials.boundary import boundary_keys
from trainopt.runner.trials.space import as_text, corners, read_space


@pytest.mark.parametrize(
    ("typed", "distribution"),
    [
        ("a=interval(1,5)", FloatDistribution(1, 5)),
        ("a=tag(log,interval(1e-4,0.1))", FloatDistribution(1e-4, 0.1, log=True)),
        ("a=int(interval(1,5))", IntDistribution(1, 5)),
        ("a=tag(log,int(interval(1,100)))", IntDistribution(1, 100, log=True)),
        ("a=range(1,10,2)", IntDistribution(1, 9, step=2)),  # 10 is left out, as in Python
        ("a=range(1,9,2)", IntDistribution(1, 7, step=2)),
        ("a=range(0.25,1.0,0.25)", FloatDistribution(0.25, 0.75, step=0.25)),
        ("a=choice(1,[8],'x y')", CategoricalDistribution(["1", "[8]", r"x\ y"])),
        ("a=sgd,adam", CategoricalDistribution(["sgd", "adam"])),
        ("+a=interval(0,1)", FloatDistribution(0, 1)),
    ],
)
def test_overrides_of_hydra_are_distributions_of_optuna(typed, distribution):
    key = typed.partition("=")[0]
    assert read_space([parse_override("b=1"), parse_override(typed)]) == {key: distribution}


@pytest.mark.parametrize("typed", ["a=interval(1.0,5.0)", "a=tag(log,int(interval(1,100)))", "a=range(0.25,1.0,0.25)"])
def test_a_distribution_as_text_is_the_distribution(typed):
    space = read_space([parse_override(typed)])
    assert read_space([parse_override(f"a={as_text(space['a'])}")]) == space


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("a=interval(5,1)", "a=interval(5,1): "),
        ("a=tag(log,interval(0,1))", "a=tag(log,interval(0,1)): "),
        ("a=tag(steep,interval(0,1))", "a=tag(steep,interval(0,1)): the tag steep has no meaning here; tag(log,…)"),
        ("a=glob(*)", "a=glob(*): cannot be searched; give interval(a,b), range(a,b), choice(x,y) or x,y"),
    ],
)
def test_what_cannot_be_searched_is_refused(typed, text):
    with pytest.raises(UserError) as error:
        read_space([parse_override(typed)])
    assert str(error.value).startswith(text)
    assert "\n" not in str(error.value)


def test_corners_have_every_bound_and_every_choice():
    space = {"a": FloatDistribution(1, 5), "b": CategoricalDistribution(["x", "y", "z"])}
    points = corners(space)
    assert {point["a"] for point in points} == {1, 5}
    assert {point["b"] for point in points} == {"x", "y", "z"}


def test_the_boundary_is_a_twentieth_of_the_range_on_its_scale():
    log = as_text(FloatDistribution(1e-4, 1, log=True))
    assert [bool(boundary_keys("lr", str(value), log)) for value in (1.5e-4, 2e-4, 0.5, 0.7)] == [1, 0, 0, 1]
    for distribution in (IntDistribution(2, 9), IntDistribution(2, 9, step=7), FloatDistribution(2, 9, step=3.5)):
        assert [boundary_keys("n", str(value), as_text(distribution)) for value in (2, 9)] == [["n"], ["n"]]


@pytest.mark.parametrize(
    ("value", "choices", "keys"),
    [
        ("y", ["x", "y"], []),
        ("true", ["true", "false"], []),
        ("0.9", ["0.95", "0.9", "0.99"], ["k"]),
        ("0.95", ["0.95", "0.9", "0.99"], []),
        ("0.0", ["0.0", "1e-4"], []),  # no weight decay is negative
        ("1e-4", ["0.0", "1e-4"], ["k"]),
        ("[0.8,0.999]", ["[0.5,0.999]", "[0.8,0.999]", "[0.9,0.999]"], []),
        ("[0.9,0.999]", ["[0.5,0.999]", "[0.8,0.999]", "[0.9,0.999]"], ["k[0]"]),  # the second one did not vary
    ],
)
def test_numbers_among_choices_have_a_lowest_and_a_highest(value, choices, keys):
    assert boundary_keys("k", value, as_text(CategoricalDistribution(choices))) == keys


def test_a_range_that_begins_at_0_has_one_boundary():
    searched = as_text(FloatDistribution(0.0, 1.0))
    assert [boundary_keys("k", value, searched) for value in ("0.0", "0.01", "0.99")] == [[], [], ["k"]]
