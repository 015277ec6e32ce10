"""Refusing pieces of a run that do not fit together, before its first batch."""

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from torch import nn

from trainopt.data import Arrays, Folders, Position, spans_of

from ..config.durations import Duration
from ..config.options import shipped
from ..system.errors import UserError, one_line

if TYPE_CHECKING:  # build checks with what is here
    from .build import Run


def check_function(config: DictConfig, data: Arrays | Folders, network: nn.Module) -> None:
    """Refuse data for a network that returns its loss, no data for one that needs them, and keys about images."""
    is_function, is_empty = getattr(network, "returns_loss", False), getattr(data, "is_placeholder", False)
    if is_empty and not is_function:
        raise UserError("data=none: the network needs data; give data=digits or another set, or model=function")
    if not is_function:
        return
    if not is_empty:
        raise UserError("model: the network is a function of its parameters alone; give data=none")
    if config.early_stopping.patience is not None:
        raise UserError(
            f"early_stopping.patience={config.early_stopping.patience}: there are no held-out images to look at;"
            " early_stopping.precision ends a run where its steps become short"
        )
    for section in ("data", "objective"):
        for key, default in shipped("config.yaml")[section].items():
            value = config[section].get(key, default)
            if value != default and key not in ("root", "download", "auxiliary_weight"):
                raise UserError(f"{section}.{key}={value}: is about images, and there are none; leave it out")


def check_batches(batching: Any, epoch_size: int, network: nn.Module) -> None:
    """Refuse batches that cannot be trained on."""
    sizes = [stop - start for start, stop in spans_of(batching, Position(), epoch_size)]
    smallest, largest = getattr(batching, "smallest", None), getattr(batching, "largest", 0)
    if not sizes or (getattr(batching, "drop_last", False) and largest > epoch_size):
        raise UserError(f"batching.drop_last=true: an epoch of {epoch_size} images then holds no batch at all")
    trained = [m for m in network.train().modules() if m.training]
    has_batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in trained)
    if has_batch_norm and smallest == 1:
        raise UserError("batching: has batches of one, which batch norm cannot train on; give larger sizes")
    if has_batch_norm and min(sizes) == 1:
        raise UserError(
            f"batching: {epoch_size} images leave a batch of one, which batch norm cannot train on;"
            " use batching.drop_last=true or another batching.size"
        )


def check_loss_function(optimizer: Any, network: nn.Module) -> None:
    """Refuse an optimizer that looks at the loss function where the network is the loss itself."""
    if getattr(optimizer, "needs_loss_function", False) and getattr(network, "returns_loss", False):
        raise UserError(
            "optimizer.curvature=gauss_newton: a test function has no loss function; use curvature=hessian"
        )


def check_probes(probes: dict[str, Any]) -> None:
    """Refuse what is no probe."""
    for name, probe in probes.items():
        for method in ("before_step", "after_step"):
            if not callable(getattr(probe, method, None)):
                raise UserError(f"probe.{name}: {type(probe).__name__} is no probe; it has no method {method}")
        every: Any = getattr(probe, "every", None)
        if not Duration.is_valid(every):
            raise UserError(f"probe.{name}: its `every` is {every}, and must be a duration, as in 50steps")
        if getattr(probe, "each_epoch", False) and Duration.parse(every).unit != "steps":
            raise UserError(f"probe.{name}.each_epoch=true: counts steps; give probe.{name}.every=50steps")


def attach_probes(run: "Run") -> None:
    """Let probes look at the run that they will measure; UserError where one cannot."""
    for name, probe in run.probes.items():
        if hasattr(probe, "attach"):
            try:
                probe.attach(run)
            except ValueError as error:
                raise UserError(f"probe.{name}: {one_line(error)}") from error


def check_compile(config: DictConfig, pieces: list[Any]) -> None:
    """Refuse to compile for an optimizer or a probe that differentiates the gradient."""
    for name in (type(piece).__name__ for piece in pieces if getattr(piece, "needs_graph", False)):
        if config.compile:
            raise UserError(
                f"compile=true: {name} needs the graph of the gradient, which compiled networks do not have"
            )
