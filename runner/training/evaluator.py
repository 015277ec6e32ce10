"""What happens between two steps of a run: evaluations, checkpoints, and its end."""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..averaging.averaged_weights import evaluate_all
from ..config.durations import Duration
from ..records.metrics import VOID, read_metrics
from ..regularizers.regularizers import Regularizers
from ..state.checkpoint import numbers, unsaved
from ..state.evaluation import Abandoned
from ..state.progress import Agenda, Progress
from ..state.recorder import Recorder
from ..state.run import Run
from ..system.display import Display
from ..system.interrupt import Interrupt
from .divergence import check_weights

ENDS = {"end", "range_test"}  # durations after which a run is over


class Evaluator:
    """Evaluates a run and writes its checkpoints, when they are due.

    Args:
        run: at the position where its training begins or goes on.
        recorder: gets results and checkpoints.
        display: shows results.
        interrupt: a signal ends an evaluation, and the run.
        regularizers: follow evaluations.
    """

    def __init__(
        self, run: Run, recorder: Recorder, display: Display, interrupt: Interrupt, regularizers: Regularizers
    ):
        self._run, self._recorder, self._display, self._interrupt = run, recorder, display, interrupt
        self._regularizers = regularizers
        self._agenda, self._early_stopping = Agenda(run.progress, **run.durations), run.early_stopping
        self._knows_optimizer, self._numbers = False, numbers(run.optimizer)

    def due(self) -> Collection[str]:
        """Returns what is due after the last step, of `log`, `evaluate` and `checkpoint`."""
        due = self._agenda.due()
        if self._early_stopping.step_is_short or (due and not ENDS.isdisjoint(due)):
            return {*due, "log", "evaluate"}
        return due

    def pause(self, due: Collection[str]) -> bool:
        """Evaluates and writes a checkpoint where they are due; returns whether the run ends here.

        Raises:
            Diverged: a weight is not finite; such weights are neither evaluated nor written.
        """
        run = self._run
        run.progress.checkpoint_due |= "checkpoint" in due
        if "evaluate" in due:
            check_weights(run.network.parameters())
            self._evaluate()
        ends = run.is_over or run.is_paused or self._early_stopping.ends or self._is_interrupted()
        if run.progress.checkpoint_due or ends or self._recorder.cycle_ended:
            if "evaluate" not in due:
                check_weights(run.network.parameters())
            scheduled = run.progress.checkpoint_due and not run.progress.evaluation_due  # or again, after it
            run.progress.checkpoint_due &= not scheduled
            self._recorder.checkpoint(scheduled)
            self._look_at_optimizer()
        return ends

    def _look_at_optimizer(self) -> None:
        """Tells at the first checkpoint after a step that an optimizer has state that checkpoints do not hold."""
        if self._knows_optimizer or self._run.progress.step == 0:
            return
        self._knows_optimizer = True
        optimizer = self._run.optimizer
        if names := unsaved(optimizer, self._numbers):
            self._display.say(
                f"note: {type(optimizer).__name__} has values in {', '.join(names)}, which checkpoints do not hold; if"
                " steps change them, a resumed run is another one: keep them in self.state"
            )

    def _evaluate(self) -> None:
        run = self._run
        run.progress.evaluation_due = True
        with run.clocks.running("evaluation"), suppress(Abandoned):
            rows = evaluate_all(run, self._is_interrupted)
            run.progress.evaluation_due = False
        if run.progress.evaluation_due:  # a signal came: the run begins with this evaluation when it goes on
            return
        with run.clocks.running("other"):
            self._early_stopping.observe(rows)
            for kind, row in rows.items():
                self._recorder.log_evaluation(kind, row)
            run.schedule.after_evaluation(rows)
            self._regularizers.after_evaluation(rows)
            self._recorder.keep_best()
            loss, counts = self._recorder.last_loss, run.progress.counts()
            self._display.show_evaluation(rows, loss, counts, run.selection.metric)

    def _is_interrupted(self) -> bool:
        self._interrupt.agree()
        return self._interrupt.signal != 0


def only_its_end_logged(run: Run, change: dict[str, Any], folder: Path) -> bool:
    """Returns whether a run that goes on stands at the step of a change where its former end alone asked for a row.

    Args:
        run: resumed.
        change: the last one of its history.
        folder: the run's.
    """
    progress, before = run.progress, change["before"]
    former, log_every = before.get("duration"), before.get("log_every", run.log_every)
    if former is None or progress.step != change["step"] or run.is_over or run.early_stopping.ends:
        return False
    return progress.elapsed(former) >= 1 and not has_come(log_every, progress, run.batching.drop_last, folder)


def has_come(every: str, progress: Progress, drop_last: bool, folder: Path) -> bool:
    """Returns whether a duration has passed once more with the last step, which is recorded.

    Args:
        every: the duration.
        progress: after the step.
        drop_last: whether a smaller last batch of an epoch is left out.
        folder: the run's.
    """
    reached, numerator, denominator = progress.measured(every)
    before = reached - 1
    if Duration.parse(every).unit == "epochs":
        size = 0 if progress.repeat else read_metrics(folder, "train", VOID)[-1]["batch_size"]
        rest = progress.epoch_size % size if size and drop_last and progress.offset == 0 else 0
        before = reached - size - rest
    return reached * denominator // numerator > before * denominator // numerator
