"""Adaptive batch sizes in a run: the trajectory of a reference run, and the decisions on what a probe measures."""

from pathlib import Path
from typing import Any

from trainopt.data import ReferenceTrajectory

from ..records.metrics import DamagedMetrics, read_metrics
from ..state.recorder import Recorder
from ..state.run import Run
from ..system.display import Display
from ..system.errors import UserError


class BatchController:
    """Hands the measurements of a probe to the batching of a run, and records what it decides.

    Args:
        run: its batching names the probe as `needs_probe`; where it names none, nothing happens.
        recorder: gets a row for each decision.
        display: shows changes.
    """

    def __init__(self, run: Run, recorder: Recorder, display: Display):
        self._run, self._recorder, self._display = run, recorder, display
        self._probe = run.batching.needs_probe

    def observe(self, measured: dict[str, dict[str, Any]]) -> None:
        """Lets the batching decide where its probe measured the last step.

        Args:
            measured: values of the last step, by the name of the probe.
        """
        run = self._run
        values = measured.get(self._probe) if self._probe else None
        if not values:
            return
        with run.clocks.running("other"):
            decision = run.batching.observe(values, run.progress)
            if decision is None:
                return
            self._recorder.log_control(decision)
            changes = [
                f"{what} {decision[before]:.6g} -> {decision[key]:.6g}"
                for what, key, before in (
                    ("batch size", "batch_size", "batch_size_before"),
                    ("learning rate x", "lr_factor", "lr_factor_before"),
                )
                if decision[key] != decision[before]
            ]
            if changes:
                self._display.say(f"step {run.progress.step}: {', '.join(changes)}; {decision['reason']}")


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
        raise UserError(f"batching.reference={folder}: has no records of the probe; train it with probe=[{probe}]")
    return ReferenceTrajectory(*zip(*measured, strict=True))
