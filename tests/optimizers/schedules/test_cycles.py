"""After which steps the cycles of a schedule are complete."""

import pytest

from helpers.walk import Walk
from trainopt.optimizers import Constant, CosineRestarts, Cyclic, WarmUp


def ends_of(schedule, walk, steps):
    """After which of its steps a schedule says that one more cycle is complete."""
    counts = [schedule.cycles()]
    for _ in range(steps):
        walk.rates(schedule, 1)
        counts.append(schedule.cycles())
    assert counts[0] == 0
    assert set(map(int.__sub__, counts[1:], counts)) <= {0, 1}
    return [step for step in range(1, steps + 1) if counts[step] > counts[step - 1]]


@pytest.mark.parametrize("period", ["4steps", "1epochs"])
def test_cycles_are_complete_where_the_cosine_begins_again(period):
    walk = Walk(4)
    assert ends_of(CosineRestarts(walk.optimizer, walk.progress, period, period_mult=1), walk, 13) == [4, 8, 12]
    walk = Walk(4)
    assert ends_of(CosineRestarts(walk.optimizer, walk.progress, period, period_mult=2), walk, 60) == [4, 12, 28, 60]
    walk = Walk(4)
    assert ends_of(CosineRestarts(walk.optimizer, walk.progress, period, period_mult=1.5), walk, 20) == [4, 10, 19]


def test_cycles_of_a_cyclic_rate_are_complete_where_it_is_lowest():
    walk = Walk(4)
    schedule = Cyclic(walk.optimizer, walk.progress, 0.001, 0.1, step_up="3steps")
    assert ends_of(schedule, walk, 19) == [6, 12, 18]


def test_a_warm_up_has_the_cycles_of_its_schedule():
    walk = Walk(4)
    cosine = CosineRestarts(walk.optimizer, walk.progress, "4steps", period_mult=1)
    assert ends_of(WarmUp(cosine, walk.optimizer, walk.progress, over="2steps"), walk, 9) == [4, 8]
    constant = WarmUp(Constant(walk.optimizer), walk.optimizer, walk.progress, over="2steps")
    assert constant.cycles() is None
