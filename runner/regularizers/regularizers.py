"""The regularizers of a run: what follows from its steps and evaluations, and what they report."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..state.recorder import Recorder
from ..state.run import Run
from ..system.display import Display


class Regularizers:
    """Calls the methods of all regularizers, as `trainopt.optimizers.Regularizer` describes them.

    Args:
        run: at the position where its training begins or goes on.
        recorder: gets a row for each event.
        display: gets a line for each event.
    """

    def __init__(self, run: Run, recorder: Recorder, display: Display):
        self._run, self._recorder, self._display = run, recorder, display
        self._regularizers = run.objective.regularizers

    def after_step(self) -> None:
        """Lets them follow a step."""
        for name, (regularizer, params) in self._regularizers.items():
            self._log(name, regularizer.after_step(self._run, params))

    def after_evaluation(self, rows: dict[str, dict[str, Any]]) -> None:
        """Lets them follow an evaluation; `rows` holds its results, by kind of row."""
        for name, (regularizer, params) in self._regularizers.items():
            self._log(name, regularizer.after_evaluation(self._run, params, rows))

    def report(self, terms: dict[str, Tensor]) -> dict[str, Any]:
        """Returns what they report of their terms of the loss, as NAME_key."""
        return {
            f"{name}_{key}": value
            for name, (regularizer, params) in self._regularizers.items()
            for key, value in regularizer.report(params, terms[name]).items()
        }

    def _log(self, name: str, events: Sequence[dict[str, Any]]) -> None:
        for event in events:
            with self._run.clocks.running("other"):
                self._recorder.log_event(name, event)
                self._display.show_event(name, event, self._run.progress.counts())
