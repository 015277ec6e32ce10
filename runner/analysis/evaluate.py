"""`trainopt evaluate RUN`: the weights of a checkpoint on the evaluation sets of its run."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from trainopt.data import DataError

from ..records.checkpoint_files import weights_to_evaluate
from ..records.run_folder import read_config
from ..state.run import Run
from ..system.device import choose_device
from ..system.display import Display
from ..system.errors import UserError
from ..training.build import build


@contextmanager
def evaluation_errors_explained() -> Iterator[None]:
    """Turns into a UserError what ends an evaluation: a file of the data that cannot be read, or a full GPU.

    A GPU may have too little memory while another process trains on it.
    """
    try:
        yield
    except DataError as error:
        raise UserError(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise UserError("the GPU has too little memory left; --device DEVICE evaluates on another") from error


def rebuild_run(folder: Path, device: str | None, display: Display, train_images: int = 0) -> Run:
    """Rebuilds a run for evaluation, with fresh weights.

    Args:
        folder: the run's.
        device: as in the configuration; None: the run's own.
        display: for notes.
        train_images: number of training images in an evaluation set `train`; 0: there is no such set.
    """
    config, _ = read_config(folder)
    if device is not None:
        config.device = device
    if config.precision in ("tf32", "fp16") and choose_device(config.device).type == "cpu":
        display.say(f"note: on a CPU, precision={config.precision} is evaluated in float32")
        config.precision = "float32"
    return build(config, folder, training=False, train_images=train_images)


def load_weights(run: Run, state: dict[str, Any], path: Path) -> None:
    """Loads a checkpoint's weights, averaged where it has such, and counts into a run.

    Raises:
        UserError: the checkpoint does not belong to the run.
    """
    try:
        run.network.load_state_dict(weights_to_evaluate(state))
        run.progress.load_state_dict(state["progress"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: is no checkpoint of this run") from error


def evaluate_sets(run: Run, kinds: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns the metrics of a run's present weights on each of these evaluation sets."""
    return {kind: run.evaluate(kind) for kind in kinds}
