"""A run's folder: what is already there, and whether it is the same run. Needs no torch."""

import hashlib
import json
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from ..config.options import read
from ..config.renamed import with_first_names, with_new_names
from ..config.validate import leaves
from ..system.errors import UserError, reason
from ..system.files import read_json, write_json
from ..system.lock import is_written

# Keys that change nothing about a run's numbers.
APART = ("run.", "logger.", "checkpoint_every", "keep_checkpoints.", "data.root", "data.download", "data.workers")
DONE = ("finished", "diverged")


def identity(config: DictConfig) -> dict[str, Any]:
    """Returns the dotted keys that make a run what it is, with their values."""
    return {key: value for key, value in leaves(config) if not key.startswith(APART)}


def fingerprint(config: DictConfig) -> str:
    """Returns 16 hexadecimal digits that two runs share if they are the same run."""
    text = json.dumps(with_first_names(identity(config)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_config(folder: Path) -> tuple[DictConfig, dict[str, Any]]:
    """Returns a run's configuration and its choices of options, from run.yaml."""
    path = folder / "run.yaml"
    if not path.is_file():
        raise UserError(f"{folder}: is no run's folder (there is no run.yaml in it)")
    try:
        content = dict(read(path))
        choices = content.pop("choices")
        content.pop("fingerprint")
    except (YAMLError, KeyError, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read; it is damaged, or none of this program") from error
    content, choices = with_new_names(content, choices)
    return OmegaConf.create(content), choices


def await_begin(folder: Path, look_seconds: float = 0.2) -> None:
    """Waits while a living process prepares the run of a folder; it then has a run.yaml, or could not begin."""
    while not (folder / "run.yaml").exists() and is_written(folder):
        time.sleep(look_seconds)


class StaleRun(UserError):
    """A folder holds a run with another configuration; the text names the keys that differ."""


def same_run(folder: Path, config: DictConfig) -> None:
    """Raises StaleRun if the folder holds a run with another configuration."""
    there, _ = read_config(folder)
    ours, theirs = identity(config), identity(there)
    differ = [key for key in sorted({*ours, *theirs}) if ours.get(key, "—") != theirs.get(key, "—")]
    if differ:
        shown = [f"{key} ({theirs.get(key, '—')} there, {ours.get(key, '—')} here)" for key in differ[:5]]
        more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
        raise StaleRun(
            f"{folder}: holds a run with another configuration: {', '.join(shown)}{more};"
            " give run.name=NAME or hydra.run.dir=DIR for a new one, or remove it"
        )


def summary_if_done(folder: Path, config: DictConfig) -> dict[str, Any] | None:
    """Returns the summary of the run in a folder if it has come to its end; StaleRun if it is another run."""
    if not (folder / "run.yaml").exists():
        return None
    same_run(folder, config)
    summary = read_json(folder / "summary.json")
    return summary if summary.get("status") in DONE else None


def log_traceback(folder: Path, error: Exception) -> None:
    """Adds an error's traceback to the log of a run."""
    with open(folder / "log.txt", "a") as log:
        log.writelines(traceback.format_exception(error))


def fail(folder: Path, error: Exception) -> None:
    """Puts on record what kept a run from beginning, or ended it outside of the training."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        log_traceback(folder, error)
        summary = read_json(folder / "summary.json")
        write_json(folder / "summary.json", {**summary, "status": "failed", "error": reason(error)})


def remove_if_empty(folder: Path) -> None:
    """Removes a folder if it is empty, and then those above it, up to the working directory."""
    here = Path.cwd()
    for place in (folder, *(p for p in folder.parents if here in p.parents)):
        if not place.is_dir() or any(place.iterdir()):
            return
        try:
            place.rmdir()
        except OSError:  # a mount, or not ours to change
            return
