"""A closure that replays forward pass, loss, backward pass, clipping and, where it can, the update as a CUDA graph."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from trainopt.data import Batch
from trainopt.optimizers import EMA, RecordedStep

from ...averaging.modes import equal
from ...state.objective import Output
from ...state.rng import rng_state
from ...state.run import Run
from ...state.snapshot import RunSnapshot
from ...system.errors import UserError, one_line
from ..closure import TrainingClosure
from ..divergence import FiniteCheck
from .capture import Capture
from .updates import Step, WholeUpdate, updates_of

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
    recorded: RecordedStep | None = None  # of an optimizer that makes the step from the loss on

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields all by name."""
        yield "loss", self.total
        yield from self.terms.items()
        yield "output", self.output
        if self.norm is not None:
            yield "gradient norm", self.norm
        yield from ((f"gradient {k}", g) for k, g in enumerate(self.gradients) if g is not None)
        if self.recorded is not None:
            yield "finite numbers", self.recorded.finite
            yield "numbers", self.recorded.numbers


@dataclass
class Graph:
    """A recorded pass: it takes what is in `inputs` and `targets`, and leaves its results in `computed`."""

    inputs: Tensor
    targets: Tensor
    computed: Computed
    replay: Callable[[], None]
    update: WholeUpdate | None  # that is a part of it

    def run(self, batch: Batch) -> None:
        """Computes the results of a batch."""
        self.inputs.copy_(batch.inputs, non_blocking=True)
        self.targets.copy_(batch.targets, non_blocking=True)
        self.replay()


