"""From a configuration to a run: its problem, its components, the checks of both, and what looks at the whole."""

import random
from collections.abc import Callable
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from trainopt.data import (
    Batching,
    DataSet,
    Folders,
    FollowReference,
    InputsAsTargets,
    Reconstruction,
    Source,
    TorchDatasets,
)
from trainopt.models import input_failure, output_failure, smallest_input
from trainopt.optimizers import Optimizer, Regularizer, Schedule, parameter_groups
from trainopt.optimizers.libraries.trial import tried

from ..averaging.build import build_averaging
from ..config.contracts import complete, complete_each
from ..config.durations import Duration
from ..config.forms.rules import RULE_OF_TYPE, check_rule, satisfies
from ..config.instantiate import construct, construct_each, find, takes
from ..config.options import COMMON, shipped
from ..data_sets.checks import check_targets
from ..data_sets.checksum import data_checksum
from ..data_sets.sets import build_sets, load_data
from ..distributed.ranks import ALONE, Ranks
from ..metrics.build import build_metrics
from ..metrics.selection import directions, select
from ..objectives.build import build_loss
from ..objectives.loss import Loss
from ..precision.loss_scaling import LossScaling
from ..state.clocks import Clocks
from ..state.early_stopping import EarlyStopping
from ..state.gradient import GradientOptions
from ..state.objective import Objective, covered_parameters, returns_loss
from ..state.progress import Progress
from ..state.run import Probe, Run
from ..system.device import choose_device, set_numerics
from ..system.errors import UserError, one_line
from .batch_control import read_reference
from .closure import check_step
from .compatibility import check_data, check_run, check_takes_inputs
from .graphs.choice import check_graphs
from .graphs.compilation import compiled
from .last_layer import split_network, use_features
from .schedule import build_schedule, levels_of
from .sharded import share

LIBRARIES = ("timm", "pytorch_optimizer")
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by the configuration's precision


def build(
    config: DictConfig,
    folder: Path | None = None,
    training: bool = True,
    train_images: int = 0,
    ranks: Ranks = ALONE,
) -> Run:
    """Builds a run on its device. Sets torch's seed and numerics.

    Args:
        config: checked.
        folder: the run's, which may keep features of its images, and what was decided about these; None: it has none.
        training: False where the run is evaluated only.
        train_images: how many training images, class-balanced, are evaluated on too, as the set `train`, where it is
            not trained; 0: none.
        ranks: the processes that train it.

    Raises:
        UserError: a component cannot be built, or two are not compatible.
    """
    run = ranks.together(lambda: build_components(config, folder, training, train_images))
    ranks.broadcast([*run.network.parameters(), *run.network.buffers()])
    use_features(config, run, folder, training, ranks)
    ranks.each(lambda: prepare_training(config, run, training, ranks))
    return run


def build_components(config: DictConfig, folder: Path | None, training: bool, train_images: int) -> Run:
    """Builds all that a run consists of, and checks that it fits together; arguments are as of `build`."""
    device = choose_device(config.device)
    set_numerics(config.precision, config.deterministic, device)
    seed_everything(config.seed)
    clocks = Clocks(device)
    probes = complete_each(construct_each(config, "probe"), Probe, "probe")
    sample = max((probe.training_samples for probe in probes.values()), default=0) if training else train_images
    problem = build_problem(config, folder, device, training, sample)
    run = build_run(config, problem, device, clocks, probes)
    if training:
        build_averaging(config, run)
    check_run(config, run)
    return run


def prepare_training(config: DictConfig, run: Run, training: bool, ranks: Ranks) -> None:
    """Lets processes share a run, and what takes part in its training prepare for it."""
    if training:
        run.training_sample = run.evaluation_sets.pop("train", None)
    if ranks.size > 1:
        share(run, ranks, config.batch_norm)
    if training:
        check_graphs(run)
        attach_probes(run)
        begin_regularizers(run)


