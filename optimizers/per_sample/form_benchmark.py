"""Choosing the fastest form of each layer's term of the Gram matrix by timing."""

from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from .accumulator import GramAccumulator
from .layers import Form

BATCHES = 2  # on which each form is timed; the first also pays for what libraries do once


class FormBenchmark:
    """Times the forms of each layer on its first two batches, and then uses the fastest (as cudnn.benchmark does).

    A layer is known by the shapes of its call, so that a batch of another size is timed anew. Until the choice is made,
    the numbers are those of the first form. The forms differ in the last bits: two runs that choose differently do too.

    >>> def add(number):
    ...     return lambda total: total.add(torch.tensor([[number]]))
    >>> benchmark, total = FormBenchmark(), GramAccumulator(1, torch.float32, torch.device("cpu"))
    >>> for _ in range(2):
    ...     benchmark.add(total, "layer", {"rows": add(1.0), "pairs": add(-1.0)})
    >>> total.total(), list(benchmark.state_dict()["layer"]["seconds"])
    (tensor([[2.]]), ['rows', 'pairs'])
    """

    def __init__(self) -> None:
        self._timings: dict[str, dict[str, Any]] = {}  # by layer: `batches`, and the least `seconds` by form

    def add(self, total: GramAccumulator, layer: str, forms: dict[str, Form]) -> Tensor | None:
        """Adds a layer's term; returns what the form returns.

        Args:
            total: the sum.
            layer: what tells this call from calls of other shapes.
            forms: by name, first the one that counts while all are timed.
        """
        chosen = next(iter(forms)) if len(forms) == 1 else self._choose(total, layer, forms)
        return forms[chosen](total)

    def _choose(self, total: GramAccumulator, layer: str, forms: dict[str, Form]) -> str:
        """Returns the name of the form to use; times all of them on the first batches."""
        timing = self._timings.get(layer)
        if timing is None or set(timing["seconds"]) != set(forms):
            timing = self._timings[layer] = {"batches": 0, "seconds": {}}
        least = timing["seconds"]
        if timing["batches"] == BATCHES:
            return min(least, key=least.__getitem__)
        timing["batches"] += 1
        for name, form in forms.items():
            seconds = _seconds(form, total)
            least[name] = min(seconds, least.get(name, seconds))
        return next(iter(forms))

    def state_dict(self) -> dict[str, Any]:
        """Returns what was timed, plain values."""
        return {layer: {**timing, "seconds": dict(timing["seconds"])} for layer, timing in self._timings.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self._timings = {layer: {**timing, "seconds": dict(timing["seconds"])} for layer, timing in state.items()}


def _seconds(form: Form, total: GramAccumulator) -> float:
    """Returns how long a form takes, in a sum of its own."""
    scratch, device = total.like(), total.matrix.device
    _wait_for(device)
    began = perf_counter()
    form(scratch)
    scratch.total()
    _wait_for(device)
    return perf_counter() - began


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
