"""`trainopt sync RUN|SWEEP … --to TRACKER`: sends what is in run folders to a tracker, each record once."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..config.instantiate import construct, find
from ..config.options import CONF, Vocabulary, option_content
from ..records.job_table import jobs_below
from ..records.metrics import METRICS_FILE, DamagedMetrics
from ..records.run_folder import CONFIG, read_config
from ..system.errors import FAILED, UserError, nearest, one_line
from ..system.files import plural, shown
from ..system.flags import FlagParser, existing_folder
from ..system.lock import Busy
from ..trackers.delivery import Delivery, TrackerError
from ..trackers.tracker import Tracker

TRACKERS = ("wandb", "mlflow", "trackio")


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser(
        "trainopt sync",
        description="Send the records of runs to a tracker; the same command again sends only new ones.",
    )
    parser.add_argument(
        "paths",
        type=existing_folder,
        nargs="+",
        metavar="RUN|SWEEP",
        help="folders of runs, or folders above them; and logger.NAME.KEY=VALUE for the keys of logger/NAME.yaml",
    )
    parser.add_argument("--to", metavar="|".join(TRACKERS), help="the tracker that gets the records")
    return parser


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt sync RUN|SWEEP … --to wandb|mlflow|trackio`."""
    del debug
    typed = [word for word in arguments if word.startswith("logger.")]
    return sync(parser().parse_intermixed_args([word for word in arguments if word not in typed]), typed)


def sync(options: Namespace, typed: list[str]) -> int:
    """Sends each run; returns the exit code. The first run that the tracker does not take ends it.

    Args:
        options: of the command line, parsed.
        typed: settings of the tracker.

    Raises:
        UserError: a folder holds no run, or a setting is wrong; nothing was sent.
    """
    if options.to is None:
        raise UserError(f"sync: --to is missing; give one of {', '.join(TRACKERS)}")
    folders = run_folders(options.paths)
    trackers = [tracker_of(folder, options.to, typed) for folder in folders]
    code = 0
    for folder, tracker in zip(folders, trackers, strict=True):
        try:
            print(f"{shown(folder)}: {deliver(folder, tracker)}", flush=True)
        except Busy as busy:
            print(busy, flush=True)
        except (DamagedMetrics, OSError) as error:
            print(f"trainopt: {shown(folder)}: {one_line(error)}", file=sys.stderr)
            code = FAILED
        except TrackerError as error:
            line = f"{shown(folder)}: {tracker.name} {error}; the same command sends the rest once that is mended"
            print(f"trainopt: {line}", file=sys.stderr)
            return FAILED
    return code


def run_folders(paths: list[Path]) -> list[Path]:
    """Returns the folders of runs that paths name, each once: runs, or all runs below a folder."""
    runs: dict[Path, Path] = {}
    for path in paths:
        below = [path] if (path / CONFIG).is_file() else [path / name for name in jobs_below(path)]
        begun = [folder for folder in below if (folder / CONFIG).is_file() and (folder / METRICS_FILE).is_file()]
        if not begun:
            raise UserError(f"{path}: holds no records of a run (there is no {METRICS_FILE} in it or below it)")
        runs |= {folder.resolve(): folder for folder in begun}
    return list(runs.values())


def tracker_of(folder: Path, name: str, typed: list[str]) -> Tracker:
    """Returns a tracker with the settings of its YAML, then of the run, then of the command line.

    Raises:
        UserError: there is no such tracker, or it does not take a setting.
    """
    key = f"logger.{name}"
    path = Vocabulary([CONF]).file("logger", name)
    settings: dict[str, Any] = option_content(path)[name] if path is not None else {}
    of_run = settings_of_run(folder, name)
    target = of_run.pop("_target_", None)
    for word in typed:
        if not (word.startswith(f"{key}.") and "=" in word):
            raise UserError(f"sync: {word}: only settings of the tracker can be set, as {key}.KEY=VALUE")
    if target not in (None, settings.get("_target_")) and not any(w.startswith(f"{key}._target_=") for w in typed):
        line = f"sync imports no class that a run's folder names; if you trust it, give {key}._target_={target}"
        raise UserError(f"sync: --to {name}: is {target} in {shown(folder)}; {line}")
    settings = {**settings, **of_run}
    try:
        node = OmegaConf.merge({"logger": {name: settings}}, OmegaConf.from_dotlist(typed)).logger[name]
    except OmegaConfBaseException as error:
        raise UserError(f"sync: {one_line(error)}") from error
    tracker = find(node, key) if node.get("_target_") else None
    if not (isinstance(tracker, type) and issubclass(tracker, Tracker)):
        hint = nearest(name, TRACKERS) or f"; there are {', '.join(TRACKERS)}"
        raise UserError(f"sync: --to {name}: no such tracker{hint}")
    OmegaConf.update(node, "_recursive_", False)
    return construct(node, key)


def settings_of_run(folder: Path, name: str) -> dict[str, Any]:
    """Returns the settings of a tracker in run.yaml; UserError where they hold more than values: nobody checked them.

    A `_target_` below them stays a value, as `tracker_of` constructs nothing but the tracker.
    """
    config: Any = OmegaConf.to_container(read_config(folder)[0])
    loggers = config.get("logger") or {}
    settings = loggers.get(name) or {} if isinstance(loggers, dict) else loggers
    has_values_only = isinstance(settings, dict) and "${" not in str(settings)
    if not has_values_only or any(str(key).startswith("_") and key != "_target_" for key in settings):
        line = "must hold values only, no ${…} and no key such as _args_; remove them there"
        raise UserError(f"sync: {shown(folder / CONFIG)}: logger.{name} {line}")
    return settings


def deliver(folder: Path, tracker: Tracker) -> str:
    """Sends what is new of a run; returns what was done, in a line."""
    with Delivery(folder, tracker) as delivery:
        if delivery.is_complete:
            return f"nothing new for {tracker.name}{tracker.upload_hint(folder)}"
        place = delivery.open()
        count = delivery.send()
        delivery.finish()
    return f"{plural(count, 'record')} to {tracker.name}: {place}"
