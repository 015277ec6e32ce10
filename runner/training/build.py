"""From a configuration to the pieces of a run; every piece is built and checked before the first batch."""

from collections.abc import Callable
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn

from trainopt.data import Arrays, Batching, DataError, Folders, FollowReference, NoData
from trainopt.models import smallest_input
from trainopt.optimizers import Optimizer, Regularizer, Schedule

from ..config.contracts import complete, complete_each
from ..config.durations import Duration
from ..config.instantiate import construct, construct_each, find, takes
from ..config.options import COMMON
from ..state.clocks import Clocks
from ..state.early_stopping import EarlyStopping
from ..state.objective import Objective, covered_parameters
from ..state.progress import Progress
from ..state.run import Probe, Run
from ..system.device import choose_device, set_numerics
from ..system.errors import UserError, one_line
from .batch_control import read_reference
from .compatibility import (
    check_batches,
    check_compile,
    check_control,
    check_function,
    check_loss_function,
    check_probes,
    check_repeat_rate,
)
from .datasets import build_sets
from .last_layer import compiled, keep_features, split_network
from .schedule import build_schedule, check_schedule, levels_of


def build(config: DictConfig, folder: Path | None = None, training: bool = True, train_images: int = 0) -> Run:
    """Builds every piece of a run on its device. Sets torch's seed and numerics; raises UserError.

    Args:
        config: checked.
        folder: the run's, which may keep features of its images; None: it has none.
        training: False where the run is evaluated only.
        train_images: how many training images, class-balanced, are evaluated on too, as the set `train`; 0: none.
    """
    device = choose_device(config.device)
    set_numerics(config.precision, config.deterministic, device)
    seed_everything(config.seed)
    clocks = Clocks(device)
    data = load_data(config)
    network = build_network(config, data)
    check_function(config, data, network)
    notes: list[str] = []
    size = input_size(config, data, network, notes)
    image_shape = data.image_shape if size is None else (data.image_shape[0], size, size)
    network = split_network(config, network, image_shape)
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    network.to(device).to(memory_format=memory_format)
    training_set, evaluation_sets = build_sets(config, data, size, device, notes, train_images)
    early_stopping = EarlyStopping(**config.early_stopping)
    early_stopping.check(evaluation_sets)
    progress = Progress(epoch_size=len(training_set))
    params = [p for p in network.parameters() if p.requires_grad]
    optimizer = complete(construct(config.optimizer, "optimizer", params), Optimizer, "optimizer")
    early_stopping.watch(optimizer)
    check_schedule(config, optimizer)
    schedule, range_test = build_schedule(config, optimizer, progress)
    duration = Duration.parse(config.duration)
    batching = build_batching(config, schedule, duration)
    check_batches(batching, len(training_set), network)
    check_repeat_rate(batching, optimizer, range_test)
    if range_test:
        notes.append(f"a range test, which takes {range_test}: it writes a row a step, and no best.pt")
    check_loss_function(optimizer, network)
    probes = complete_each(construct_each(config, "probe"), Probe, "probe")
    check_probes(probes)
    check_control(batching, probes, config.duration, len(training_set))
    check_compile(config, [optimizer, *probes.values()])
    forward = compiled(network) if config.compile else network
    autocast = device.type if config.precision == "bf16" else None
    run = Run(
        network=network,
        forward=forward,
        objective=build_objective(config, network, forward, autocast),
        optimizer=optimizer,
        schedule=schedule,
        batching=batching,
        progress=progress,
        early_stopping=early_stopping,
        clocks=clocks,
        probes=probes,
        training_set=training_set,
        evaluation_sets=evaluation_sets,
        device=device,
        autocast=autocast,
        seed=config.seed,
        duration=config.duration,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        log_every="1steps" if range_test else config.log_every,
        num_classes=data.num_classes,
        image_shape=image_shape,
        compiled=config.compile,
        range_test=range_test,
        notes=notes,
    )
    keep_features(config, run, folder, training)
    if training:
        attach_probes(run)
        begin_regularizers(run)
    return run


