"""The folder of a run: its configuration, its summary, and whether it holds the same run. Needs no torch."""

import hashlib
import json
import math
import shlex
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from ..config.durations import usual_durations
from ..config.forms.rules import yaml_text
from ..config.options import YamlLoader
from ..config.renamed import with_first_names, with_new_names
from ..config.validate import leaves
from ..provenance.user_code import changed_files
from ..system.errors import DIVERGED, MissingModule, UserError, continued, reason
from ..system.files import read_json, write_json
from ..system.lock import is_being_written

CONFIG = "run.yaml"
SUMMARY = "summary.json"
LOG = "log.txt"
ENVIRONMENT = "environment.json"
DONE = ("finished", "diverged")  # the status of a run that has ended

# Keys, and the beginnings of keys, that have no effect on a run's results.
KEYS_WITHOUT_EFFECT = (
    *(
        "run.",
        "logger",
        "devices_per_job",
        "checkpoint_every",
        "keep_checkpoints.",
        "data.root",
        "data.download",
        "data.workers",
        "data.check",
    ),
)


def identity(config: DictConfig, usual: bool = True) -> dict[str, Any]:
    """Returns the values of the keys that have an effect on a run's results, by dotted key.

    Args:
        config: of the run.
        usual: whether durations that mean the same are written in the same way.
    """
    return values_with_effect(dict(leaves(config)), usual)


def values_with_effect(values: Mapping[str, Any], usual: bool = True) -> dict[str, Any]:
    """Returns those of the values of a configuration, by dotted key, that `identity` has."""
    values = {key: value for key, value in values.items() if not key.startswith(KEYS_WITHOUT_EFFECT)}
    return {key: usual_durations(value) for key, value in values.items()} if usual else values


def fingerprint(config: DictConfig, usual: bool = True) -> str:
    """Returns 16 hexadecimal digits that two configurations share if they are of the same run.

    Args:
        config: of the run.
        usual: as of `identity`; version 0.1.0 took durations as they were typed.
    """
    return fingerprint_of(dict(leaves(config)), usual)


