"""The Gram matrix of the per-sample gradients of a step, computed once for all probes."""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainopt.data import Batch
from trainopt.optimizers.per_sample.buffers import Buffers
from trainopt.optimizers.per_sample.form_benchmark import FormBenchmark
from trainopt.optimizers.per_sample.gram import mixes_samples, own_loss_gram
from trainopt.optimizers.per_sample.recorder import GramRecorder

from ..state.run import Run

ROWS = ("batch", "own_loss")


class StepGram:
    """G = J J^T (B, B), where row i of J is the gradient of sample i with respect to all trained parameters.

    With rows="batch", row i is B times the part of sample i in the gradient of the batch's loss: with batch norm in
    training mode it includes the influence of the sample on the others through the statistics. It is recorded in
    the first forward and backward pass that the step makes itself. Where that cannot be recorded (the optimizer has
    `needs_graph`, or compile=true), an extra pass is made before the step, uncompiled and with the step's dropout
    mask: it costs a gradient.

    With rows="own_loss", row i is the gradient of sample i's own loss, from extra passes.

    Both are without regularizers and weight decay.

    Args:
        run: built.
        rows: "batch" or "own_loss".
        benchmark: time the forms of each layer on the first two matrices, and use the fastest from then on; otherwise
            a fixed table of shapes says the form.
        share_gradients: the step takes the gradients of convolutions' weights from the rows.

    Attributes:
        records_step: whether it records the step's own pass.
        options: `benchmark` and `share_gradients`.

    Raises:
        ValueError: the network is a test function, or has a layer without per-sample gradients; or `benchmark` or
            `share_gradients` is not for this run.
    """

    def __init__(self, run: Run, rows: str, benchmark: bool = False, share_gradients: bool = False):
        if run.objective.returns_loss:
            raise ValueError("measures per-sample gradients, and a test function has no samples; leave it out")
        if rows == "own_loss" and not run.objective.loss.gives_samples:
            raise ValueError("rows=own_loss: the objective returns a scalar, and not the loss of each sample")
        if benchmark and torch.are_deterministic_algorithms_enabled():
            raise ValueError("benchmark=true: timing changes the last bits; give false with deterministic=true")
        if benchmark and run.batching.needs_probe is not None:
            raise ValueError("benchmark=true: timing changes the last bits, on which batching depends; give false")
        self._run, self._rows = run, rows
        trained: Any = run.objective.network  # the head of the network, where features are stored
        is_part = any(trained is module for module in run.network.modules())
        self._network = trained if is_part else run.network  # not its compiled form
        self._forms = FormBenchmark() if benchmark else None
        if not run.shard.is_whole and mixes_samples(self._network.train()):
            if rows == "own_loss":
                raise ValueError(
                    "rows=own_loss: with batch norm it takes a pass for each sample of all processes; give"
                    " rows=batch, or train on one process"
                )
            if run.batch_norm == "local":
                raise ValueError("batch_norm=local: a row depends on one process's part of the batch; give global")
        self.options = {"benchmark": benchmark, "share_gradients": share_gradients}
        self._recorder = GramRecorder(
            self._network, benchmark=self._forms, shard=run.shard, share_gradients=share_gradients
        )
        self._observation = ExitStack()  # of the objective, until the step's first pass is recorded
        self._is_recording = False
        self._step: int | None = None
        self._gram: Tensor | None = None
        has_own_passes = {
            "rows=own_loss": rows != "batch",
            "an optimizer that differentiates the gradient": run.optimizer.needs_graph,
            "compile": run.compiled,
            "gradient.accumulation_steps": run.gradient.accumulation_steps > 1,
        }
        self.records_step = not any(has_own_passes.values())
        if share_gradients and not self.records_step:
            reason = next(what for what, holds in has_own_passes.items() if holds)
            raise ValueError(f"share_gradients=true: with {reason} the step's own pass is not measured; give false")
        if share_gradients and not run.shard.is_whole:
            raise ValueError("share_gradients=true: several processes train the run; give false")

    @classmethod
    def of(cls, run: Run, rows: str, **options: bool) -> "StepGram":
        """Returns the object that the probes of a run share.

        Args:
            run: as of the class.
            rows: as of the class.
            options: `benchmark` and `share_gradients`.

        Raises:
            ValueError: another probe that shares it has other options.
        """
        if rows not in run.step_grams:
            run.step_grams[rows] = cls(run, rows, **options)
        shared = run.step_grams[rows]
        for name, value in options.items():
            if value != shared.options[name]:
                one, other = (str(b).lower() for b in (value, not value))
                raise ValueError(f"{name}={one}: another probe with rows={rows} has {other}; give both the same")
        return shared

    def state_dict(self) -> dict[str, Any]:
        """Returns `forms`, what was timed; nothing where the table says the forms."""
        return {} if self._forms is None else {"forms": self._forms.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a probe's state, which holds what `state_dict` returned."""
        if self._forms is not None and "forms" in state:
            self._forms.load_state_dict(state["forms"])

    def prepare(self, batch: Batch) -> None:
        """Begins to record the step that follows, or makes the extra passes."""
        if self._step == self._run.progress.step:
            return  # another probe has called it already
        self._step, self._gram = self._run.progress.step, None
        if self.records_step:
            self._record_first_pass(len(batch.inputs))
        else:
            self._gram = self._from_extra_passes(batch)

    def matrix(self, batch: Batch) -> Tensor:
        """Returns G after the step; nan where the step made no pass with gradients on the whole batch."""
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

    def _from_extra_passes(self, batch: Batch) -> Tensor:
        """Returns G from passes that change nothing in the run."""
        run = self._run
        eager: AbstractContextManager = torch.compiler.set_stance("force_eager") if run.compiled else nullcontext()
        with eager:
            if self._rows == "own_loss":
                run.begin(batch)
                losses = partial(run.objective.of_samples, batch.inputs, batch.targets)
                return own_loss_gram(self._network, losses, benchmark=self._forms, shard=run.shard)
            buffers = Buffers(run.network)
            self._recorder.record(lambda: run.loss(batch))
            buffers.restore()
        return self._recorder.gram()


def check_rows(rows: str) -> None:
    """Raises ValueError unless `rows` is one of ROWS."""
    if rows not in ROWS:
        raise ValueError(f"rows={rows}: must be one of {', '.join(ROWS)}")
