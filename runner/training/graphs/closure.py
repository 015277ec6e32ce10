"""A closure that replays forward pass, loss, backward pass and clipping as a CUDA graph."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from trainopt.data import Batch

from ...averaging.modes import equal
from ...state.objective import Output
from ...state.rng import rng_state
from ...state.run import Run
from ...state.snapshot import RunSnapshot
from ...system.errors import UserError, one_line
from ..closure import TrainingClosure
from ..divergence import FiniteCheck
from .capture import Capture

EAGER_STEPS = 2  # with batches of a shape, before its graph
MOST_GRAPHS = 4  # batches of further shapes stay eager
CLOSE = 1e-3  # of the largest element: where kernels are not deterministic, no two steps are bitwise the same


class Computed(NamedTuple):
    """What a pass computes from a batch."""

    total: Tensor  # the loss, a scalar
    terms: dict[str, Tensor]
    output: Tensor  # (B, ...)
    norm: Tensor | None  # of the gradient before it was clipped
    gradients: list[Tensor | None]  # by parameter

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields all by name."""
        yield "loss", self.total
        yield from self.terms.items()
        yield "output", self.output
        if self.norm is not None:
            yield "gradient norm", self.norm
        yield from ((f"gradient {k}", g) for k, g in enumerate(self.gradients) if g is not None)


@dataclass
class Graph:
    """A recorded pass: it takes what is in `inputs` and `targets`, and leaves its results in `computed`."""

    inputs: Tensor
    targets: Tensor
    computed: Computed
    replay: Callable[[], None]

    def run(self, batch: Batch) -> None:
        """Computes the results of a batch."""
        self.inputs.copy_(batch.inputs, non_blocking=True)
        self.targets.copy_(batch.targets, non_blocking=True)
        self.replay()


