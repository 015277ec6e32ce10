"""Training the last layer alone: the network is split, and features that never change are computed once."""

import errno
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from trainopt.data import DataError, Features, Source, digest_of
from trainopt.models import LastLayer, WeightsError, load_weights

from ..distributed.ranks import ALONE, Ranks
from ..records.feature_cache import FeatureCache
from ..state.run import Run
from ..system.display import LongWork
from ..system.errors import UserError, one_line, reason
from ..system.files import shared_cache, shown

FEATURE_BATCH = 64  # images a batch; on a CPU the time of an image is the same from 32 to 256
KEYS_WITHOUT_ARCHITECTURE = ("weights", "trainable", "feature_cache")  # keys of the model


def split_network(config: DictConfig, network: nn.Module, image_shape: tuple[int, ...]) -> nn.Module:
    """Returns a network with the weights of a file, if one is given, split where model.trainable=last_layer.

    The classifier of a network that is split begins anew, whatever the file holds in its place.
    """
    trained: nn.Module = network
    new_layers: list[str] = []  # whose weights in the file are not used
    if config.model.get("trainable") == "last_layer":
        try:
            trained = last_layer = LastLayer(network, image_shape, bf16=config.precision == "bf16")
        except ValueError as error:
            raise UserError(f"model.trainable=last_layer: {one_line(error)}") from error
        new_layers = last_layer.classifiers
    if config.model.weights not in (None, "pretrained"):
        try:
            load_weights(network, config.model.weights, new_layers)
        except WeightsError as error:
            raise UserError(f"model.weights: {error}") from error
    return trained


def use_features(config: DictConfig, run: Run, folder: Path | None, training: bool, ranks: Ranks = ALONE) -> None:
    """Lets a run whose backbone is frozen read features in place of images, where these are not random.

    The time that this takes is on a clock of its own, `features`.

    Args:
        config: of the run.
        run: built; its sets, what evaluations call, and its objective are replaced.
        folder: the run's, or None where nothing may be written there.
        training: whether its training set will be used.
        ranks: the processes, which share the work.

    Raises:
        UserError: an image cannot be read.
    """
    network = run.network
    if not isinstance(network, LastLayer):
        return
    run.features = "computed for every batch"
    cache_folder = feature_folder(config.model.feature_cache, folder)
    if cache_folder is None:
        return
    with run.clocks.running("features"):
        store = FeatureStore(FeatureCache(cache_folder), network, describe_backbone(config, network), ranks)
        try:
            run.evaluation_sets = {kind: store.features(source) for kind, source in run.evaluation_sets.items()}
            run.forward = network.head
            if training and not run.training_set.is_random:
                run.training_set = store.features(run.training_set)
                run.objective = replace(run.objective, network=network.head)
                network.release()
        except OSError as error:
            run.notes.append(f"features cannot be stored ({reason(error)}): the backbone runs for every batch")
    if run.forward is network.head:
        rest = "" if isinstance(run.training_set, Features) else f"; of training images {run.features}"
        how = f"computed in {store.seconds:.1f} s and stored in" if store.seconds else "from"
        run.features = f"{how} {shown(cache_folder)}{rest}"


def feature_folder(choice: str, folder: Path | None) -> Path | None:
    """Returns where features are kept, for a value of model.feature_cache; None: nowhere."""
    if choice == "run":
        return None if folder is None else folder / "features"
    return shared_cache() / "features" if choice == "shared" else None


def describe_backbone(config: DictConfig, network: LastLayer) -> dict[str, Any]:
    """Returns what features depend on besides the images: weights, code and numerics."""
    frozen = network.frozen()
    options: dict[Any, Any] = OmegaConf.to_container(config.model, resolve=True)  # type: ignore[assignment]
    return {
        "weights": digest_of(*(part for name in sorted(frozen) for part in (name, frozen[name]))),
        "model": {str(key): value for key, value in options.items() if key not in KEYS_WITHOUT_ARCHITECTURE},
        "code": digest_of_code(network.network),
        "classifiers": network.classifiers,
        "device": next(iter(network.parameters())).device.type,
        "precision": config.precision,
        "versions": {name: version(name) for name in ("torch", "timm")},
    }


