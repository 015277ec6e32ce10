"""Diagnostics during a run, which is bitwise the same with and without them.

    for batch in batches:
        probe.before_step(run, batch)            only where the step is due
        optimizer.step(closure)
        values = probe.after_step(run, batch)    only where the step was due: a row of metrics.jsonl

Probes have a clock of their own; their passes are not counted as gradients and products of the run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from trainopt.data import Batch

from ..config.durations import Duration
from ..state.progress import Agenda
from ..state.recorder import Recorder
from ..state.rng import rng_state, set_rng_state
from ..state.run import Run


class Probes:
    """The probes of a run and when each is due.

    Args:
        run: at the position where its training begins or goes on.
        recorder: gets a row for each measurement.
    """

    def __init__(self, run: Run, recorder: Recorder):
        self._run, self._recorder = run, recorder
        self._ahead = replace(run.progress)  # is one step ahead during a step: tells whether that is due
        self._in_epochs = {  # probes that count the steps of each epoch, and their `every`
            name: int(Duration.parse(probe.every).amount) for name, probe in run.probes.items() if probe.each_epoch
        }
        durations = {name: probe.every for name, probe in run.probes.items() if name not in self._in_epochs}
        self._agenda = Agenda(self._ahead, **durations)
        self._due: list[str] = []

    def before_step(self, batch: Batch) -> None:
        """Calls the probes that are due at the coming step."""
        if not self._run.probes:
            return
        epoch_step = self._ahead.epoch_step
        self._ahead.advance(batch)
        due = {*self._agenda.due(), *(name for name, n in self._in_epochs.items() if epoch_step % n == 0)}
        self._due = [name for name in self._run.probes if name in due]
        for name in sorted(self._due, key=self._records_step):
            with self._isolation():
                self._run.probes[name].before_step(self._run, batch)

    def after_step(self, batch: Batch) -> dict[str, dict[str, Any]]:
        """Writes a row for each probe that was due at the last step; returns by name what they measured."""
        measured: dict[str, dict[str, Any]] = {}
        for name in sorted(self._due, key=self._records_step, reverse=True):
            with self._isolation():
                measured[name] = self._run.probes[name].after_step(self._run, batch)
                self._recorder.log_probe(name, measured[name])
        return measured

    def _records_step(self, name: str) -> bool:
        return self._run.probes[name].records_step

    @contextmanager
    def _isolation(self) -> Iterator[None]:
        """Lets the probes' clock run while entered; afterwards the random number generators are as before."""
        with self._run.clocks.running("probes"):
            state = rng_state(self._run.device)
            try:
                yield
            finally:
                set_rng_state(state, self._run.device)
