"""From a configuration to the pieces of a run; every piece is built and checked before the first batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from trainopt.data import (
    Arrays,
    Augmentation,
    Batch,
    DataError,
    Folders,
    FolderSource,
    InMemory,
    Position,
    batches,
    split,
)
from trainopt.models import smallest_input

from .clocks import Clocks
from .construct import construct, construct_each, takes
from .device import choose_device, set_numerics
from .durations import Duration
from .early_stopping import EarlyStopping
from .errors import UserError, one_line
from .last_layer import compiled, keep_features, split_network
from .objective import Objective, covered_parameters
from .progress import Progress
from .regularizers import begin_regularizers
from .repeat_rate import check_repeat_rate
from .scheduling import build_schedule, check_schedule
from .vocabulary import shipped

EVALUATION_BATCH = 256

# keys that config.yaml gives to every option of a group
COMMON = {group: tuple(shipped("config.yaml")[group]) for group in ("data", "model")}


@dataclass
class Run:
    """The pieces of a run, as the loop uses them."""

    network: nn.Module
    forward: Callable[[Tensor], Tensor]  # what evaluations call: the network, compiled where asked for
    objective: Objective
    optimizer: Any
    schedule: Any
    batching: Any
    progress: Progress
    early_stopping: EarlyStopping
    clocks: Clocks
    probes: dict[str, Any]  # by name
    training_set: Any
    evaluation_sets: dict[str, Any]  # by kind of row: validation (where there is one) and test
    device: torch.device
    autocast: str | None
    seed: int
    duration: str
    evaluate_every: str
    checkpoint_every: str
    log_every: str
    num_classes: int
    image_shape: tuple[int, int, int]
    range_test: str | None = None  # how long it takes, where the run is one
    notes: list[str] = field(default_factory=list)  # what the start says beside the obvious
    features: str | None = None  # of a frozen backbone: where they come from

    @property
    def is_over(self) -> bool:
        """Whether it has come to its end."""
        return any(self.progress.elapsed(length) >= 1 for length in (self.duration, self.range_test) if length)

    @property
    def durations(self) -> dict[str, str]:
        """After which something is due, by what it is."""
        return {
            "log": self.log_every,
            "evaluate": self.evaluate_every,
            "checkpoint": self.checkpoint_every,
            "range_test": self.range_test or self.duration,
            "end": self.duration,
        }

    @property
    def evaluation_batch_size(self) -> int:
        """Images a batch when evaluating."""
        return max(EVALUATION_BATCH, getattr(self.batching, "size", 0))

    def batches(self) -> Iterator[Batch]:
        """Yield the batches from where the run stands."""
        p = self.progress
        return batches(self.training_set, self.batching, self.seed, Position(p.epoch, p.offset, p.repeat, p.step))

    @property
    def parameters(self) -> int:
        """Number of the network's parameters."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def trainable_parameters(self) -> int:
        """Number of those that the optimizer moves."""
        return sum(p.numel() for p in self.network.parameters() if p.requires_grad)


def build(config: DictConfig, folder: Path | None = None, training: bool = True) -> Run:
    """Build every piece of a run on its device. Sets torch's seed and numerics; raises UserError.

    Args:
        config: checked.
        folder: the run's, which may keep features of its images; None: it has none.
        training: False where the run is evaluated only.
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
    training_set, evaluation_sets = build_sets(config, data, size, device)
    early_stopping = EarlyStopping(**config.early_stopping)
    early_stopping.check(evaluation_sets)
    batching = construct(config.batching, "batching", duration=Duration.parse(config.duration))
    check_batches(batching, len(training_set), network)
    progress = Progress(epoch_size=len(training_set))
    params = [p for p in network.parameters() if p.requires_grad]
    optimizer = construct(config.optimizer, "optimizer", params)
    early_stopping.watch(optimizer)
    check_schedule(config, optimizer)
    check_repeat_rate(batching, optimizer)
    schedule, range_test = build_schedule(config, optimizer, progress)
    if range_test:
        notes.append(f"a range test, which takes {range_test}: it writes a row a step, and no best.pt")
    check_loss_function(optimizer, network)
    probes = construct_each(config, "probe")
    check_probes(probes)
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
        range_test=range_test,
        notes=notes,
    )
    keep_features(config, run, folder, training)
    if training:
        begin_regularizers(run)
    return run


def seed_everything(seed: int) -> None:
    """Seed the generators that networks and optimizers may draw from."""
    import random

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def load_data(config: DictConfig) -> Arrays | Folders:
    """Read the data set that a configuration names."""
    data = construct(config.data, "data", common=COMMON["data"])
    if isinstance(data, dict):
        data = Arrays(**data, where="data")
    if not isinstance(data, Arrays | Folders):
        raise UserError("data: the function must return trainopt.data.Arrays, Folders, or a dict of four arrays")
    channels = config.data.channels
    if channels is None:
        return data
    if isinstance(data, Folders):
        raise UserError(f"data.channels={channels}: is for images in memory; those in folders are read in colour")
    try:
        return data.with_channels(channels)
    except DataError as error:
        raise UserError(f"data.{error}") from error


def build_network(config: DictConfig, data: Arrays | Folders) -> nn.Module:
    """Build the network for the data's classes and channels."""
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
    """Return the side to which images are resized, or None; a change that nobody asked for is noted."""
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


