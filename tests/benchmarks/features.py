"""The last layer on a frozen backbone, 96x96 colour images, against the ways that a script has.

1. An epoch from cached features (ResNet-18's, linear head, SGD) against an epoch through the backbone.
2. A first epoch that computes features, stores them and trains from them, against the naive one: the network in
   training mode with `requires_grad` off but for the classifier. In float32, and ours in bfloat16 against that.

Every figure is of a few batches; what a run does once (folding, checksums of the weights) is left out.
"""

import copy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pairs import hardware, ratios, report
from trainopt.data import Constant, Features, InMemory, Position, batches
from trainopt.models import LastLayer, timm_network
from trainopt.runner.records.feature_cache import FeatureCache
from trainopt.runner.system.device import keep_freed_memory
from trainopt.runner.training.last_layer import FeatureStore

BATCH, IMAGES, CLASSES, SHAPE = 128, 256, 10, (3, 96, 96)
BOUNDS = {("resnet18", False): 0.75, ("mobilenetv2_100", False): 0.4}
BOUNDS |= {("resnet18", True): 0.45, ("mobilenetv2_100", True): 0.28}


def images() -> InMemory:
    """Returns images to train on."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, *SHAPE[1:], SHAPE[0]), dtype=np.uint8)
    return InMemory(pixels, rng.integers(0, CLASSES, IMAGES), [0.5] * 3, [0.25] * 3)


def epoch(forward: Callable, params: list[nn.Parameter], source: InMemory | Features, count: int) -> float:
    """Returns the seconds of some epochs of SGD."""
    optimizer = torch.optim.SGD(params, lr=0.01, momentum=0.9)
    stream = batches(source, Constant(BATCH), 0, Position())
    began = perf_counter()
    for _ in range(count * len(source) // BATCH):
        batch = next(stream)
        optimizer.zero_grad()
        cross_entropy(forward(batch.inputs), batch.targets).backward()
        optimizer.step()
    return perf_counter() - began


def trained(network: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters that are trained."""
    return [p for p in network.parameters() if p.requires_grad]


def first_epoch(model: LastLayer, source: InMemory) -> float:
    """Returns the seconds for computing features, storing them and an epoch of training from them."""
    with tempfile.TemporaryDirectory() as folder:
        began = perf_counter()
        store = FeatureStore(FeatureCache(Path(folder)), model, {})
        epoch(model.head, trained(model), store.features(source), 1)
        return perf_counter() - began


def main(pairs: int) -> bool:
    """Measures all."""
    torch.set_num_threads(2)
    keep_freed_memory()  # as every run does; it serves both sides
    print(f"\nLast layer. {hardware()}")
    source, holds = images(), True
    for name in ("resnet18", "mobilenetv2_100"):
        network = timm_network(3, CLASSES, name)
        plain, low = (LastLayer(copy.deepcopy(network), SHAPE, bf16) for bf16 in (False, True))
        network.requires_grad_(False).train()
        network.get_classifier().requires_grad_(True)

        def naive(network: nn.Module = network) -> float:
            return epoch(network, trained(network), source, 1)

        for model in (plain, low):

            def ours(model: LastLayer = model) -> float:
                return first_epoch(model, source)

            a, b, ratio = ratios(ours, naive, pairs)
            words = f"first epoch, {name}{', bfloat16' if model.bf16 else ''}"
            per_image = f"{a / IMAGES * 1e3:.2f} / {b / IMAGES * 1e3:.2f} ms an image"
            holds &= report(f"{words}: {per_image}", ratio, BOUNDS[name, model.bf16])
        if name == "resnet18":
            features = torch.cat([plain.features(x) for x, _ in source.ordered(BATCH)])
            cached, many = Features(features, source.targets), 50

            def from_features(model: LastLayer = plain, cached: Features = cached, many: int = many) -> float:
                return epoch(model.head, trained(model), cached, many) / many

            def through_the_backbone(model: LastLayer = plain) -> float:
                return epoch(model, trained(model), source, 1)

            a, b, ratio = ratios(from_features, through_the_backbone, pairs)
            holds &= report(f"epoch from cached features: {a * 1e3:.2f} / {b * 1e3:.1f} ms", ratio, 0.005)
    return holds


if __name__ == "__main__":
    raise SystemExit(not main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