def seed_everything(seed: int) -> None:
    """Seeds the generators that networks and optimizers may draw from.

    Those of torch's CPU and of NumPy are seeded with 32 bits: conf/allowed.yaml has no larger seeds, of which two could
    be the same one.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # a run of version 0.1.0 may have had a larger one
    torch.manual_seed(seed)


class Problem(NamedTuple):
    """A network and the sets of samples that it learns from and is evaluated on."""

    network: nn.Module
    data: DataSet
    input_shape: tuple[int, ...]  # of the network's inputs: where images are resized, not that of the data's
    training_set: Source
    evaluation_sets: dict[str, Source]  # by kind of row
    notes: list[str]  # what the start of the run prints
    decisions: dict[str, Any] | None  # about the data, as of `Run`
    checksum: dict[str, str] | None  # of the data, as of `Run`


def build_problem(
    config: DictConfig, folder: Path | None, device: torch.device, training: bool, train_images: int
) -> Problem:
    """Reads the data and builds the network, which fit together."""
    data = load_data(config, folder)
    checksum = data_checksum(data) if training else None
    network = build_network(config, data)
    check_data(config, data, network)
    size = resized_to(config, data, network)
    input_shape = shape_of_inputs(data, size)
    check_outputs(config, data, network, input_shape)
    network = split_network(config, network, input_shape)
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    network.to(device).to(memory_format=memory_format)
    decisions = data.decisions if isinstance(data, Folders) else None
    notes = list(data.notes) if isinstance(data, Folders | TorchDatasets) else []
    if size != config.data.get("size"):
        before = "x".join(map(str, data.input_shape[1:]))
        notes.append(f"images are upsampled from {before} to {size}x{size} pixels, as the network needs")
    as_targets = getattr(network, "targets_are_inputs", False)
    training_set, evaluation_sets = build_sets(config, data, size, device, notes, train_images, not as_targets)
    described: DataSet = data
    if as_targets:
        described = InputsAsTargets(data.is_images, input_shape, data.input_dtype)
        check_targets(config, described)
        training_set = Reconstruction(training_set)
        evaluation_sets = {kind: Reconstruction(source) for kind, source in evaluation_sets.items()}
    return Problem(network, described, input_shape, training_set, evaluation_sets, notes, decisions, checksum)


def build_run(
    config: DictConfig, problem: Problem, device: torch.device, clocks: Clocks, probes: dict[str, Probe]
) -> Run:
    """Builds the components that train a network on its data."""
    network = problem.network
    progress = Progress(epoch_size=len(problem.training_set))
    optimizer = build_optimizer(config, network, problem.notes)
    loss = build_loss(config, problem.data.num_classes, device)
    metrics = {} if returns_loss(network) else build_metrics(config, problem.data.num_classes, loss, device)
    selection = select(metrics, config.selection_metric)
    early_stopping = EarlyStopping(**config.early_stopping, selection=selection)
    early_stopping.watch(optimizer)
    schedule, range_test, main = build_schedule(config, optimizer, progress, directions(metrics), problem.notes)
    batching = build_batching(config, schedule)
    forward = compiled(network, config.compile, problem.notes) if config.compile else network
    autocast = AUTOCAST.get(config.precision)
    return Run(
        network=network,
        forward=forward,
        objective=build_objective(config, network, forward, autocast, loss),
        metrics=metrics,
        selection=selection,
        optimizer=optimizer,
        schedule=schedule,
        batching=batching,
        progress=progress,
        early_stopping=early_stopping,
        clocks=clocks,
        probes=probes,
        training_set=problem.training_set,
        evaluation_sets=problem.evaluation_sets,
        device=device,
        autocast=autocast,
        seed=config.seed,
        duration=config.duration,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        log_every="1steps" if range_test else config.log_every,
        gradient=GradientOptions(**config.gradient),
        num_classes=problem.data.num_classes,
        num_outputs=problem.data.num_outputs,
        input_shape=problem.input_shape,
        input_dtype=problem.data.input_dtype,
        scaling=LossScaling(optimizer, device.type) if autocast is torch.float16 else None,
        num_tokens=problem.data.num_tokens,
        compiled=bool(config.compile),
        cuda_graph=config.cuda_graph,
        range_test=range_test,
        main_group=main,
        notes=problem.notes,
        decisions=problem.decisions,
        data_checksum=problem.checksum,
    )


def build_network(config: DictConfig, data: DataSet) -> nn.Module:
    """Builds the network for the outputs that the data needs, and for the shape of its inputs."""
    weights = config.model.weights
    shape = shape_of_inputs(data, config.data.get("size"))
    of_images = {"in_channels": shape[0], "image_shape": shape} if data.is_images else {}
    if not data.is_images:
        check_takes_inputs(config, shape)
    network = construct(
        config.model,
        "model",
        common=COMMON["model"],
        num_classes=data.num_outputs,
        num_tokens=data.num_tokens,
        input_shape=shape,
        **of_images,
        **({"pretrained": True} if weights == "pretrained" else {}),
    )
    if weights == "pretrained" and not takes(config.model._target_, "pretrained"):
        raise UserError("model.weights=pretrained: only networks of timm have pretrained weights; give null or a file")
    return network


def shape_of_inputs(data: DataSet, size: int | None) -> tuple[int, ...]:
    """Returns the shape of the network's inputs: (C, size, size) of images that are resized."""
    return data.input_shape if size is None else (data.input_shape[0], size, size)


