"""The choice of a form by timing."""

import pytest
import torch

from trainopt.optimizers.per_sample import form_benchmark
from trainopt.optimizers.per_sample.accumulator import GramAccumulator
from trainopt.optimizers.per_sample.form_benchmark import BATCHES, FormBenchmark

ADDS = {"slow": 1.0, "fast": 10.0, "slower": 100.0}  # so that the sum tells what was used


@pytest.fixture
def times(monkeypatch):
    """Seconds by form, in place of a clock."""
    seconds = {"slow": [5.0, 5.0], "fast": [7.0, 3.0], "slower": [6.0, 6.0]}
    clock = {name: list(values) for name, values in seconds.items()}
    monkeypatch.setattr(form_benchmark, "_seconds", lambda form, total: clock[form.__name__].pop(0))
    return clock


def form(name):
    def add(total):
        total.matrix += ADDS[name]

    add.__name__ = name
    return add


def used(benchmark, layer="layer", names=("slow", "fast", "slower")):
    """The name of the form whose number was added."""
    total = GramAccumulator(1, torch.float64, torch.device("cpu"))
    benchmark.add(total, layer, {name: form(name) for name in names})
    (name,) = (n for n, number in ADDS.items() if number == total.total().item())
    return name


def test_two_batches_are_timed_and_then_the_fastest_counts(times):
    benchmark = FormBenchmark()
    assert [used(benchmark) for _ in range(5)] == ["slow"] * BATCHES + ["fast"] * 3
    assert times == {"slow": [], "fast": [], "slower": []}  # once a batch


def test_a_state_holds_the_choice_and_what_was_timed_before_it(times):
    one = FormBenchmark()
    used(one)
    other = FormBenchmark()
    other.load_state_dict(one.state_dict())
    assert [used(other), used(other)] == ["slow", "fast"]
    again = FormBenchmark()
    again.load_state_dict(other.state_dict())
    assert used(again) == "fast"  # without a clock
    assert (
        other.state_dict()
        == again.state_dict()
        == {"layer": {"batches": 2, "seconds": {"slow": 5.0, "fast": 3.0, "slower": 6.0}}}
    )


def test_a_state_of_other_forms_is_timed_anew(times):
    benchmark = FormBenchmark()
    benchmark.load_state_dict({"layer": {"batches": 2, "seconds": {"slow": 1.0, "of another version": 0.5}}})
    assert used(benchmark) == "slow"
    assert len(times["fast"]) == 1


def test_one_form_is_not_timed(times):
    benchmark = FormBenchmark()
    assert [used(benchmark, names=["slower"]) for _ in range(3)] == ["slower"] * 3
    assert len(times["slower"]) == 2
    assert benchmark.state_dict() == {}


def test_a_form_takes_as_long_as_it_takes():
    total = GramAccumulator(2, torch.float32, torch.device("cpu"))
    rows = torch.ones(2, 300_000)
    seconds = [form_benchmark._seconds(lambda t, n=n: [t.add(rows) for _ in range(n)], total) for n in (1, 200)]
    assert 0 < seconds[0] < seconds[1]
    assert not total.total().any()