def build_sets(
    config: DictConfig, data: Arrays | Folders, size: int | None, device: torch.device
) -> tuple[Any, dict[str, Any]]:
    """Return the training set and the sets to evaluate on, by kind of row."""
    options = config.data
    labels = data.y_train if isinstance(data, Arrays) else np.asarray(data.train.targets)
    test_labels = data.y_test if isinstance(data, Arrays) else np.asarray(data.test.targets)
    try:
        train, held_out = split(labels, options.validation, options.limit)
        test, _ = split(test_labels, 0.0, options.limit)
    except DataError as error:
        raise UserError(str(error)) from error
    mean, std = statistics(options, data, train)
    shared = {"mean": mean, "std": std, "device": device, "channels_last": config.channels_last}

    def make(part: str, indices: np.ndarray, augmentation: Augmentation | None = None) -> InMemory | FolderSource:
        if isinstance(data, Folders):
            return FolderSource(data, part, indices, augmentation=augmentation, seed=config.seed, **shared)
        images, classes = getattr(data, f"x_{part}")[indices], getattr(data, f"y_{part}")[indices]
        return InMemory(
            images, classes, size=size, augmentation=augmentation, num_classes=data.num_classes, **shared
        )

    sets = {"validation": make("train", held_out)} if len(held_out) else {}
    try:
        augmentation = Augmentation(**{f.name: options[f.name] for f in fields(Augmentation)})
        training_set = make("train", train, augmentation)
    except ValueError as error:
        raise UserError(one_line(error)) from error
    return training_set, {**sets, "test": make("test", test)}


def statistics(options: DictConfig, data: Arrays | Folders, train: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel on the [0, 1] scale: as given, or of the training images."""
    channels = data.image_shape[0]
    found = {}
    for name in ("mean", "std"):
        given = options[name]
        if given is not None and len(given) == 1:
            given = [given[0]] * channels
        if given is not None and len(given) != channels:
            raise UserError(
                f"data.{name}={list(given)}: must have {channels} numbers, one a channel, or one for all"
            )
        if given is None and isinstance(data, Arrays):
            pixels = data.x_train[train].reshape(-1, channels) / np.float32(255)
            given = getattr(pixels, name)(axis=0, dtype=np.float64)
            given = np.where(given > 0, given, 1.0) if name == "std" else given
        elif given is None:
            raise UserError(f"data.{name} is missing: folders of images need it, one number a channel")
        found[name] = [float(x) for x in given]
    return found["mean"], found["std"]


def build_objective(config: DictConfig, network: nn.Module, forward: Callable, autocast: str | None) -> Objective:
    """Build the loss with its regularizers, each with the parameters that it is meant for."""
    penalties = construct_each(config, "regularizer")
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
    sizes = [stop - start for start, stop in batching.spans(epoch_size, 0)]
    if not sizes:
        raise UserError(f"batching.drop_last=true: an epoch of {epoch_size} images then holds no batch at all")
    trained = [m for m in network.train().modules() if m.training]
    has_batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in trained)
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


def check_compile(config: DictConfig, pieces: list[Any]) -> None:
    """Refuse to compile for an optimizer or a probe that differentiates the gradient."""
    for name in (type(piece).__name__ for piece in pieces if getattr(piece, "needs_graph", False)):
        if config.compile:
            raise UserError(
                f"compile=true: {name} needs the graph of the gradient, which compiled networks do not have"
            )