def resized_to(config: DictConfig, data: DataSet, network: nn.Module) -> int | None:
    """Returns the side in pixels to which images are resized, for the network or as data.size says; None: they stay.

    Raises:
        UserError: the network takes no such inputs.
    """
    size = config.data.get("size")
    shape = shape_of_inputs(data, size)
    if not data.is_images:
        failure = input_failure(network, shape, dtype=data.input_dtype)
        if failure is not None:
            kind = str(data.input_dtype).removeprefix("torch.")
            raise UserError(f"model: the network takes no {kind} inputs of shape {list(shape)} ({failure})")
        return None
    try:
        smallest = smallest_input(network, shape)
    except ValueError as error:
        raise UserError(f"model: {one_line(error)}") from error
    if smallest is None or size is None:
        return smallest or size
    failure = input_failure(network, shape)
    if failure is not None:
        raise UserError(f"data.size={size}: the network takes no such images ({failure}); {smallest} pixels work")
    return size


def check_outputs(config: DictConfig, data: DataSet, network: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Refuses a network of the user's whose outputs cannot be trained on the data."""
    is_own = not config.model["_target_"].startswith("trainopt.") and not returns_loss(network)
    if is_own and config.model.trainable == "all":
        is_ours = config.objective["_target_"].startswith("trainopt.")  # and needs an output for each class
        has_classes = is_ours and not getattr(network, "targets_are_inputs", False)
        failure = output_failure(network, input_shape, data.num_classes if has_classes else None, data.input_dtype)
        if failure is not None:
            raise UserError(f"model: the network {failure}")


def build_optimizer(config: DictConfig, network: nn.Module, notes: list[str]) -> Optimizer:
    """Builds the optimizer of the network's trained parameters, in groups where the configuration has any."""
    choices: Any = OmegaConf.to_container(config.parameter_groups)
    if not any(choices.values()):
        params = [p for p in network.parameters() if p.requires_grad]
        return complete(create_optimizer(config, network, [{"params": params}]), Optimizer, "optimizer")
    if choices["layer_decay"] is not None and config.optimizer.get("lr", 0) is None:
        raise UserError("parameter_groups.layer_decay: scales optimizer.lr, which is null; give optimizer.lr=VALUE")
    try:
        groups = parameter_groups(network, config.optimizer.get("lr"), **choices)
    except ValueError as error:
        raise UserError(f"parameter_groups.{one_line(error)}") from error
    plugin = create_optimizer(config, network, groups)
    for group in groups:
        options = {key: value for key, value in group.items() if key != "params"}
        values = ", ".join(f"{k}={float(f'{v:.6g}') if isinstance(v, float) else v}" for k, v in options.items())
        count = sum(p.numel() for p in group["params"])
        notes.append(f"{count:,} parameters with {values or 'the keys of optimizer, and none of their own'}")
    return complete(plugin, Optimizer, "optimizer")


def create_optimizer(config: DictConfig, network: nn.Module, groups: list[dict[str, Any]]) -> Any:
    """Creates an optimizer of groups of parameters.

    A class of a library whose optimizers are there by name passes the same trial as those.
    """

    def create(groups: list[dict[str, Any]]) -> Any:
        copies = [dict(group) for group in groups]  # torch adds its defaults
        subject = copies[0]["params"] if len(copies) == 1 and len(copies[0]) == 1 else copies
        return construct(config.optimizer, "optimizer", subject, network=network)

    optimizer = create(groups)
    check_step(optimizer)
    for group in groups:
        check_group(group, optimizer)
    if find(config.optimizer, "optimizer").__module__.partition(".")[0] not in LIBRARIES:
        return optimizer
    try:
        return tried(create, groups)
    except ValueError as error:
        raise UserError(f"optimizer: {one_line(error)}") from error


def check_group(group: dict[str, Any], optimizer: Any) -> None:
    """Refuses hyperparameters of a group that an optimizer does not have, or that it would refuse for all groups.

    Optimizers check the hyperparameters that hold for all parameters, and few check those of groups.
    """
    known, rules = getattr(optimizer, "defaults", {}), shipped("allowed.yaml")
    for key, value in group.items():
        if key == "params":
            continue
        if key not in known:
            raise UserError(f"parameter_groups: {type(optimizer).__name__} has no {key} in its parameter groups")
        default = [*known[key]] if isinstance(known[key], tuple) else known[key]
        rule = rules.get(f"optimizer.{key}") or RULE_OF_TYPE.get(type(default), "").replace("integer", "number")
        if rule and default is not None and satisfies(default, rule):
            check_rule(f"parameter_groups.rules: {key}", value, rule)


def build_batching(config: DictConfig, schedule: Schedule) -> Batching:
    """Builds the rule for batch sizes; the reference run that a configuration names becomes its trajectory."""
    node, duration = copy(config.batching), Duration.parse(config.duration)
    offered: dict[str, Any] = {"duration": duration, "levels": partial(levels_of, schedule, duration)}
    target = find(node, "batching")
    if isinstance(target, type) and issubclass(target, FollowReference) and "reference" in node:
        offered["reference"] = read_reference(node.pop("reference"), target.needs_probe)
    plugin = construct(node, "batching", **offered)
    return complete(plugin, Batching, "batching", one_of=("spans", "spans_from"))


def build_objective(
    config: DictConfig, network: nn.Module, forward: Callable, autocast: torch.dtype | None, loss: Loss
) -> Objective:
    """Builds the sum of the loss and its regularizers, each with the parameters that it covers."""
    regularizers = complete_each(construct_each(config, "regularizer"), Regularizer, "regularizer")
    covered = {name: (term, covered_parameters(network, term)) for name, term in regularizers.items()}
    for name, (_, params) in covered.items():
        if not params:
            raise UserError(f"regularizer.{name}: covers none of the network's trained parameters")
    return Objective(
        forward,
        covered,
        loss=loss,
        auxiliary_weight=config.objective.auxiliary_weight,
        autocast=autocast,
    )


def attach_probes(run: Run) -> None:
    """Lets probes prepare for the run; UserError where one cannot measure it."""
    for name, probe in run.probes.items():
        try:
            probe.attach(run)
        except ValueError as error:
            raise UserError(f"probe.{name}: {one_line(error)}") from error


def begin_regularizers(run: Run) -> None:
    """Lets regularizers prepare for the run; UserError where one refuses it."""
    for name, (regularizer, params) in run.objective.regularizers.items():
        try:
            regularizer.begin(run, params)
        except (UserError, ValueError) as error:
            raise UserError(f"regularizer.{name}: {one_line(error)}") from error
