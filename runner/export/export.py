"""`trainopt export RUN`: a folder with the weights of a checkpoint, what loads them, and a model card."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from trainopt.models import LastLayer

from ..analysis.checkpoints import checkpoint_path, read_state
from ..analysis.evaluate import evaluate_sets, evaluation_errors_explained, load_weights, rebuild_run
from ..records.checkpoint_files import holds_average
from ..records.run_folder import read_config
from ..system.display import Display
from ..system.errors import UserError, cannot_write
from ..system.files import read_json, shown, write_text
from .card import model_card
from .formats import CONFIG_FILE, MARK, PROGRAM_FILE, WEIGHTS_FILE, Exported, write_network
from .inputs import image_facts

CARD_FILE = "README.md"
FILES = (WEIGHTS_FILE, CONFIG_FILE, PROGRAM_FILE, CARD_FILE)


def export_run(folder: Path, which: str, out: Path, display: Display) -> list[str]:
    """Exports the weights of a run's checkpoint; returns the names of the files.

    The files are written beside `out` and loaded once, before they take the place of those of an earlier export;
    all else in that folder stays as it is.

    Args:
        folder: the run's.
        which: `best`, `last`, or a checkpoint file.
        out: the folder to write; new, empty, or an export.
        display: for notes.

    Raises:
        UserError: the folder holds something else, the checkpoint does not belong to the run, or the network cannot
            be exported.
    """
    check_out(out)
    config, choices = read_config(folder)
    path = checkpoint_path(folder, which) if which in ("best", "last") else Path(which)
    state = read_state(path)
    with evaluation_errors_explained():
        run = rebuild_run(folder, "cpu", display)
        load_weights(run, state, path)
        if run.objective.returns_loss:
            raise UserError(f"{shown(folder)}: is of a test function, which has no network to export")
        results = evaluate_sets(run, run.evaluation_sets)
    network = run.network.network if isinstance(run.network, LastLayer) else run.network
    network = network.eval().to(memory_format=torch.contiguous_format)  # as files of weights are
    about: dict[str, Any] = {"run": folder.resolve().name, "checkpoint": path.name, "step": run.progress.step}
    with new_files(out) as temporary:
        shapes = (run.input_shape, run.input_dtype, run.num_outputs, run.num_tokens)
        exported = Exported(network, config, choices, *shapes, **image_facts(run))
        loads = write_network(exported, temporary, about)
        weights = f"the {'averaged ' if holds_average(state) else ''}weights of `{path.name}`"
        card = model_card(folder, exported, run, weights, results, loads)
        write_text(temporary / CARD_FILE, card)
    return sorted(name for name in FILES if (out / name).is_file())


def check_out(out: Path) -> None:
    """Raises UserError for a path that is no folder, or one that holds something else than an export."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"--out {out}: is no folder")
    if any(out.iterdir()) and MARK not in read_json(out / CONFIG_FILE):
        raise UserError(f"--out {out}: holds other files than those of an export; give a new folder")


@contextmanager
def new_files(out: Path) -> Iterator[Path]:
    """Yields a folder whose files take the place of those of an export at its end; nothing is changed on an error."""
    temporary = out.with_name(f"{out.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        out.mkdir(exist_ok=True)
        for name in FILES:
            if (temporary / name).exists():
                os.replace(temporary / name, out / name)
            else:
                (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(cannot_write(error, out).partition(";")[0] + "; give another --out DIR") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
