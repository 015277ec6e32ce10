"""Builds the average of a run's weights, where the configuration or the optimizer has one."""

from omegaconf import DictConfig
from torch import nn

from trainopt.models import LastLayer
from trainopt.optimizers import Averaging, OptimizerAverage, averages_itself

from ..config.contracts import complete
from ..config.instantiate import construct
from ..state.run import Run
from ..system.errors import UserError
from .averaged_weights import AveragedWeights
from .modes import check_modes


def build_averaging(config: DictConfig, run: Run) -> None:
    """Lets evaluations of a run be of an average, if there is one, and notes it for the start of the run.

    Raises:
        UserError: it cannot be built, or the optimizer averages, too.
    """
    try:
        averages = averages_itself(run.optimizer)
    except ValueError as error:
        raise UserError(f"optimizer: {error}") from error
    name = type(run.optimizer).__name__
    if config.averaging.get("_target_") is not None:
        if averages:
            raise UserError(f"averaging: {name} averages the weights itself; give averaging=none")
        network = trained_part(run.network)
        plugin = construct(config.averaging, "averaging", network=network, progress=run.progress)
        averaging = complete(plugin, Averaging, "averaging")
        of = type(averaging).__name__
    elif averages:
        check_modes(config, run.device)
        averaging, of = OptimizerAverage(run.optimizer, run.progress), name
    else:
        return
    run.averaged = averaged = AveragedWeights(run, averaging)
    batches = averaging.batch_norm_batches
    count = "those of an epoch" if batches is None else f"{batches} training batches"
    statistics = f", with batch norm's statistics from {count}" if averaged.needs_passes else ""
    run.notes.append(f"evaluations are of averaged weights ({of}){statistics}")


def trained_part(network: nn.Module) -> nn.Module:
    """Returns the part of a network that holds all trained parameters: the head on a frozen backbone."""
    return network.head if isinstance(network, LastLayer) else network
