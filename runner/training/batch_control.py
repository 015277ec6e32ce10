"""A batching that acts on what a probe measures: what it needs, what it is told, what it decides."""

from collections.abc import Iterator
from math import ceil
from typing import TYPE_CHECKING, Any

from trainopt.data import Batch, Position, batches

from ..config.durations import Duration
from ..system.errors import UserError

if TYPE_CHECKING:  # build checks with what is here
    from ..state.recorder import Record
    from ..system.display import Display
    from .build import Run


class Control:
    """Tells the batching of a run what its probe measured, and records what it decides.

    Args:
        run: its batching names the probe as `needs_probe`; where it names none, nothing happens.
        record: gets a row for each decision.
        display: says where something changes.
    """

    def __init__(self, run: "Run", record: "Record", display: "Display"):
        self._run, self._record, self._display = run, record, display
        self._probe = getattr(run.batching, "needs_probe", None)

    def observe(self, measured: dict[str, dict[str, Any]]) -> None:
        """Let the batching decide, where its probe measured something.

        Args:
            measured: by the probe's name; after the update that it is about.
        """
        run = self._run
        values = measured.get(self._probe) if self._probe else None
        if not values:
            return
        with run.clocks.running("other"):
            decision = run.batching.observe(values, run.progress)
            if decision is None:
                return
            self._record.decided(decision, run.progress.counts(), run.clocks.seconds["train"])
            changed = [
                f"{what} {decision[before]:.6g} -> {decision[key]:.6g}"
                for what, key, before in (
                    ("batch size", "batch_size", "batch_size_before"),
                    ("learning rate x", "lr_factor", "lr_factor_before"),
                )
                if decision[key] != decision[before]
            ]
            if changed:
                self._display.say(f"step {run.progress.step}: {', '.join(changed)}; {decision['reason']}")


def controlled_batches(run: "Run") -> Iterator[Batch]:
    """Yield the batches from where a run stands; from where it then stands again, whenever the size is changed."""
    p, batching = run.progress, run.batching
    while True:
        size = batching.size
        for batch in batches(run.training_set, batching, run.seed, Position(p.epoch, p.offset, p.repeat, p.step)):
            yield batch
            if batching.size != size:
                break


def check_control(batching: Any, probes: dict[str, Any], duration: str, epoch_size: int) -> None:
    """Refuse a batching that acts on a probe where this is missing, or where nothing would ever be decided."""
    name = getattr(batching, "needs_probe", None)
    if name is None:
        return
    if name not in probes:
        raise UserError(f"batching: {type(batching).__name__} acts on what a probe measures; give probe=[{name}]")
    for key, every in ((f"probe.{name}.every", probes[name].every), ("batching.every", batching.every)):
        if never_comes(every, duration, batching, epoch_size):
            raise UserError(f"{key}={every}: never comes in a run of {duration}; give a shorter one")


def never_comes(every: str, duration: str, batching: Any, epoch_size: int) -> bool:
    """Say whether a duration is longer than a run, however large batches will be."""
    one, run = Duration.parse(every), Duration.parse(duration)
    if one.unit == run.unit:
        return one.amount > run.amount
    if one.unit == "epochs":  # a step uses up a batch, and may leave out what remains of an epoch
        return one.amount * epoch_size > run.amount * 2 * batching.largest
    return one.amount > ceil(run.amount) * ceil(epoch_size / batching.smallest) * batching.most_repeats
