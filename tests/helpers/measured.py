"""A probe in the place of `fisher`: rows that are functions of the step alone, or of what a test says."""

import json
from pathlib import Path

FISHER = "+probe.fisher._target_=helpers.measured.Measured"


def probe_of(target) -> list[str]:
    """What a command needs beside the choice of a class, for the probe that it asks for in `needs_probe`."""
    name = getattr(target, "needs_probe", None)
    if name is None:
        return []
    return [f"probe=[{name}]"]


class Measured:
    """C_K grows by 4 an epoch, L_K by 0.02 a step; the variance is 60 and the squared norm falls from 1 on."""

    def __init__(self, every: str = "2steps"):
        self.every = every

    def before_step(self, run, batch) -> None:
        """Look at nothing."""

    def after_step(self, run, batch) -> dict[str, float]:
        """Return the row."""
        step, epochs = run.progress.step, run.progress.epochs
        return {
            "C_K": 10 + 4 * epochs,
            "L_K": 0.02 * step,
            "gradient_variance": 60.0,
            "mean_gradient_norm_sq": 1 / (1 + 0.1 * step),
        }


def reference_run(folder: Path) -> Path:
    """Write a run's rows of the probe, over many epochs, and return its folder."""
    folder.mkdir(exist_ok=True)
    rows = [{"kind": "probe", "probe": "fisher", "epoch": e, "C_K": 10 + e, "L_K": 0.3 * e} for e in range(200)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps({**row, "step": 1}) + "\n" for row in rows))
    return folder