class GraphedClosure(TrainingClosure):
    """Replays a pass that was recorded, where there is one for batches of this shape.

    The first steps are eager. Then the pass is recorded, and replayed on the same batch; buffers, generators, loss,
    outputs and gradients must be those of an eager pass, bit for bit. The update of the weights follows eagerly, so
    every optimizer and every schedule makes it as ever.

    Args:
        run: the run that is trained; `reason_for_eager` knows nothing against it.
        check: as of `TrainingClosure`.
        capture: records passes.
        say: gets a line where steps stay eager, and why.
    """

    def __init__(self, run: Run, check: FiniteCheck, capture: Capture, say: Callable[[str], None]):
        super().__init__(run, check)
        self._run, self._capture, self._say = run, capture, say
        self._graphs: dict[Any, Graph] = {}
        self._steps: Counter[Any] = Counter()  # eager ones, by shape
        self._addresses: list[int] = []  # of the weights, which graphs read
        self._is_off = False

    def __call__(self, fraction: float = 1.0) -> Tensor:
        """Returns the loss, a scalar, as `TrainingClosure` does."""
        if self._is_off or fraction < 1 or not torch.is_grad_enabled():
            return super().__call__(fraction)
        batch = self.batch
        key = (batch.inputs.shape, batch.inputs.stride(), batch.inputs.dtype, batch.targets.shape, batch.targets.dtype)
        graph = self._graphs.get(key)
        if graph is not None:
            if self._addresses != [p.data_ptr() for p in self._parameters]:
                self._turn_off(f"{type(self._run.optimizer).__name__} puts other tensors in the place of weights")
                return super().__call__()
            graph.run(batch)
        elif self._steps[key] < EAGER_STEPS or len(self._graphs) == MOST_GRAPHS:
            self._steps[key] += 1
            return super().__call__()
        else:
            graph = self._record(batch)
            if graph is None:
                return super().__call__()
            self._graphs[key] = graph
            self._addresses = [p.data_ptr() for p in self._parameters]
        return self._finish(graph.computed)

    def _finish(self, computed: Computed) -> Tensor:
        """Sets gradients and attributes, checks them, and counts."""
        self.total, self.terms, self.output, norm, gradients = computed
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.finite.begin(self.total):
            self.finite.finish()
        if norm is not None:
            self.gradient_norm = self.finite.look_at_norm(norm)
        else:
            self.finite.look_at([g for g in gradients if g is not None])
        self._progress.gradients += 1
        self._progress.samples += self.batch.size
        return self.total

    def predictions(self) -> tuple[Output, Tensor]:
        """Returns copies of the outputs and targets of the whole batch: the next step writes over them."""
        return cast(Tensor, self.output).clone(), self.batch.targets.clone()

    def _compute(self, inputs: Tensor, targets: Tensor) -> Computed:
        """Computes a pass, which leaves no graph of autograd."""
        for parameter in self._parameters:
            parameter.grad = None
        batch = self.batch._replace(inputs=inputs, targets=targets)
        if self._in_parts:
            total = self._accumulate(batch)
            terms, output = self.terms, cast(Tensor, self.output)
        else:
            total, terms, whole = self._objective(inputs, targets)
            output = cast(Tensor, whole)
            total.backward()
        norm = self._gradient.clip(self._parameters) if self._clips else None
        terms = {name: term.detach() for name, term in terms.items()}
        return Computed(total.detach(), terms, output.detach(), norm, [p.grad for p in self._parameters])

    def _record(self, batch: Batch) -> Graph | None:
        """Returns the recorded pass, whose results are those of the batch; None where steps stay eager.

        Raises:
            UserError: they must not.
        """
        before = RunSnapshot(self._run)
        try:
            return self._recorded(batch, before)
        except (RuntimeError, ValueError) as error:
            before.restore_pass()
            reason = one_line(first_of(error))
        self._turn_off(reason)
        return None

    def _turn_off(self, reason: str) -> None:
        """Lets all further steps be eager, or raises UserError where they must not be."""
        self._is_off = True
        self._graphs.clear()
        if self._run.cuda_graph is True:
            raise UserError(f"cuda_graph=true: {reason}; give cuda_graph=auto or false")
        self._say(f"note: cuda_graph=auto: steps stay eager: {reason}")

    def _recorded(self, batch: Batch, before: RunSnapshot) -> Graph:
        inputs, targets = batch.inputs.clone(), batch.targets.clone()

        def compute() -> Computed:
            return self._compute(inputs, targets)

        def observed() -> tuple[list[tuple[str, Tensor]], dict[str, Any]]:
            """Returns copies of what a pass computed and changed, and the state of the host's generators."""
            return self._observed(compute())

        # Nodes that accumulate gradients belong to the stream on which they were made: those of the last step go.
        self.total, self.terms = self.total.detach(), {name: term.detach() for name, term in self.terms.items()}
        self.output = cast(Tensor, self.output).detach()
        host = self._generators()[1]
        eager, host_after = observed()
        if not equal(host, host_after):
            raise ValueError("the network draws random numbers of the host, or the loss does")
        before.restore_pass()
        again, _ = observed()
        before.restore_pass()
        self._capture.warm_up(compute)
        before.restore_pass()
        computed, replay = self._capture.record(compute)
        before.restore_pass()
        replay()
        check_same(eager, again, self._observed(computed)[0])
        return Graph(inputs, targets, computed, replay)

    def _observed(self, computed: Computed) -> tuple[list[tuple[str, Tensor]], dict[str, Any]]:
        state, host = self._generators()
        named = [*computed.tensors(), *self._run.network.named_buffers(), ("state of the generator", state)]
        return [(name, value.clone()) for name, value in named], host

    def _generators(self) -> tuple[Tensor, dict[str, Any]]:
        """Returns the state of the device's generator, and those of the others."""
        states = rng_state(self._run.device)
        device = states.pop("cuda")
        return (states.pop("torch") if device is None else device), states


def first_of(error: BaseException) -> BaseException:
    """Returns the error that an error followed from: one that ends a record hides what led to it."""
    while isinstance(error.__context__, Exception):
        error = error.__context__
    return error


def check_same(
    eager: list[tuple[str, Tensor]], again: list[tuple[str, Tensor]], replayed: list[tuple[str, Tensor]]
) -> None:
    """Raises ValueError if a replayed pass is another one than an eager pass.

    Args:
        eager: values of an eager pass, by name.
        again: those of another one; where the two differ, the replay may differ by a little.
        replayed: values of the replay.
    """
    for (name, one), (_, two), (_, replay) in zip(eager, again, replayed, strict=True):
        if torch.equal(one, replay):
            continue
        is_deterministic = torch.equal(one, two)
        if is_deterministic or (one - replay).abs().max() > CLOSE * one.abs().max():
            raise ValueError(f"the replayed {name} is not that of an eager step")
