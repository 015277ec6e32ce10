"""Our batched input pipeline (mirror, shift by up to 4 pixels, normalise; 32x32 colour images) against two others.

1. torchvision's transforms.v2 on one image at a time in a DataLoader with two worker processes, images a second.
2. A shuffled read and normalisation of the same bytes without augmentation, time.
"""

from collections.abc import Iterable, Iterator
from time import perf_counter

import numpy as np
import torch

from pairs import hardware, ratios, report
from trainopt.data import InMemory

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
BATCH, BATCHES = 128, 390  # nearly an epoch


class PerSample(torch.utils.data.Dataset):
    """Images one at a time, augmented with transforms.v2."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        from torchvision.transforms import v2

        self.images, self.labels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), labels
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def drained(stream: Iterable) -> float:
    """Return seconds for taking every batch of a stream, holding one as a training loop does."""
    began = perf_counter()
    for _ in stream:
        pass
    return perf_counter() - began


def per_sample(data: PerSample, count: int) -> float:
    """Return seconds for some batches, workers already started."""
    loader = iter(torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=2))
    next(loader)
    began = perf_counter()
    for _ in range(count):
        next(loader)
    return perf_counter() - began


def shuffled_read(images: torch.Tensor, labels: torch.Tensor, count: int) -> Iterator[tuple]:
    """Read shuffled batches and normalise them."""
    scale = (1 / (255 * torch.tensor(STD))).view(-1, 1, 1)
    offset = (-torch.tensor(MEAN) / torch.tensor(STD)).view(-1, 1, 1)
    order = torch.randperm(len(labels))
    for i in range(count):
        chosen = order[i * BATCH : (i + 1) * BATCH]
        pixels = images.index_select(0, chosen)
        yield pixels.to(torch.float32).mul_(scale).add_(offset), labels.index_select(0, chosen)


def main() -> bool:
    """Measure both."""
    torch.set_num_threads(2)
    print(f"\nInput pipeline, images a second. {hardware()}")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, 50_000)
    source = InMemory(images, labels, MEAN, STD, flip=0.5, shift=4)
    slow = PerSample(images, labels)
    spans = [(i * BATCH, (i + 1) * BATCH) for i in range(BATCHES)]

    def ours() -> float:
        return drained(source.epoch(0, 0, spans)) / BATCHES

    a, b, ratio = ratios(ours, lambda: per_sample(slow, 12) / 12, 7)
    text = f"against transforms.v2, 2 workers: {BATCH / a:,.0f} / {BATCH / b:,.0f}"
    kept = report(text, 1 / ratio, 25, above=True)
    stored, targets = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)
    a, b, ratio = ratios(ours, lambda: drained(shuffled_read(stored, targets, BATCHES)) / BATCHES, 21)
    return report(f"cost over a shuffled read: {BATCH / a:,.0f} / {BATCH / b:,.0f}", ratio, 2.0) and kept


if __name__ == "__main__":
    raise SystemExit(not main())
