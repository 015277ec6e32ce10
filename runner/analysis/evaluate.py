"""`trainopt evaluate RUN`: the weights of a checkpoint on the evaluation sets of its run."""

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from trainopt.data import DataError

from ..records.checkpoint_files import weights_to_evaluate
from ..records.metrics import read_metrics
from ..records.run_folder import files_changed_since, missing_code_explained, read_config
from ..state.run import Run
from ..system.device import choose_device
from ..system.display import Display
from ..system.errors import UserError
from ..system.files import shown
from ..training.build import build

NEAR = {"rel_tol": 1e-2, "abs_tol": 1e-4}  # what another device or precision may change in a loss or a metric


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
    """Rebuilds a run for evaluation, with fresh weights; warns where the user's code is not what the run used.

    Args:
        folder: the run's.
        device: as in the configuration; None: the run's own.
        display: for notes.
        train_images: number of training images in an evaluation set `train`; 0: there is no such set.
    """
    config, _ = read_config(folder)
    if device is not None:
        config.device = device
    if config.model.weights != "pretrained" and config.model.get("trainable") != "last_layer":
        config.model.weights = None  # the checkpoint has all weights; the file may be gone
    if config.precision in ("tf32", "fp16") and choose_device(config.device).type == "cpu":
        display.say(f"note: on a CPU, precision={config.precision} is evaluated in float32")
        config.precision = "float32"
    with missing_code_explained(folder):
        run = build(config, folder, training=False, train_images=train_images)
    if changed := files_changed_since(folder):  # after their import: what counts is what this process uses
        print(f"warning: {shown(folder)}: the present {', '.join(changed)} is not what the run used", file=sys.stderr)
    return run


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


def other_records(folder: Path, step: int, results: dict[str, dict[str, Any]]) -> list[str]:
    """Returns a line for each evaluation set at which the run recorded other values than its weights now give.

    Args:
        folder: the run's.
        step: of the checkpoint.
        results: the metrics on each evaluation set.
    """
    try:
        records = {record["kind"]: record for record in read_metrics(folder, *results) if record["step"] == step}
    except (OSError, ValueError):
        return []
    lines = []
    for kind, record in records.items():
        differing = [
            f"{name} {record[name]:.4g} instead of {value:.4g}"
            for name, value in results[kind].items()
            if isinstance(value, int | float)
            and isinstance(record.get(name), int | float)
            and not math.isclose(value, record[name], **NEAR)
        ]
        if differing:
            lines.append(
                f"{shown(folder)}: its record of step {step}, {kind}, has {', '.join(differing)}:"
                " code, data or versions have changed since, or the record has"
            )
    return lines
