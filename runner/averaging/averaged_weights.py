"""The weights that evaluations are of, where these are an average."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch

from trainopt.data import Position
from trainopt.optimizers import Averaging

from ..state.evaluation import never
from ..state.run import EvaluatedWeights, Run
from ..state.snapshot import RunSnapshot
from .batch_norm import layers_with_statistics, recompute_statistics


class AveragedWeights(EvaluatedWeights):
    """Puts an average into a run's network for a while, with the batch norm statistics that belong to it.

    The statistics are means over the first training batches of the first epoch, augmented as in training: the same at
    every evaluation. Neither the position of the run nor a random number generator is changed.

    Args:
        run: the run.
        averaging: of its weights.
    """

    def __init__(self, run: Run, averaging: Averaging):
        self.averaging = averaging
        self._run = run
        recomputes = averaging.batch_norm_batches != 0
        self._layers = layers_with_statistics(run.network.train()) if recomputes else []
        self._average: RunSnapshot | None = None  # the last one that was evaluated
        self._count = 0  # of the weights in it

    @property
    def needs_passes(self) -> bool:
        """Whether there are running statistics that are recomputed."""
        return bool(self._layers)

    def after_step(self) -> None:
        """Lets the average follow a step."""
        self.averaging.after_step()

    @contextmanager
    def active(self) -> Iterator[bool]:
        """Lets the network have the average while entered; afterwards all is bitwise as before.

        Yields whether there is one yet; where there is none, the network has its weights.
        """
        if self.averaging.count == 0:
            yield False
            return
        trained = RunSnapshot(self._run)
        try:
            self._set_average()
            yield True
        finally:
            trained.restore()

    def _set_average(self) -> None:
        if self._average is None or self._count != self.averaging.count:
            self.averaging.apply()
            if self._layers:
                recompute_statistics(self._run.network, self._layers, self._passes())
            self._average, self._count = RunSnapshot(self._run), self.averaging.count
        self._average.restore()

    def _passes(self) -> Iterator[Any]:
        """Yields the outputs of forward passes on training batches."""
        run = self._run
        spans = run.batching.spans_from(Position(), len(run.training_set))
        for inputs, _ in run.training_set.epoch(run.seed, 0, islice(spans, self.averaging.batch_norm_batches)):
            with torch.autocast(inputs.device.type, run.autocast, enabled=run.autocast is not None):
                yield run.objective.network(inputs)

    def state_dict(self) -> dict[str, Any]:
        """Returns the network's state with the average, as `model`, and the state of the average."""
        state = self.averaging.state_dict()
        with self.active() as is_average:
            if is_average:
                state["model"] = {name: value.clone() for name, value in self._run.network.state_dict().items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        state = dict(state)
        average = state.pop("model", None)
        if average is None:
            self.averaging.load_state_dict(state)
            return
        trained = RunSnapshot(self._run)
        self._run.network.load_state_dict(average)
        self.averaging.load_state_dict(state)
        self._average, self._count = RunSnapshot(self._run), self.averaging.count
        trained.restore()


def evaluate_all(run: Run, stop: Callable[[], object] = never) -> dict[str, dict[str, Any]]:
    """Evaluates a run on all of its sets, at its average where it has one; returns rows by kind.

    With an average, rows also have `raw_loss`, and the metric that selects as `raw_top1` or by its name, of the weights
    that are trained.

    Raises:
        Abandoned: `stop` returned true.
    """
    rows = {kind: run.evaluate(kind, stop) for kind in run.evaluation_sets}
    if run.averaged is None:
        return rows
    names = dict.fromkeys(("loss", run.selection.metric))
    raw = {kind: {f"raw_{name}": row[name] for name in names if name in row} for kind, row in rows.items()}
    with run.averaged.active() as is_average:
        if is_average:
            rows = {kind: run.evaluate(kind, stop) for kind in run.evaluation_sets}
    return {kind: {**row, **raw[kind]} for kind, row in rows.items()}
