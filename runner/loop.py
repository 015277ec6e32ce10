"""The training loop: one function, to be read from top to bottom."""

from torch import Tensor

from .build import Run
from .display import Display
from .evaluation import accuracy, evaluate
from .finite import FiniteCheck
from .interrupt import Interrupt
from .progress import Every
from .record import Record


def train(run: Run, record: Record, display: Display, interrupt: Interrupt) -> None:
    """Train from where `run.progress` stands until `run.duration`, or until interrupted.

    Raises:
        Diverged: the loss is not finite; the update was not made.
    """
    network, optimizer, schedule, objective = run.network, run.optimizer, run.schedule, run.objective
    progress, clocks = run.progress, run.clocks
    needs_graph = getattr(optimizer, "needs_graph", False)
    finite = FiniteCheck(run.device)
    evaluate_due = Every(run.evaluate_every, progress)
    checkpoint_due = Every(run.checkpoint_every, progress)
    log_due = Every(run.log_every, progress)
    end = Every(run.duration, progress)
    total: Tensor
    terms: dict[str, Tensor]
    logits: Tensor

    def closure() -> Tensor:
        """Return the loss of the current batch, with gradients in place unless the optimizer needs the graph."""
        nonlocal total, terms, logits
        total, terms, logits = objective(batch.inputs, batch.targets)
        finite.start(total)
        if not needs_graph:
            optimizer.zero_grad()
            total.backward()
        finite.finish()
        progress.gradients += 1
        progress.samples += len(batch.targets)
        return total

    def evaluate_all() -> None:
        with clocks.running("evaluation"):
            rows = {
                kind: evaluate(network, run.forward, source, run.evaluation_batch_size, run.autocast)
                for kind, source in run.evaluation_sets.items()
            }
        for kind, row in rows.items():
            record.evaluated(kind, row, progress.counts(), clocks.read("train"))
        record.keep_best(run)
        display.evaluated(rows, record.last_train_row, progress.counts())

    def checkpoint() -> None:
        with clocks.running("checkpoint"):
            record.checkpoint(run)

    if progress.step == 0:
        evaluate_all()
    if progress.elapsed(run.duration) >= 1:
        return
    network.train()
    with clocks.running("train"):
        for batch in run.batches():
            optimizer.step(closure)
            progress.advance(batch)
            progress.hvps += getattr(optimizer, "last_step", {}).get("hvps", 0)
            lr = optimizer.param_groups[0]["lr"]
            schedule.step()
            last = end.due()
            if log_due.due() or last:
                seconds = clocks.read("train")
                with clocks.running("other"):
                    row = {name: term.item() for name, term in terms.items()}
                    row |= {"total": total.item(), "lr": lr, "batch_size": len(batch.targets)}
                    row |= {"top1": accuracy(logits, batch.targets), **getattr(optimizer, "last_step", {})}
                    record.trained(row, progress.counts(), seconds)
                    display.trained(row, progress, seconds)
            if evaluate_due.due() or last:
                evaluate_all()
            if checkpoint_due.due() or last or interrupt.signal:
                checkpoint()
            if last or interrupt.signal:
                return
