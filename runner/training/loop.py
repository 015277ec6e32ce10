"""The training loop: one function, to be read from top to bottom."""

from collections.abc import Collection
from contextlib import suppress

import torch
from torch import Tensor

from ..probes.probes import Probes
from ..state.evaluation import Abandoned
from ..state.objective import Output
from ..state.progress import Agenda
from ..state.recorder import Record
from ..state.run import Run
from ..system.display import Display
from ..system.interrupt import Interrupt
from .batch_control import Control
from .divergence import finite_check
from .regularizers import Regularizers


def train(run: Run, record: Record, display: Display, interrupt: Interrupt) -> None:
    """Trains from where `run.progress` stands until `run.duration`, or until interrupted.

    Raises:
        Diverged: the loss is not finite; the update was not made.
    """
    network, optimizer, schedule, objective = run.network, run.optimizer, run.schedule, run.objective
    progress, clocks, finite, rate = run.progress, run.clocks, finite_check(run.device), run.rate
    needs_graph = optimizer.needs_graph
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    agenda = Agenda(progress, **run.durations)
    probes = Probes(run, record) if run.probes else None
    control, regularizers = Control(run, record, display), Regularizers(run, record, display)
    total: Tensor
    terms: dict[str, Tensor]
    output: Output

    def closure(share: float = 1.0) -> Tensor:
        """Returns the loss of the current batch, with gradients in place unless the optimizer needs the graph.

        What an optimizer computes beside that, on a part of the batch or without a graph, it reports itself.
        """
        nonlocal total, terms, output
        if share < 1 or not torch.is_grad_enabled():
            some = max(2, round(share * batch.size))
            return objective(batch.inputs[:some], batch.targets[:some])[0]
        for parameter in parameters:  # what optimizer.zero_grad() does, without its profiling: 10 us a step
            parameter.grad = None
        total, terms, output = objective(batch.inputs, batch.targets)
        to_finish = finite.begin(total)
        if not needs_graph:
            total.backward()
        if to_finish:
            finite.finish()
        progress.gradients += 1
        progress.samples += batch.size
        return total

    def log() -> None:
        clocks.switch("other")
        row = {name: finite.value if term is total else term.item() for name, term in terms.items()}
        row |= {"total": finite.value, "lr": rate.lr, "batch_size": batch.size}
        row |= {**regularizers.report(terms), **optimizer.last_step}
        record.trained(row, output, batch.targets, progress.counts(), clocks.seconds["train"])
        display.show_step(row, progress, clocks.seconds["train"])
        clocks.switch("train")

    def evaluate_all() -> None:
        progress.evaluation_due = True
        with clocks.running("evaluation"), suppress(Abandoned):
            rows = {kind: run.evaluate(kind, stop) for kind in run.evaluation_sets}
            progress.evaluation_due = False
        if progress.evaluation_due:  # a signal came: the run begins with it when it goes on
            return
        with clocks.running("other"):
            run.early_stopping.observe(rows)
            for kind, row in rows.items():
                record.evaluated(kind, row, progress.counts(), clocks.seconds["train"])
            regularizers.after_evaluation(rows)
            record.keep_best(run)
            display.show_evaluation(rows, record.last_train_row, progress.counts())

    def stop() -> bool:
        return interrupt.signal != 0

    def pause(due: Collection[str]) -> bool:
        """Evaluates and write a checkpoint where they are due; say whether the run ends here."""
        if "evaluate" in due or "end" in due:
            evaluate_all()
        ends = run.is_over or run.early_stopping.ends or stop()
        if "checkpoint" in due or ends or record.cycle_ended:
            record.checkpoint(run, scheduled="checkpoint" in due)
        return ends

    if pause(["evaluate"] if progress.evaluation_due else []):
        return
    network.train()
    with clocks.running("train"):
        for batch in run.batches():
            if probes:
                probes.before_step(batch)
            rate.step(closure)
            progress.advance(batch)
            progress.count_products(optimizer.last_step)
            if probes:
                control.observe(probes.after_step(batch))
            due = agenda.due()
            if run.early_stopping.step_is_short or "range_test" in due:
                due = {*due, "end"}
            if "log" in due or "end" in due:
                log()
            schedule.step()
            regularizers.after_step()
            if (due or interrupt.signal or record.cycle_ended) and pause(due):
                return