class GraphedClosure(TrainingClosure):
    """Replays a pass that was recorded, where there is one for batches of this shape.

    The first steps are eager. Then the step is recorded, and replayed on the same batch; buffers, generators, loss,
    outputs, gradients, weights, the state of the optimizer and the average must be those of an eager step, bit for bit.
    Where the update is none that a graph can hold, or must wait for the check, the pass alone is recorded; the update
    follows eagerly, so every optimizer makes it as ever.

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
        self._updates: list[WholeUpdate] | None = None if check.follows_update else []  # to be tried; None: not known

    def replaying(self, step: Step) -> Step:
        """Returns what makes a step of the run: it replays the whole where that is recorded.

        Args:
            step: of the optimizer, which makes all others.
        """

        def replay_or_step(closure: Any) -> Any:
            if closure is self and self._replay_whole(step):
                return self.total
            return step(closure)

        return replay_or_step

    def _replay_whole(self, step: Step) -> bool:
        """Makes a step by a graph that holds the update, which may be recorded here; returns whether there is one."""
        if self._is_off or self._updates == []:
            return False
        key = shape_of(self.batch)
        graph = self._graphs.get(key)
        if graph is None:
            if self._is_eager(key):
                return False
            graph = self._record_whole(self.batch, step)
            if graph is None:
                return False
            self._keep(key, graph)
        else:
            update = cast(WholeUpdate, graph.update)
            if update.constants() != update.recorded:
                self._leave_update("options of the optimizer change that a graph repeats")
                return False
            if not self._are_in_place():
                return False
            update.prepare()
            graph.run(self.batch)
        self._finish(graph.computed)  # it may find that a step before was not finite: nothing is counted then
        cast(WholeUpdate, graph.update).finish()
        return True

    def _record_whole(self, batch: Batch, step: Step) -> Graph | None:
        """Returns the recorded step, which is made; None where the update stays eager."""
        before = RunSnapshot(self._run)
        reason = ""
        try:
            if self._updates is None:
                average = self._run.averaged and self._run.averaged.averaging
                self._updates = self._new_updates(average if isinstance(average, EMA) else None)
        except ValueError as error:
            self._updates, reason = [], str(error)
        for update in self._updates:
            restore_update = update.snapshot()

            def restore(restore_update: Callable[[], None] = restore_update) -> None:
                before.restore_pass()
                restore_update()

            try:
                graph = self._recorded(batch, restore, update, step)
            except FloatingPointError:
                restore()
                return None  # the eager step that follows raises it
            except (RuntimeError, ValueError) as error:
                restore()
                reason = one_line(first_of(error))
            else:
                self._updates = [update]
                return graph
        self._leave_update(reason)
        return None

    def _new_updates(self, average: EMA | None) -> list[WholeUpdate]:
        """Returns the updates to be tried.

        Raises:
            ValueError: no graph can hold one.
        """
        return updates_of(self._run.optimizer, average)

    def _leave_update(self, reason: str) -> None:
        """Lets all further updates be eager."""
        self._updates = []
        self._graphs = {key: graph for key, graph in self._graphs.items() if graph.update is None}
        self._say(f"note: cuda_graph={str(self._run.cuda_graph).lower()}: updates stay eager: {reason}")

    def _is_eager(self, key: Any) -> bool:
        """Returns whether a step with batches of a shape is eager yet, or for good."""
        return self._steps[key] < EAGER_STEPS or len(self._graphs) == MOST_GRAPHS

    def _keep(self, key: Any, graph: Graph) -> None:
        self._graphs[key] = graph
        self._addresses = self._places()

    def _places(self) -> list[int]:
        """Returns the addresses of what graphs change."""
        return [p.data_ptr() for p in self._parameters]

    def _are_in_place(self) -> bool:
        """Returns whether weights are where graphs read them; if not, steps are eager from here on."""
        if self._addresses == self._places():
            return True
        self._turn_off(f"{type(self._run.optimizer).__name__} puts other tensors in the place of weights")
        return False

    def __call__(self, fraction: float = 1.0) -> Tensor:
        """Returns the loss, a scalar, as `TrainingClosure` does."""
        if self._is_off or fraction < 1 or not torch.is_grad_enabled():
            return super().__call__(fraction)
        batch = self.batch
        key = shape_of(batch)
        graph = self._graphs.get(key)
        if graph is not None:
            if not self._are_in_place():
                return super().__call__()
            graph.run(batch)
        elif self._is_eager(key):
            self._steps[key] += 1
            return super().__call__()
        else:
            graph = self._record(batch)
            if graph is None:
                return super().__call__()
            self._keep(key, graph)
        return self._finish(graph.computed)

    def _finish(self, computed: Computed) -> Tensor:
        """Sets gradients and attributes, checks them, and counts."""
        self.total, self.terms, self.output, norm, gradients, _ = computed
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

    def _compute(self, inputs: Tensor, targets: Tensor, update: WholeUpdate | None) -> Computed:
        """Computes a pass, and makes the update if there is one; leaves no graph of autograd."""
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
        if update is not None:
            with torch.no_grad():
                update.apply()
        return Computed(total.detach(), terms, output.detach(), norm, [p.grad for p in self._parameters])

    def _compute_eagerly(
        self, inputs: Tensor, targets: Tensor, update: WholeUpdate | None, step: Step | None
    ) -> list[tuple[str, Tensor]]:
        """Returns copies of what an eager step computes; the update is made by the optimizer."""
        values = [(name, value.clone()) for name, value in self._compute(inputs, targets, None).tensors()]
        if update is not None:
            update.eager(cast(Step, step), values[0][1])
        return values

    def _values(self, computed: Computed) -> list[tuple[str, Tensor]]:
        """Returns copies of the same of a replay."""
        return [(name, value.clone()) for name, value in computed.tensors()]

    def _record(self, batch: Batch) -> Graph | None:
        """Returns the recorded pass, whose results are those of the batch; None where steps stay eager.

        Raises:
            UserError: they must not.
        """
        before = RunSnapshot(self._run)
        try:
            return self._recorded(batch, before.restore_pass)
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

    def _recorded(
        self,
        batch: Batch,
        restore: Callable[[], None],
        update: WholeUpdate | None = None,
        step: Step | None = None,
    ) -> Graph:
        """Returns a pass that was recorded, with an update if there is one, and replayed once.

        Args:
            batch: to record it with.
            restore: sets to the state before the step what passes and updates change.
            update: that is recorded.
            step: of the optimizer, which makes the same update.

        Raises:
            RuntimeError: it cannot be recorded.
            ValueError: its replay is not an eager step.
        """
        inputs, targets = batch.inputs.clone(), batch.targets.clone()

        def compute() -> Computed:
            return self._compute(inputs, targets, update)

        def eager() -> list[tuple[str, Tensor]]:
            """Returns copies of what an eager pass computes, and of what pass and update change."""
            return [*self._compute_eagerly(inputs, targets, update, step), *self._changed(update)]

        # Nodes that accumulate gradients belong to the stream on which they were made: those of the last step go.
        self.total, self.terms = self.total.detach(), {name: term.detach() for name, term in self.terms.items()}
        self.output = cast(Tensor, self.output).detach()
        if update is not None:
            update.prepare()
        host = self._generators()[1]
        one = eager()
        if not equal(host, self._generators()[1]):
            raise ValueError("the network draws random numbers of the host, or the loss does")
        restore()
        other = eager()
        restore()
        self._capture.warm_up(compute)
        restore()
        computed, replay = self._capture.record(compute)
        restore()
        replay()
        check_same(one, other, [*self._values(computed), *self._changed(update)])
        return Graph(inputs, targets, computed, replay, update)

    def _changed(self, update: WholeUpdate | None) -> list[tuple[str, Tensor]]:
        """Returns copies of what a pass changes, and an update."""
        named = [*self._run.network.named_buffers(), ("state of the generator", self._generators()[0])]
        return [(name, value.detach().clone()) for name, value in (*named, *(update.tensors() if update else ()))]

    def _generators(self) -> tuple[Tensor, dict[str, Any]]:
        """Returns the state of the device's generator, and those of the others."""
        states = rng_state(self._run.device)
        device = states.pop("cuda")
        return (states.pop("torch") if device is None else device), states


def shape_of(batch: Batch) -> Any:
    """Returns what batches have in common that one graph can process."""
    return batch.inputs.shape, batch.inputs.stride(), batch.inputs.dtype, batch.targets.shape, batch.targets.dtype


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
        if is_deterministic or not (one - replay).abs().max() <= CLOSE * one.abs().max():
            raise ValueError(f"the replayed {name} is not that of an eager step")
