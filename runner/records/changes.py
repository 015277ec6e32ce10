"""A run that goes on with another configuration which leaves its past as it was, as a longer one. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..config.durations import Duration
from ..config.forms.rules import yaml_text
from ..config.overrides import split_override
from ..config.quoting import literal
from ..config.validate import leaves
from ..system.errors import UserError
from ..system.files import read_json, write_json
from ..system.lock import waited_for
from .job_table import PLAN, PlanLock, is_trial, sweep_jobs
from .run_folder import KEYS_WITHOUT_EFFECT, fingerprint

# Keys of a run's results that may change nevertheless, by what else must hold: see `check_change` of training.
KEYS_OF_THE_FUTURE = ("duration", "evaluate_every", "log_every", "early_stopping.patience", "device")
CHANGEABLE = (*KEYS_OF_THE_FUTURE, *(key for key in KEYS_WITHOUT_EFFECT if key != "run."))

WHAT_MAY_CHANGE = (
    "duration, evaluate_every, log_every, checkpoint_every, keep_checkpoints.*, early_stopping.patience, device,"
    " logger, data.root, data.workers"
)


@dataclass
class Change:
    """What becomes another in the configuration of a run.

    Attributes:
        former: the configuration so far.
        config: the one from now on.
        before: the former value of each key that changes.
        fixed: keys that were typed with the value that they have.
    """

    former: DictConfig
    config: DictConfig
    before: dict[str, Any]
    fixed: list[str]

    def describe(self, step: int) -> str:
        """Returns a line about what changes after a step."""
        now = ", ".join(f"{key}={yaml_text(OmegaConf.select(self.config, key))}" for key in self.before)
        return f"from step {step} on {now}; before {', '.join(map(yaml_text, self.before.values()))}"


def change_of(former: DictConfig, config: DictConfig, typed: Mapping[str, Any]) -> Change | None:
    """Returns the change from one configuration of a run to another; None where nothing changes.

    Args:
        former: the configuration so far.
        config: the one from now on.
        typed: the values that were typed, by key.

    Raises:
        UserError: a key changes on which the run's past depends; names it.
    """
    values, now = dict(leaves(former)), dict(leaves(config))
    changed = [key for key in {**values, **now} if values.get(key) != now.get(key)]
    for key in changed:
        if not key.startswith(CHANGEABLE):
            raise UserError(
                f"{key}={yaml_text(now.get(key))}: the run had {yaml_text(values.get(key))} until now, and would be"
                f" another run; what may change is {WHAT_MAY_CHANGE}"
            )
    if not changed:
        return None
    change = Change(former, config, {key: values.get(key) for key in changed}, [k for k in typed if k not in changed])
    check_patience(change)
    if "duration" in change.before:
        check_what_follows(change)
    return change


def check_patience(change: Change) -> None:
    """Refuses a patience with which the run might have ended earlier."""
    key, now = "early_stopping.patience", change.config.early_stopping.patience
    before = change.before.get(key, now)
    if key in change.before and now is not None and (before is None or now < before):
        past = yaml_text(before)
        raise UserError(f"{key}={now}: the run had {past} until now, and might have ended; give more, or null")


def check_what_follows(change: Change) -> None:
    """Refuses another duration where a key is as long as the run was, and so may have been ${duration}."""
    before = Duration.parse(change.former.duration)
    for key, value in leaves(change.former):
        is_as_long = isinstance(value, str) and Duration.is_valid(value) and Duration.parse(value) == before
        if is_as_long and not key.startswith(CHANGEABLE) and key not in change.fixed:
            stays, instead = "if it stays", ""
            if key.startswith("schedule."):
                stays = "if the learning rate with which it ended is to stay"
                instead = "; a schedule over the new length takes a new run with model.weights=RUN/checkpoints/last.pt"
            raise UserError(
                f"duration={change.config.duration}: {key}={value} is as long as the run: if it follows duration,"
                f" the run so far would have been another; give {key}={value}, too, {stays}{instead}"
            )


def update_plan(folder: Path, change: Change) -> None:
    """Lets the plan of the sweep that a run is a job of, if any, say what the run now is."""
    for sweep, job in sweep_jobs([folder.resolve()]).values():
        with waited_for(partial(PlanLock, sweep)):
            plan = read_json(sweep / PLAN)
            for entry in plan["jobs"]:
                if entry["folder"] == job["folder"]:
                    entry.update(changed_job(entry, change))
                    entry.pop("changed_code", None)  # it goes on with the present code, as its summary notes
            write_json(sweep / PLAN, plan)


def changed_job(job: dict[str, Any], change: Change) -> dict[str, Any]:
    """Returns what a change makes another in the plan's entry of a job."""
    values = dict(leaves(change.config))
    loggers, former = set(change.config.logger or ()), set(change.former.logger or ())
    other_loggers = ["logger", *(f"logger.{name}" for name in loggers ^ former)] if loggers != former else []

    def is_of_others(key: str) -> bool:
        """Returns whether a key chooses loggers, or is of one that is chosen or left out with the change."""
        return key in other_loggers or key.startswith(tuple(f"{name}." for name in other_loggers[1:]))

    typed = [(*split_override(text)[:2], text) for text in job["overrides"]]
    signs = {key: sign for sign, key, _ in typed}
    kept = [text for _, key, text in typed if key not in change.before and not is_of_others(key)]
    chosen = [f"logger=[{','.join(sorted(loggers))}]"] if other_loggers else []
    changed = [key for key in change.before if key in values and not is_of_others(key)]
    overrides = [*kept, *chosen, *(f"{signs.get(key, '')}{key}={literal(values[key])}" for key in changed)]
    return {"overrides": overrides, "fingerprint": fingerprint(change.config), "duration": change.config.duration}


def check_plan(folder: Path) -> None:
    """Refuses to change a trial of a search: trials are compared with one another."""
    for sweep, job in sweep_jobs([folder.resolve()]).values():
        if is_trial(job):
            raise UserError(f"{folder}: is a trial of the search in {sweep}, whose trials must stay alike")
