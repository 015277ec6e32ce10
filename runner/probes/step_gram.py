"""The Gram matrix of a step's gradients, one a sample: recorded once for all probes that ask for it."""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor

from trainopt.data import Batch
from trainopt.optimizers.per_sample.buffers import Buffers
from trainopt.optimizers.per_sample.gram import own_loss_gram
from trainopt.optimizers.per_sample.kernels import kernel_problem
from trainopt.optimizers.per_sample.recorder import GramRecorder

from ..state.run import Run

ROWS = ("batch", "own_loss")


class StepGram:
    """G = J J^T (B, B), where row i of J is the gradient of sample i, over all parameters that are trained.

    With rows="batch", row i is B times sample i's part of the gradient of the batch's loss: with batch norm in
    training mode it holds what the sample does to the others through the statistics. G is then that of the first
    pass, forward and back, that the step makes itself. Where there is none to record (the optimizer says
    `needs_graph`, or compile=true), a pass is made at the step's start, uncompiled and with the step's dropout
    mask: a gradient more.

    With rows="own_loss", row i is the gradient of sample i's own loss; this takes passes of its own, too.

    Regularizers and weight decay are in neither.

    Args:
        run: built.
        rows: "batch" or "own_loss".

    Attributes:
        records_step: whether it records the step's pass.

    Raises:
        ValueError: the network is no function of images, or has a layer of which no rows can be taken.
    """

    def __init__(self, run: Run, rows: str):
        if run.objective.returns_loss:
            raise ValueError("measures a gradient a sample, and a test function has no samples; leave it out")
        self._run, self._rows = run, rows
        called: Any = run.objective.network  # a part of the network where features are kept
        is_part = any(called is module for module in run.network.modules())
        self._called = called if is_part else run.network  # not the compiled form
        self._recorder = GramRecorder(self._called)
        missing = kernel_problem() if run.device.type == "cpu" else None
        if missing is not None:
            run.notes.append(f"no kernels for gradients a sample ({missing}); PyTorch's own are used")
        self._observation = ExitStack()  # of the objective, until the step's first pass is recorded
        self._is_recording = False
        self._step: int | None = None
        self._gram: Tensor | None = None
        passes_itself = run.optimizer.needs_graph or run.compiled
        self.records_step = rows == "batch" and not passes_itself

    @classmethod
    def of(cls, run: Run, rows: str) -> "StepGram":
        """Returns the one that the probes of a run share."""
        if rows not in run.step_grams:
            run.step_grams[rows] = cls(run, rows)
        return run.step_grams[rows]

    def watch(self, batch: Batch) -> None:
        """Before a step: see to it that there will be its matrix."""
        if self._step == self._run.progress.step:
            return  # another probe has asked already
        self._step, self._gram = self._run.progress.step, None
        if self.records_step:
            self._record_first_pass(batch.size)
        else:
            self._gram = self._passed(batch)

    def taken(self, batch: Batch) -> Tensor:
        """After the step: return G; nan where the step made no pass with gradients on the whole batch."""
        self._end_recording()
        if self._gram is None:
            self._gram = torch.full((batch.size, batch.size), torch.nan)
        return self._gram

    def _record_first_pass(self, size: int) -> None:
        """Records from the next forward pass with gradients on so many samples to the pass after it."""

        def before_forward(inputs: Tensor) -> None:
            if self._is_recording:
                self._end_recording()
            elif torch.is_grad_enabled() and len(inputs) == size:
                self._recorder.begin()
                self._is_recording = True

        self._observation.enter_context(self._run.objective.observed(before_forward))

    def _end_recording(self) -> None:
        self._observation.close()
        if self._is_recording:
            self._recorder.end()
            self._gram, self._is_recording = self._recorder.gram(), False

    def _passed(self, batch: Batch) -> Tensor:
        """Returns G from passes that leave no trace."""
        run = self._run
        eager: AbstractContextManager = torch.compiler.set_stance("force_eager") if run.compiled else nullcontext()
        with eager:
            if self._rows == "own_loss":
                return own_loss_gram(self._called, lambda: run.objective.of_samples(batch.inputs, batch.targets))
            buffers, params = Buffers(run.network), [p for p in run.network.parameters() if p.requires_grad]
            with self._recorder.recording():
                loss = run.objective(batch.inputs, batch.targets)[0]
                torch.autograd.grad(loss, params, allow_unused=True)
            buffers.restore()
        return self._recorder.gram()


def check_rows(rows: str) -> None:
    """Raises ValueError where the rows are none of ROWS."""
    if rows not in ROWS:
        raise ValueError(f"rows={rows}: must be one of {', '.join(ROWS)}")
