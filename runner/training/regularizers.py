"""Regularizers that follow the course of a run, and what all of them report.

    regularizer.begin(run, params)                               once it is built: to refuse it, or to prepare
    optimizer.step(closure)
    events = regularizer.after_step(run, params)                 what changes in it
    evaluate
    events = regularizer.after_evaluation(run, params, rows)     likewise
    row |= regularizer.report(params, value)                     where a training row is written

Each event is a dict with `event`, a word for it, and what else is to be told: a row of metrics.jsonl and a line on
the screen. `params` are those that the regularizer is meant for. Events follow from what a method is given and
from the regularizer's `state_dict`, which is part of a checkpoint: so a resumed run is the same.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from ..state.recorder import Record
    from ..state.run import Run
    from ..system.display import Display


class Regularizers:
    """The regularizers of a run, whose methods are called where they have them.

    Args:
        run: standing where its training begins or goes on.
        record: gets a row for each event.
        display: gets a line for each event.
    """

    def __init__(self, run: "Run", record: "Record", display: "Display"):
        self._run, self._record, self._display = run, record, display
        self._all = run.objective.regularizers

    def after_step(self) -> None:
        """Tells them that a step was made."""
        for name, (regularizer, params) in self._all.items():
            self._tell(name, regularizer.after_step(self._run, params))

    def after_evaluation(self, rows: dict[str, dict[str, Any]]) -> None:
        """Tells them what an evaluation found, by kind of row."""
        for name, (regularizer, params) in self._all.items():
            self._tell(name, regularizer.after_evaluation(self._run, params, rows))

    def report(self, terms: dict[str, Tensor]) -> dict[str, Any]:
        """Returns what they say of the terms that they added to the loss of a step, as NAME_key."""
        return {
            f"{name}_{key}": value
            for name, (regularizer, params) in self._all.items()
            for key, value in regularizer.report(params, terms[name]).items()
        }

    def _tell(self, name: str, events: Sequence[dict[str, Any]]) -> None:
        for event in events:
            with self._run.clocks.running("other"):
                counts = self._run.progress.counts()
                self._record.happened(name, event, counts, self._run.clocks.seconds["train"])
                self._display.show_event(name, event, counts)
