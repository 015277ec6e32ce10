"""`trainopt evaluate RUN`: a run's weights on its evaluation sets."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..records.run_folder import read_config
from ..state.run import Run
from ..system.device import choose_device
from ..system.display import Display
from ..system.errors import UserError
from ..training.build import build


@contextmanager
def enough_memory() -> Iterator[None]:
    """Says in one line where a GPU, as one that is being trained on, has too little memory left."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError("the GPU has too little memory left; --device DEVICE evaluates on another") from error


def prepared(folder: Path, device: str | None, display: Display, train_images: int = 0) -> Run:
    """Builds the pieces of a run, on its own device or on another, to evaluate it.

    Args:
        folder: the run's.
        device: as in the configuration; None: the run's.
        display: for notes.
        train_images: as in `build`.
    """
    config, _ = read_config(folder)
    if device is not None:
        config.device = device
    if config.precision == "tf32" and choose_device(config.device).type == "cpu":
        config.precision = "float32"
        display.say("note: on a CPU, precision=tf32 is evaluated in float32")
    return build(config, folder, training=False, train_images=train_images)


def set_state(run: Run, state: dict[str, Any], path: Path) -> None:
    """Sets a run's weights and its counts to those of a checkpoint; UserError if it is that of something else."""
    try:
        run.network.load_state_dict(state["model"])
        run.progress.load_state_dict(state["progress"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: is no checkpoint of this run") from error


def figures(run: Run, kinds: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns what rows say of the run's present weights, for each of these sets."""
    return {kind: run.evaluate(kind) for kind in kinds}