def fingerprint_of(values: Mapping[str, Any], usual: bool = True) -> str:
    """Returns the fingerprint of a configuration, as `fingerprint` does, from its values by dotted key."""
    text = json.dumps(with_first_names(values_with_effect(values, usual)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a run's configuration and its choice of an option for each group, under the present names.

    Raises:
        OSError: run.yaml cannot be read.
        ValueError: it is damaged, or was not written by this program.
    """
    try:
        with open(folder / CONFIG, "rb") as file:
            content = yaml.load(file, YamlLoader)
        choices = content.pop("choices")
        content.pop("fingerprint")
        content.pop("history", None)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{CONFIG} is damaged") from error
    return with_new_names(content, choices)


def flatten(content: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yields (dotted key, value) of nested dicts; lists stay values.

    >>> dict(flatten({"final": {"top1": 90.0}, "seed": 0}))
    {'final.top1': 90.0, 'seed': 0}
    """
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Returns the changes of a run's configuration: {step, before}, the values that keys had until that step."""
    with open(folder / CONFIG, "rb") as file:
        return list(yaml.load(file, YamlLoader).get("history", ()))


def read_config(folder: Path) -> tuple[DictConfig, dict[str, Any]]:
    """Returns a run's configuration and its choice of an option for each group; UserError where they are missing."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder}: is no run's folder (there is no {CONFIG} in it)")
    try:
        content, choices = load_config(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read; it is damaged, or was not written by this program") from error
    return OmegaConf.create(content), choices


def read_summary(folder: Path) -> dict[str, Any]:
    """Returns a run's summary.json; empty where it is missing or damaged."""
    return read_json(folder / SUMMARY)


def read_former_environment(folder: Path) -> dict[str, Any]:
    """Returns the environment.json of a run that goes on.

    The checksum of its data is left out where an image that cannot be read ended the run: its repair changes the size.
    """
    environment = read_json(folder / ENVIRONMENT)
    if read_summary(folder).get("damaged_image"):
        environment.pop("data_checksum", None)
    return environment


def wait_until_begun(folder: Path, look_seconds: float = 0.2) -> None:
    """Waits while a living process prepares the run of a folder; then there is a run.yaml, or the run failed."""
    while not (folder / CONFIG).exists() and is_being_written(folder):
        time.sleep(look_seconds)


class OtherRun(UserError):
    """A folder holds another run.

    Args:
        difference: what differs, after the folder.
        advice: what to do where a single run was typed.
    """

    def __init__(self, difference: str, advice: str = ""):
        super().__init__(f"{difference}; {advice}" if advice else difference)
        self.difference = difference


def check_same_run(folder: Path, config: DictConfig) -> None:
    """Raises OtherRun if the folder holds a run with another configuration."""
    ours, theirs = identity(config), identity(read_config(folder)[0])
    differ = [key for key in sorted({*ours, *theirs}) if ours.get(key, "—") != theirs.get(key, "—")]
    if differ:
        shown = [f"{key} ({value_text(theirs, key)} there, {value_text(ours, key)} here)" for key in differ[:5]]
        more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
        raise OtherRun(
            f"{folder}: holds a run with another configuration: {', '.join(shown)}{more}",
            "give run.name=NAME or hydra.run.dir=DIR for a new one, or remove it",
        )


def changed_code(folder: Path) -> list[str]:
    """Returns the files of the user's code that have changed since a run that has ended used them; none of others."""
    if read_summary(folder).get("status") not in (*DONE, "pruned"):
        return []
    return files_changed_since(folder)


def files_changed_since(folder: Path) -> list[str]:
    """Returns the files of the user's code that are not what a run used when it was last started."""
    return changed_files(read_json(folder / ENVIRONMENT).get("code", ()))


@contextmanager
def missing_code_explained(folder: Path) -> Iterator[None]:
    """Adds to the error that a module is not there from where the run of a folder imported it."""
    try:
        yield
    except MissingModule as error:
        for record in read_json(folder / ENVIRONMENT).get("code", ()):
            if record["folder"] and error.package in (name.partition(".")[0] for name in record["modules"]):
                source, files = record["folder"], ", ".join(record["files"])
                origin = (
                    f"the run imported it from {source} ({files}): give the command in that folder, or after"
                    f" export PYTHONPATH={shlex.quote(source)}; where the code has moved, name its new folder"
                )
                raise UserError(continued(error, origin)) from error
        raise


def value_text(values: dict[str, Any], key: str) -> str:
    """Returns the value of a key as YAML has it; a dash where there is none."""
    return yaml_text(values[key]) if key in values else "—"


def check_former_name(folder: Path, config: DictConfig, former_name: str | None) -> None:
    """Raises UserError if the run of a folder that is not there lies beside it, under the name of an earlier version.

    Args:
        folder: the run's.
        config: of the run.
        former_name: of the folder; None: it was the same.
    """
    if former_name is None or (folder / CONFIG).exists():
        return
    former = folder.with_name(former_name)
    if (former / CONFIG).exists() and identity(config) == identity(read_config(former)[0]):
        raise UserError(moved_text(former, folder, "run"))


def moved_text(former: Path, folder: Path, what: str) -> str:
    """Returns the line that says how a run or a sweep under the name of an earlier version is gone on with."""
    move = shlex.join(["mv", str(former), str(folder)])
    return f"{former}: is this {what}, under the name of an earlier version; go on with it after {move}"


def summary_if_done(folder: Path, config: DictConfig) -> dict[str, Any] | None:
    """Returns the summary of the run in a folder if it has ended; OtherRun if it is another run, or of other code."""
    if not (folder / CONFIG).exists():
        return None
    check_same_run(folder, config)
    summary = read_summary(folder)
    if summary.get("status") not in DONE:
        return None
    changed = changed_code(folder)
    if changed:
        raise OtherRun(
            f"{folder}: holds a {summary['status']} run of other code: {', '.join(changed)}"
            f" {'has' if len(changed) == 1 else 'have'} changed since",
            "give run.name=NAME or hydra.run.dir=DIR for the present code, or remove it",
        )
    return summary


def mark_pruned(folder: Path) -> None:
    """Writes into the summary of a paused run that a search does not go on with it."""
    write_json(folder / SUMMARY, {**read_summary(folder), "status": "pruned"})


def strict_code(code: int, folder: Path) -> int:
    """Returns the exit code with --strict of the run in a folder, which ended with `code`."""
    return DIVERGED if read_summary(folder).get("status") == "diverged" else code


def selected_value(folder: Path) -> float:
    """Returns the best value of the metric by which a run selects its best weights; not a number of an unfinished run.

    It is on the validation set, or on the test set where there is no such; where no metric selects, it is the lowest
    loss.
    """
    summary = read_summary(folder)
    best = summary.get("best") or summary.get("lowest_loss") or {}
    value = best.get("value") if summary.get("status") == "finished" else None
    return math.nan if value is None else float(value)


def log_traceback(folder: Path, error: Exception) -> None:
    """Adds an error's traceback to the log of a run."""
    with open(folder / LOG, "a", encoding="utf-8", errors="replace") as log:
        log.writelines(traceback.format_exception(error))


def record_failure(folder: Path, error: Exception, refused: bool = False) -> None:
    """Writes an error that ended a run before or after its training into its log and its summary.

    Args:
        folder: the run's.
        error: that ended it.
        refused: whether the run cannot begin as it is configured.
    """
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        log_traceback(folder, error)
        outcome = {"status": "failed", "error": reason(error), "refused": refused}
        write_json(folder / SUMMARY, {**read_summary(folder), **outcome})


def failure(text: str, kind: str) -> dict[str, Any]:
    """Returns what an error that ended a training leaves in the summary of the run.

    Args:
        text: of the error, in one line.
        kind: the name of its class.
    """
    return {"status": "failed", "error": text, **({"damaged_image": True} if kind == "DamagedImage" else {})}


def remove_if_empty(folder: Path) -> None:
    """Removes a folder if it is empty, and then those above it, up to the working directory."""
    working_directory = Path.cwd()
    for path in (folder, *(parent for parent in folder.parents if working_directory in parent.parents)):
        if not path.is_dir() or any(path.iterdir()):
            return
        try:
            path.rmdir()
        except OSError:  # a mount, or not ours to change
            return