def digest_of_code(network: nn.Module) -> str:
    """Returns a digest of the source files of a network's layers, except for torch's."""
    classes = {type(m) for m in network.modules() if not type(m).__module__.startswith("torch.")}
    files = {inspect.getsourcefile(c) for c in classes if c.__module__ in sys.modules and c.__module__ != "__main__"}
    return digest_of(*(Path(name).read_bytes() for name in sorted(filter(None, files))))


class FeatureStore:
    """Features of sets of images, read from a cache or computed into it.

    Args:
        cache: where they are kept.
        network: computes them.
        backbone: what they depend on besides the images.
        ranks: the processes that call `features` together. Each computes its part of the batches, rank 0 writes all.

    Attributes:
        seconds: spent on computing.
    """

    def __init__(self, cache: FeatureCache, network: LastLayer, backbone: dict[str, Any], ranks: Ranks = ALONE):
        self.cache, self.network, self.backbone, self.ranks = cache, network, backbone, ranks
        self.seconds = 0.0

    def features(self, source: Source) -> Features:
        """Returns the features of a set of images.

        Raises:
            OSError: they cannot be stored.
            UserError: an image cannot be read.
        """
        return Features(torch.from_numpy(self._read(source)), torch.as_tensor(source.targets), source.device)

    def _read(self, source: Source) -> np.ndarray:
        """Returns features (N, F) from the cache, into which they are computed first where they are missing."""
        about, key = self.ranks.lead(lambda: self._describe(source), patient=True)
        with ExitStack() as turn:

            def look() -> np.ndarray | None:
                if self.ranks.leads:
                    turn.enter_context(self.cache.turn(key))
                return self.cache.read(key)

            values = self.ranks.together(look)
            if self.ranks.lead(lambda: values is None):
                began = perf_counter()
                self._compute(source, key, about)
                self.seconds += perf_counter() - began
                values = self.ranks.together(lambda: self.cache.read(key))

        def result() -> np.ndarray:
            if values is not None:
                return values
            if self.ranks.leads:
                raise OSError(errno.EIO, "what was written reads differently", str(self.cache.folder))
            # on a host that has another folder
            return FeatureStore(self.cache, self.network, self.backbone)._read(source)

        return self.ranks.each(result)

    def _describe(self, source: Source) -> tuple[dict[str, Any], str]:
        """Returns what the features of images depend on, and its digest."""
        try:
            about = {**self.backbone, "images": source.digest()}
        except DataError as error:
            raise UserError(str(error)) from error
        return about, digest_of(json.dumps(about, sort_keys=True))[:32]

    def _compute(self, source: Source, key: str, about: dict[str, Any]) -> None:
        """Computes features into the cache, and prints the remaining time once if it is long.

        Each process computes a batch at a time, in turn, so batches and file are those of one process.
        """
        ranks, width, work = self.ranks, self.network.width, LongWork("computing features of")
        images = source.ordered(FEATURE_BATCH, ranks.rank, ranks.size)
        with ExitStack() as file:
            writer = self.cache.writer(key, (len(source), width), about) if ranks.leads else nullcontext(ignore)
            append = ranks.each(lambda: file.enter_context(writer))
            block, turn = torch.empty(0, width), FEATURE_BATCH * ranks.size
            for start in range(0, len(source), turn):
                block = ranks.gather(ranks.each(partial(self._advance, append, block, images)))
                if ranks.leads:
                    work.update(min(start + turn, len(source)), len(source))

            def finish() -> None:
                append(block.numpy())
                file.close()

            ranks.each(finish)

    def _advance(self, append: Callable[[np.ndarray], object], block: Tensor, images: Iterator[Any]) -> Tensor:
        """Writes a block that is complete; returns this process's part (B, F) of the next, which may be empty."""
        append(block.numpy())
        try:
            batch = next(images, None)
        except DataError as error:
            raise UserError(str(error)) from error
        return block[:0] if batch is None else self.network.features(batch[0]).cpu()


def ignore(block: np.ndarray) -> None:
    """Leaves a block to the process that writes."""
