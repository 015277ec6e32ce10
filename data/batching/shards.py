"""The part of each batch that one of several processes has."""

from collections.abc import Callable, Iterable, Iterator
from itertools import tee

import torch
from torch import Tensor

from .protocols import Source
from .wrappers import SourceWrapper

Span = tuple[int, int]


class Shards(SourceWrapper):
    """A set of samples of which `epoch` yields a part of each batch; together the parts of all processes are the batch.

    An image in it is what it is in the whole batch, as a function of (seed, epoch, index). Only this process's samples
    are read, except where images are mixed with others of the batch. Evaluations share whole batches of `ordered`.

    Args:
        source: the samples.
        parts: returns the spans of this process in a span of a batch, in order; some may be empty.
    """

    def __init__(self, source: Source, parts: Callable[[Span], list[Span]]):
        super().__init__(source)
        self._parts = parts
        self._mixes = getattr(self.augmentation, "mixes", False)

    def epoch(self, seed: int, epoch: int, spans: Iterable[Span]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields this process's part (inputs, targets) of the batches that `spans` name."""
        spans, ahead = tee(spans)
        if self._mixes:
            for span, whole in zip(spans, self.source.epoch(seed, epoch, ahead), strict=True):
                rows = [slice(a - span[0], b - span[0]) for a, b in self._parts(span)]
                inputs, targets = (torch.cat([values[row] for row in rows]) for values in whole)
                yield inputs, targets
            return
        # no source is asked for an empty batch: one sample is read in its place, and dropped
        read = ((a, b) if a < b else (span[0], span[0] + 1) for span in ahead for a, b in self._parts(span))
        loaded = self.source.epoch(seed, epoch, read)
        for span in spans:
            pieces = []
            for a, b in self._parts(span):
                inputs, targets = next(loaded)
                pieces.append((inputs[: b - a], targets[: b - a]))
            if len(pieces) == 1:
                yield pieces[0]
            else:
                yield torch.cat([x for x, _ in pieces]), torch.cat([y for _, y in pieces])