def seed_everything(seed: int) -> None:
    """Seeds the generators that networks and optimizers may draw from."""
    import random

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def load_data(config: DictConfig) -> Arrays | Folders:
    """Reads the data set that a configuration names."""
    data = construct(config.data, "data", common=COMMON["data"])
    if isinstance(data, dict):
        data = Arrays(**data, where="data")
    if not isinstance(data, Arrays | Folders):
        raise UserError("data: the function must return trainopt.data.Arrays, Folders, or a dict of four arrays")
    channels, pad = config.data.channels, config.data.pad
    if isinstance(data, Folders):
        if channels is not None or pad:
            key = f"channels={channels}" if pad == 0 else f"pad={pad}"
            raise UserError(f"data.{key}: is for images in memory; those in folders are read in colour, as they are")
        return data
    if isinstance(data, NoData):
        return data
    try:
        data = data if channels is None else data.with_channels(channels)
    except DataError as error:
        raise UserError(f"data.{error}") from error
    return data.padded(pad) if pad else data


def build_network(config: DictConfig, data: Arrays | Folders) -> nn.Module:
    """Builds the network for the data's classes and channels."""
    weights = config.model.weights
    channels, height, width = data.image_shape
    side = config.data.get("size")
    network = construct(
        config.model,
        "model",
        common=COMMON["model"],
        num_classes=data.num_classes,
        in_channels=channels,
        image_shape=(channels, side or height, side or width),
        **({"pretrained": True} if weights == "pretrained" else {}),
    )
    if weights == "pretrained" and not takes(config.model._target_, "pretrained"):
        raise UserError("model.weights=pretrained: only networks of timm have such; give null or a file")
    return network


def input_size(config: DictConfig, data: Arrays | Folders, network: nn.Module, notes: list[str]) -> int | None:
    """Returns the side to which images are resized, or None; a change that nobody asked for is noted."""
    channels, height, width = data.image_shape
    wanted = config.data.get("size")
    shape = (channels, wanted, wanted) if wanted else (channels, height, width)
    try:
        needed = smallest_input(network, shape)
    except ValueError as error:
        raise UserError(f"model: {one_line(error)}") from error
    if needed is None:
        return wanted
    if wanted is not None:
        raise UserError(f"data.size={wanted}: the network needs images of at least {needed} pixels")
    notes.append(f"images are enlarged from {height}x{width} to {needed}x{needed} pixels, as the network needs")
    return needed


def build_batching(config: DictConfig, schedule: Schedule, duration: Duration) -> Batching:
    """Builds the rule for batch sizes; the reference run that a configuration names becomes its trajectory."""
    node = copy(config.batching)
    offered: dict[str, Any] = {"duration": duration, "levels": partial(levels_of, schedule, duration)}
    target = find(node, "batching")
    if isinstance(target, type) and issubclass(target, FollowReference) and "reference" in node:
        offered["reference"] = read_reference(node.pop("reference"), target.needs_probe)
    plugin = construct(node, "batching", **offered)
    return complete(plugin, Batching, "batching", one_of=("spans", "spans_from"))


def build_objective(config: DictConfig, network: nn.Module, forward: Callable, autocast: str | None) -> Objective:
    """Builds the loss with its regularizers, each with the parameters that it is meant for."""
    penalties = complete_each(construct_each(config, "regularizer"), Regularizer, "regularizer")
    covered = {name: (penalty, covered_parameters(network, penalty)) for name, penalty in penalties.items()}
    for name, (_, params) in covered.items():
        if not params:
            raise UserError(f"regularizer.{name}: is meant for none of the network's trained parameters")
    return Objective(
        forward,
        covered,
        label_smoothing=config.objective.label_smoothing,
        auxiliary_weight=config.objective.auxiliary_weight,
        autocast=autocast,
    )


def begin_regularizers(run: "Run") -> None:
    """Lets regularizers look at the run that they are part of; UserError where one refuses it."""
    for name, (regularizer, params) in run.objective.regularizers.items():
        try:
            regularizer.begin(run, params)
        except (UserError, ValueError) as error:
            raise UserError(f"regularizer.{name}: {one_line(error)}") from error


def attach_probes(run: "Run") -> None:
    """Lets probes look at the run that they will measure; UserError where one cannot."""
    for name, probe in run.probes.items():
        try:
            probe.attach(run)
        except ValueError as error:
            raise UserError(f"probe.{name}: {one_line(error)}") from error
