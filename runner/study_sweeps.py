"""What became of a study's sweeps."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SweepState:
    """What became of a sweep of a study at one scale.

    Attributes:
        folder: the sweep's.
        state: `done`, `incomplete` or `not_run`.
        reason: why it is not done, in words.
    """

    folder: Path
    state: str
    reason: str | None
