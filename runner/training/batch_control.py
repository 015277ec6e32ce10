"""Adaptive batch sizes in a run: the trajectory of a reference run, and the decisions on what a probe measures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainopt.data import ReferenceTrajectory

from ..records.metrics import DamagedMetrics, read_metrics
from ..system.errors import UserError

if TYPE_CHECKING:  # build checks with what is here
    from ..state.recorder import Record
    from ..state.run import Run
    from ..system.display import Display


class Control:
    """Tells the batching of a run what its probe measured, and records what it decides.

    Args:
        run: its batching names the probe as `needs_probe`; where it names none, nothing happens.
        record: gets a row for each decision.
        display: says where something changes.
    """

    def __init__(self, run: "Run", record: "Record", display: "Display"):
        self._run, self._record, self._display = run, record, display
        self._probe = run.batching.needs_probe

    def observe(self, measured: dict[str, dict[str, Any]]) -> None:
        """Lets the batching decide, where its probe measured something.

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


def read_reference(folder: str, probe: str) -> ReferenceTrajectory:
    """Returns C_K and L_K as a probe measured them in another run.

    Raises:
        UserError: the folder holds no run, the run is damaged, or it has no such rows.
    """
    try:
        measured = [
            (row["epoch"], row["C_K"], row["L_K"])
            for row in read_metrics(Path(folder), "probe")
            if row["probe"] == probe and None not in (row["C_K"], row["L_K"])
        ]
    except FileNotFoundError:
        raise UserError(f"batching.reference={folder}: holds no run; give the folder of one") from None
    except (OSError, DamagedMetrics, KeyError):
        raise UserError(f"batching.reference={folder}: its metrics.jsonl cannot be read") from None
    if not measured:
        raise UserError(f"batching.reference={folder}: has no rows of the probe; run it with probe=[{probe}]")
    return ReferenceTrajectory(*zip(*measured, strict=True))
