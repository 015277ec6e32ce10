"""The figures of a search, from made-up trials."""

from types import SimpleNamespace

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from trainopt.runner.reporting.figure_style import figure_style
from trainopt.runner.trials.figures import draw_slices

SPACE = {
    "optimizer.lr": FloatDistribution(0.001, 1.0, log=True),
    "optimizer.momentum": FloatDistribution(0.0, 1.0),
    "batching.size": CategoricalDistribution([32, 64, 128]),
}


@pytest.mark.parametrize("best", [0, 2])
@pytest.mark.parametrize("style", ["notebook", "paper"])
def test_the_ring_around_the_best_trial_is_whole_in_corners(style, best):
    points = [(0.001, 0.0, 32), (0.1, 0.5, 64), (1.0, 1.0, 128)]
    values = [0.7 + abs(best - number) for number in range(3)]
    trials = [
        create_trial(params=dict(zip(SPACE, point, strict=True)), distributions=SPACE, value=value)
        for point, value in zip(points, values, strict=True)
    ]
    settings = SimpleNamespace(direction="minimize", metric="validation_loss")
    with figure_style(style, None):
        figure = draw_slices(SimpleNamespace(settings=settings, space=SPACE), trials)
        figure.canvas.draw()
    for axis in figure.axes[: len(SPACE)]:
        (ring,) = axis.lines
        box, panel = ring.get_window_extent(), axis.get_window_extent()
        assert panel.x0 < box.x0 < box.x1 < panel.x1
        assert panel.y0 < box.y0 < box.y1 < panel.y1
