"""Whether the steps of a run can be replayed as CUDA graphs."""

from collections.abc import Callable

import torch

from trainopt.optimizers import L2

from ...objectives.loss import OwnLoss
from ...state.run import Run
from ...system.errors import UserError
from ..closure import TrainingClosure
from ..divergence import FiniteCheck, reason_to_read, reason_to_wait
from ..sharded import ShardedClosure
from .capture import CudaCapture
from .closure import GraphedClosure
from .second_order import SecondOrderClosure

GRAPHS_ON = ("cuda",)  # types of devices


def reason_for_eager(run: Run) -> str | None:
    """Returns why no graph can be recorded of a run's steps, or None where one may be tried."""
    reasons = {
        "CUDA graphs need a GPU": run.device.type not in GRAPHS_ON,
        "probes look into single steps": bool(run.probes),
        "a regularizer may change from step to step": any(
            type(r) is not L2 for r, _ in run.objective.regularizers.values()
        ),
        "a loss of your own may change from step to step": isinstance(run.objective.loss, OwnLoss),
        "a test function is no network": run.objective.returns_loss,
        "precision=fp16 changes the scale of the loss": run.scaling is not None,
        "compile=true has graphs of its own": run.compiled,
        "several processes exchange gradients": run.ranks.size > 1,
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is not None or not run.optimizer.needs_graph:
        return reason
    reason, waits = reason_to_read(run.optimizer), reason_to_wait(run)
    return reason or (None if waits is None else f"each step must wait: {waits}")


def check_graphs(run: Run) -> None:
    """Refuses cuda_graph=true where there can be no graph; notes that for cuda_graph=auto."""
    reason = reason_for_eager(run) if run.cuda_graph else None
    if reason is None:
        return
    if run.cuda_graph is True:
        raise UserError(f"cuda_graph=true: {reason}; give cuda_graph=auto or false")
    run.notes.append(f"cuda_graph=auto: steps are eager: {reason}")


def closure_of(run: Run, check: FiniteCheck, say: Callable[[str], None]) -> TrainingClosure:
    """Returns the closure of a run.

    Args:
        run: the run.
        check: of its losses and gradients.
        say: gets a line where steps stay eager.
    """
    if run.ranks.size > 1:
        return ShardedClosure(run, check)
    if not run.cuda_graph or reason_for_eager(run) is not None:
        return TrainingClosure(run, check)
    graphed = SecondOrderClosure if run.optimizer.needs_graph else GraphedClosure
    closure = graphed(run, check, new_capture(run.device), say)
    run.update.made_by(closure.replaying)
    return closure


def new_capture(device: torch.device) -> CudaCapture:
    """Returns what records graphs on a device."""
    return CudaCapture(device)
