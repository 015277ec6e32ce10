"""The training loop: one function, to be read from top to bottom."""

from contextlib import closing
from traceback import walk_tb

from ..probes.probes import Probes
from ..regularizers.regularizers import Regularizers
from ..state.checkpoint import check_state
from ..state.recorder import Recorder, SilentRecorder
from ..state.run import Run
from ..system.display import Display
from ..system.errors import UserError, one_line
from ..system.interrupt import Interrupt
from .batch_control import BatchController
from .closure import CALLING, TrainingClosure
from .divergence import NoticedLate, finite_check
from .evaluator import Evaluator
from .graphs.beside import batches_of
from .graphs.choice import closure_of
from .graphs.compilation import compilation_on_clock

NO_GRADIENTS = "does not call the closure, which makes gradients, or calls it under torch.no_grad"


def train(run: Run, recorder: Recorder, display: Display, interrupt: Interrupt) -> None:
    """Trains from where `run.progress` stands until `run.duration`, or until interrupted.

    Where it is noticed late that a loss or a gradient was not finite, the last steps are made again, to the one before
    that, and leave no second record.

    Raises:
        FloatingPointError: the loss or its gradient is not finite, and the update was not made; or a weight is not.
        UserError: the optimizer made its first step without a gradient.
        TypeError: a checkpoint cannot hold the optimizer's state.
    """
    check = finite_check(run)
    try:
        try:
            with compilation_on_clock(run):
                make_steps(run, recorder, display, interrupt, closure_of(run, check, display.say))
        except Exception:
            check.wait()  # it may follow from what was not finite
            raise
    except NoticedLate as late:
        closure = TrainingClosure(run, late.go_back())
        with closing(SilentRecorder(run)) as silent:
            make_steps(run, silent, Display(quiet=True), interrupt, closure)


def make_steps(run: Run, recorder: Recorder, display: Display, interrupt: Interrupt, closure: TrainingClosure) -> None:
    """Trains as `train` does, with the losses of a closure."""
    check = closure.finite
    optimizer, schedule, progress, update = run.optimizer, run.schedule, run.progress, run.update
    is_timed = run.is_timed
    optimizer.train()
    probes, controller = Probes(run, recorder), BatchController(run, recorder, display)
    regularizers = Regularizers(run, recorder, display)
    evaluator = Evaluator(run, recorder, display, interrupt, regularizers)
    if evaluator.pause(["evaluate"] if progress.evaluation_due else []):
        return
    check.keep(evaluated=True)
    run.network.train()
    with run.clocks.running("train"):
        for batch in batches_of(run):
            closure.batch = batch
            probes.before_step(batch)
            if progress.step == 0:
                make_first_step(run, closure)
            else:
                update.step(closure)
            progress.advance(batch)
            progress.count_products(optimizer.last_step)
            if run.averaged is not None:
                run.averaged.after_step()
            controller.observe(probes.after_step(batch))
            interrupt.agree()
            if is_timed:
                run.read_clock()
            due = evaluator.due()
            if due:
                check.wait()
            if "evaluate" in due:
                recorder.last_loss = check.value
            if "log" in due:
                log_step(run, closure, regularizers, recorder, display)
            schedule.step()
            regularizers.after_step()
            if due or interrupt.signal or recorder.cycle_ended:
                check.wait()
                if evaluator.pause(due):
                    return
                check.keep("evaluate" in due)


def make_first_step(run: Run, closure: TrainingClosure) -> None:
    """Makes the first step; refuses an optimizer that makes no gradients, or a state that checkpoints cannot hold."""
    without_gradients = f"optimizer: {type(run.optimizer).__name__}.step {NO_GRADIENTS}"
    try:
        run.update.step(closure)
    except (AttributeError, TypeError) as error:  # as of p.grad.sign()
        in_closure = any(frame.f_locals.get("self") is closure for frame, _ in walk_tb(error.__traceback__))
        if run.progress.gradients > 0 or in_closure or "NoneType" not in str(error):
            raise
        raise UserError(f"{without_gradients} ({one_line(error)}); {CALLING}") from error
    if run.progress.gradients == 0:
        raise UserError(f"{without_gradients}; {CALLING}")
    check_state(run.optimizer)


def log_step(
    run: Run, closure: TrainingClosure, regularizers: Regularizers, recorder: Recorder, display: Display
) -> None:
    """Writes and shows a row about the last step."""
    with run.clocks.running("other"):
        row = {
            **closure.values(),
            "lr": run.update.lr,
            "batch_size": closure.batch.size,
            **regularizers.report(closure.terms),
            **run.optimizer.last_step,
        }
        recorder.log_train(row, *closure.predictions())
        display.show_step(row, run.progress, run.clocks.seconds["train"])
