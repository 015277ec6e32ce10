"""Steps of EHNewton as CUDA graphs: forward pass, products, direction and update are one graph."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from trainopt.optimizers import EMA, EHNewton, RecordedStep

from ..closure import TrainingClosure
from .closure import Computed, GraphedClosure, shape_of
from .updates import EMAUpdate, Number, Step, Update, WholeUpdate


class SecondOrderUpdate(Update):
    """What EHNewton changes in its step; the step itself is computed with the loss.

    Args:
        optimizer: has made a step.

    Raises:
        ValueError: no graph can hold its steps.
    """

    def __init__(self, optimizer: EHNewton):
        reason = optimizer.reason_to_read()
        if reason is not None:
            raise ValueError(reason)
        self._optimizer = optimizer
        like = torch.zeros((), dtype=torch.float64, device=optimizer.param_groups[0]["params"][0].device)
        self._rates = [Number([like]) for _ in optimizer.param_groups]

    @contextmanager
    def rates_on_device(self) -> Iterator[None]:
        """Lets the learning rates be the numbers that `prepare` sets, while entered."""
        groups = self._optimizer.param_groups
        rates = [group["lr"] for group in groups]
        try:
            for group, rate in zip(groups, self._rates, strict=True):
                group["lr"] = rate.scalar
            yield
        finally:
            for group, value in zip(groups, rates, strict=True):
                group["lr"] = value

    def prepare(self) -> None:
        """Sets the learning rates, which must be allowed ones."""
        self._optimizer.check_step()
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            rate.set(group["lr"])

    def apply(self) -> None:
        """Does nothing: the step is made."""

    def eager(self, step: Step, loss: Tensor) -> None:
        """Does nothing: the step is made."""

    def finish(self) -> None:
        """Counts the step."""
        self._optimizer.count_step()

    def constants(self) -> Any:
        """Returns the options that a graph repeats."""
        left = ("params", "lr", "initial_lr")
        return [value for group in self._optimizer.param_groups for key, value in group.items() if key not in left]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields weights and state."""
        state = self._optimizer.state
        params = [p for group in self._optimizer.param_groups for p in group["params"]]
        yield from ((f"weight {k}", p.detach()) for k, p in enumerate(params))
        for k, p in enumerate(params):
            yield from ((f"{key} {k}", v) for key, v in state.get(p, {}).items() if isinstance(v, Tensor))

    def snapshot(self) -> Callable[[], None]:
        """Returns what sets weights and state back, with what the host counts in it."""
        restore_tensors, state = super().snapshot(), self._optimizer.state
        before = {p: dict(of_param) for p, of_param in state.items()}

        def restore() -> None:
            for p, of_param in state.items():
                of_param.clear()
                of_param.update(before.get(p, {}))
            restore_tensors()

        return restore


class SecondOrderClosure(GraphedClosure):
    """Replays whole steps of EHNewton; those that must read numbers, as where K-FAC's factors change, are eager."""

    _optimizer: EHNewton

    def _new_updates(self, average: EMA | None) -> list[WholeUpdate]:
        self._step_update = SecondOrderUpdate(cast(EHNewton, self._run.optimizer))
        return [WholeUpdate([self._step_update, *([] if average is None else [EMAUpdate(average)])])]

    def _replay_whole(self, step: Step) -> bool:
        return not cast(EHNewton, self._run.optimizer).reads_next() and super()._replay_whole(step)

    def __call__(self, fraction: float = 1.0) -> Tensor:
        """Returns the loss, a scalar with its graph, as `TrainingClosure` does."""
        if fraction == 1 and torch.is_grad_enabled():
            self._steps[shape_of(self.batch)] += 1
        return TrainingClosure.__call__(self, fraction)

    def _leave_update(self, reason: str) -> None:
        self._updates = []
        self._turn_off(reason)

    def _places(self) -> list[int]:
        return [value.data_ptr() for _, value in self._step_update.tensors()]

    def _finish(self, computed: Computed) -> Tensor:
        recorded = cast(RecordedStep, computed.recorded)
        self.total, self.terms, self.output = computed[:3]
        self.finite.begin(self.total)
        self.finite.look_at([recorded.finite.clone()])
        self.finite.later(recorded.numbers, partial(self._report, recorded))
        self._progress.gradients += 1
        self._progress.samples += self.batch.size
        self._run.optimizer.last_step = {}  # until its numbers are read
        return self.total

    def _report(self, recorded: RecordedStep, values: list[float]) -> None:
        """Counts the products of a step, whose numbers have been read."""
        self._run.optimizer.last_step = report = recorded.report(values)
        self._progress.count_products(report)

    def _loss(self, inputs: Tensor, targets: Tensor) -> Callable[..., Tensor]:
        """Returns the closure of a batch, which sets `total`, `terms` and `output`."""
        batch = self.batch._replace(inputs=inputs, targets=targets)

        def closure(fraction: float = 1.0) -> Tensor:
            if fraction < 1:
                return self._value(batch, fraction)
            self.total, self.terms, self.output = self._objective(inputs, targets)
            return self.total

        return closure

    def _taken(self, recorded: RecordedStep | None) -> Computed:
        """Returns what the last call of a closure has computed, without its graph."""
        self.total = self.total.detach()
        self.terms = {name: term.detach() for name, term in self.terms.items()}
        self.output = output = cast(Tensor, self.output).detach()
        return Computed(self.total, self.terms, output, None, [], recorded)

    def _compute(self, inputs: Tensor, targets: Tensor, update: WholeUpdate | None) -> Computed:
        with self._step_update.rates_on_device():
            recorded = cast(EHNewton, self._run.optimizer).record(self._loss(inputs, targets))
        with torch.no_grad():
            cast(WholeUpdate, update).apply()
        return self._taken(recorded)

    def _compute_eagerly(
        self, inputs: Tensor, targets: Tensor, update: WholeUpdate | None, step: Step | None
    ) -> list[tuple[str, Tensor]]:
        closure = self._loss(inputs, targets)
        cast(WholeUpdate, update).eager(lambda _: cast(Step, step)(closure), self.batch.inputs)
        values = [(name, value.clone()) for name, value in self._taken(None).tensors()]
        return [*values, *named(self._run.optimizer.last_step)]

    def _values(self, computed: Computed) -> list[tuple[str, Tensor]]:
        recorded = cast(RecordedStep, computed.recorded)
        values = [(name, value.clone()) for name, value in computed._replace(recorded=None).tensors()]
        return [*values, *named(recorded.report(recorded.numbers.tolist()))]


def named(report: Any) -> list[tuple[str, Tensor]]:
    """Returns the values of a report, which are numbers, as tensors by name."""
    return [(name, torch.tensor(value, dtype=torch.float64)) for name, value in sorted(report.items())]
