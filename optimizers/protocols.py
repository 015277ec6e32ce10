"""What optimizers, schedules and regularizers are made of: the contracts between them and a run.

A class that a configuration names need not derive from these. Members that are abstract, or have no value here, it
must have; what it leaves out of the others is as it stands here. A run is refused where a member is missing or
misspelt.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor, nn


class Optimizer(Protocol):
    """Updates the parameters: any `torch.optim.Optimizer`, or another class with these members.

    It is built with the parameters as its first argument. The closure that it calls clears `p.grad` before the
    forward pass, as `zero_grad()` does; an optimizer whose `zero_grad` does more must call it in `step`.

    Attributes:
        param_groups: groups of parameters, each a dict of `params` and their options, as `lr`.
        needs_graph: whether the closure leaves `backward` to the optimizer, and returns the loss with its graph.
        takes_shard: whether, with `needs_graph`, it takes part in a run on several processes: it then differentiates
            what is `shard`, a `trainopt.optimizers.Shard` that the run sets before the first step.
        sets_lr: whether it computes its learning rate itself; only schedule=constant is allowed then.
        needs_loss_function: whether the loss must be one of torch.nn.functional, of a network's outputs (cross_entropy,
            mse_loss, …): neither a test function nor every loss of the user can then be minimised.
        last_step: values of the last step, by name; each is written into the training rows. `hvps`
            (Hessian-vector products) and `gradient_equivalents` (what it computed beside gradients, in gradients)
            are added up over the run.
    """

    param_groups: list[dict[str, Any]]
    needs_graph: bool = False
    takes_shard: bool = False
    sets_lr: bool = False
    needs_loss_function: bool = False
    last_step: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def step(self, closure: Callable[..., Tensor]) -> Any:
        """Makes one update.

        Args:
            closure: returns the loss (a scalar) of the current batch at the present parameters, with gradients in
                `p.grad` unless `needs_graph`. `closure(0.5)` is the loss of the first half of the batch.

        Raises:
            FloatingPointError: there is no finite update; parameters and state are as they were, and the run ends as
                diverged.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns all that the next steps depend on, as tensors and plain values: a part of checkpoints."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Goes on from what `state_dict` returned."""

    def train(self) -> None:
        """Gives the parameters the values that are trained; called before the first step, and after each `eval`."""

    def eval(self) -> None:
        """Gives the parameters the values to evaluate, as an average of those that are trained.

        An optimizer with `eval` and `train`, as a schedule-free one, is evaluated there. Afterwards the parameters get
        back what they had, bit for bit; what else `state_dict` returns must be as it was after `eval` and `train`.
        """


class Averaging(Protocol):
    """An average of the weights of a run, which evaluations take in their place.

        optimizer.step(closure)
        averaging.after_step()
        averaging.apply()                    the network has the average, and afterwards its weights again
        evaluate

    It may take the arguments `network`, `progress` (`progress.elapsed("2epochs")` is how many such durations have
    passed), and with them what its options are.

    Attributes:
        count: how many weights the average is of; 0: there is none yet, and evaluations take the weights.
        batch_norm_batches: from how many training batches the running statistics of batch norm are recomputed for the
            average; None: from those of an epoch; 0: they are not, as `apply` sets them.
        start: after which fraction of the run, or duration, there is an average.
    """

    count: int
    batch_norm_batches: int | None = 0
    start: float | str = 0.0

    @abstractmethod
    def after_step(self) -> None:
        """Follows a step."""

    @abstractmethod
    def apply(self) -> None:
        """Sets weights and buffers of the network to the average; what it had is restored afterwards."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns its state but for the average itself, as tensors and plain values: a part of checkpoints."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Goes on from what `state_dict` returned; where there was an average, the network has it meanwhile."""


class Schedule(Protocol):
    """Sets the learning rate after every step: any scheduler of torch, or another class with these members.

    It may take the arguments `optimizer`, `progress` (`progress.elapsed("2epochs")` is how many such durations have
    passed) and `warmup`; without the last one, warm-up is done for it.

    Attributes:
        is_range_test: whether it is a learning-rate range test: the run ends after `over`.
        over: a duration, of a range test.
        needs_validation: whether it follows evaluations of the validation set.
    """

    is_range_test: bool = False
    over: str = ""
    needs_validation: bool = False

    @abstractmethod
    def step(self) -> None:
        """Sets the learning rates of the next step; called after every step."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns all that the next learning rates depend on: a part of checkpoints."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Goes on from what `state_dict` returned."""

    def after_evaluation(self, rows: dict[str, dict[str, Any]], /) -> None:
        """Follows an evaluation; `rows` holds its results, by kind of row."""

    def cycles(self) -> int | None:
        """Returns the number of complete cycles, 0 before the first restart; None: there are no restarts.

        It is a function of the run's progress. `keep_checkpoints.at_restarts` keeps the checkpoint after the step
        with which the number grows.
        """
        return None

    def levels(self) -> Sequence[str] | str | None:
        """Returns the durations from the start of the run after which the learning rate is another one.

        A single duration: it changes whenever that has passed once more. None: it has no levels.
        """
        return None


class Regularizer(Protocol):
    """A term of the loss, a function of the parameters; it may follow the course of the run.

        regularizer.begin(run, params)                               once it is built: to refuse it, or to prepare
        optimizer.step(closure)
        events = regularizer.after_step(run, params)                 what changes in it
        evaluate
        events = regularizer.after_evaluation(run, params, rows)     likewise
        row |= regularizer.report(params, value)                     where a training row is written

    An event is a dict with `event`, a word for it, and values: a row of metrics.jsonl and a line on the screen.
    Events must follow from the arguments of a method and from `state_dict`, so that a resumed run is the same.
    `params` are the trained parameters that `covers` is true for.

    Attributes:
        follows_duration: whether it depends on the duration of the run, which then cannot change.
        leaves_minima: whether it drives weights away from where they were: then no average of them is evaluated.
    """

    follows_duration: bool = False
    leaves_minima: bool = False

    @abstractmethod
    def __call__(self, params: Sequence[Tensor], /) -> Tensor:
        """Returns the term, a scalar."""

    def covers(self, layer: nn.Module, name: str, /) -> bool:
        """Returns whether the term is one of the parameter `name` of a layer."""
        return True

    def begin(self, run: Any, params: Sequence[Tensor], /) -> None:
        """Prepares for a run; a ValueError that it raises ends the run before its first batch."""

    def after_step(self, run: Any, params: Sequence[Tensor], /) -> Sequence[dict[str, Any]]:
        """Returns the events that a step leads to."""
        return ()

    def after_evaluation(
        self, run: Any, params: Sequence[Tensor], rows: dict[str, dict[str, Any]], /
    ) -> Sequence[dict[str, Any]]:
        """Returns the events that an evaluation leads to; `rows` holds its results, by kind of row."""
        return ()

    def report(self, params: Sequence[Tensor], value: Tensor, /) -> dict[str, Any]:
        """Returns values for a training row, by name, which are written as NAME_key; `value` is the term."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Returns its state as tensors and plain values: a part of checkpoints."""
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Goes on from what `state_dict` returned."""
