"""Our batched input pipeline (horizontal flip, padded crop, normalise; 32x32 colour images) against two others.

1. torchvision's transforms.v2 on one image at a time in a DataLoader with two worker processes, images a second.
2. A shuffled read and normalisation of the same bytes without augmentation, time.
3. As 1, with all augmentation there is: shifts with probability 0.5, padding with the mean, Cutout, mixup.
4. RandAugment, which is of one image at a time here too, in two processes each: images a second.
"""

from collections.abc import Callable, Iterable, Iterator
from time import perf_counter

import numpy as np
import torch

from pairs import hardware, ratios, report
from trainopt.data import Augmentation, InMemory, RandAugment, TransformedInMemory
from trainopt.runner.system.device import keep_freed_memory

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
BATCH, BATCHES = 128, 390  # nearly an epoch


class PerSample(torch.utils.data.Dataset):
    """Images one at a time, augmented with transforms.v2."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transforms: list[Callable]):
        from torchvision.transforms import v2

        self.images, self.labels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), labels
        self.transform = v2.Compose(transforms)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def usual_transforms() -> list[Callable]:
    """Pad-and-crop, horizontal flip, normalisation."""
    from torchvision.transforms import v2

    to_float = v2.ToDtype(torch.float32, scale=True)
    return [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), to_float, v2.Normalize(MEAN, STD)]


def all_transforms() -> list[Callable]:
    """Horizontal flip, normalisation, a shift with probability 0.5 and zero padding, Cutout."""
    from torchvision.transforms import v2

    to_float = v2.ToDtype(torch.float32, scale=True)
    shift = v2.RandomApply([v2.RandomCrop(32, padding=4)], p=0.5)
    return [v2.RandomHorizontalFlip(), to_float, v2.Normalize(MEAN, STD), shift, cut_out]


def cut_out(image: torch.Tensor) -> torch.Tensor:
    """Erases a square of 16 pixels around a random centre."""
    from torchvision.transforms.v2.functional import erase

    y, x = torch.randint(32, (2,)).tolist()
    top, left = max(y - 8, 0), max(x - 8, 0)
    return erase(image, top, left, min(y + 8, 32) - top, min(x + 8, 32) - left, torch.zeros(1, 1, 1), inplace=True)


def rand_augment() -> list[Callable]:
    """RandAugment, then the usual transforms."""
    from torchvision.transforms import v2

    return [v2.RandAugment(), *usual_transforms()]


class Mixed:
    """Collates images and mixes them, in the worker."""

    def __init__(self) -> None:
        from torchvision.transforms import v2

        self.mix = v2.MixUp(alpha=1.0, num_classes=10)

    def __call__(self, samples: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.mix(*torch.utils.data.default_collate(samples))


def drained(stream: Iterable) -> float:
    """Returns seconds for taking every batch of a stream, holding one as a training loop does."""
    began = perf_counter()
    for _ in stream:
        pass
    return perf_counter() - began


def per_sample(data: PerSample, count: int, collate: Callable | None = None) -> float:
    """Returns seconds for some batches, workers already started."""
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=2, collate_fn=collate)
    return once_started(iter(loader), count)


def once_started(batches: Iterator, count: int) -> float:
    """Returns seconds for some batches after the first one."""
    next(batches)
    began = perf_counter()
    for _ in range(count):
        next(batches)
    return perf_counter() - began


def shuffled_read(images: torch.Tensor, labels: torch.Tensor, count: int) -> Iterator[tuple]:
    """Reads shuffled batches and normalises them."""
    scale = (1 / (255 * torch.tensor(STD))).view(-1, 1, 1)
    offset = (-torch.tensor(MEAN) / torch.tensor(STD)).view(-1, 1, 1)
    order = torch.randperm(len(labels))
    for i in range(count):
        chosen = order[i * BATCH : (i + 1) * BATCH]
        pixels = images.index_select(0, chosen)
        yield pixels.to(torch.float32).mul_(scale).add_(offset), labels.index_select(0, chosen)


def main() -> bool:
    """Measures both."""
    torch.set_num_threads(2)
    print(f"\nInput pipeline, images a second. {hardware()}")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, 50_000)
    usual = InMemory(images, labels, MEAN, STD, augmentation=Augmentation(flip=0.5, crop_padding=4))
    spans = [(i * BATCH, (i + 1) * BATCH) for i in range(BATCHES)]

    def ours(source: InMemory = usual) -> float:
        return drained(source.epoch(0, 0, spans)) / BATCHES

    slow = PerSample(images, labels, usual_transforms())
    a, b, ratio = ratios(ours, lambda: per_sample(slow, 12) / 12, 7)
    text = f"against transforms.v2, 2 workers: {BATCH / a:,.0f} / {BATCH / b:,.0f}"
    holds = report(text, 1 / ratio, 25, above=True)
    stored, targets = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)
    a, b, ratio = ratios(ours, lambda: drained(shuffled_read(stored, targets, BATCHES)) / BATCHES, 21)
    holds = report(f"cost over a shuffled read: {BATCH / a:,.0f} / {BATCH / b:,.0f}", ratio, 2.0) and holds
    keep_freed_memory()  # as every run on a CPU does: mixing takes a second batch's memory
    everything = Augmentation(flip=0.5, crop_padding=4, crop_probability=0.5, fill="mean", cutout=16, mixup=1.0)
    source = InMemory(images, labels, MEAN, STD, augmentation=everything, num_classes=10)
    slow = PerSample(images, labels, all_transforms())
    a, b, ratio = ratios(lambda: ours(source), lambda: per_sample(slow, 12, Mixed()) / 12, 7)
    text = f"all augmentation, against transforms.v2: {BATCH / a:,.0f} / {BATCH / b:,.0f}"
    holds = report(text, 1 / ratio, 8, above=True) and holds
    transformed = TransformedInMemory(
        images, labels, MEAN, STD, augmentation=RandAugment(flip=0.5, crop_padding=4), workers=2, num_classes=10
    )
    slow = PerSample(images, labels, rand_augment())
    a, b, ratio = ratios(
        lambda: once_started(transformed.epoch(0, 0, spans), 30) / 30, lambda: per_sample(slow, 30) / 30, 7
    )
    text = f"RandAugment, an image at a time: {BATCH / a:,.0f} / {BATCH / b:,.0f}"
    return report(text, 1 / ratio, 0.8, above=True) and holds


if __name__ == "__main__":
    raise SystemExit(not main())
