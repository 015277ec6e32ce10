"""The sweeps of a study at one scale: what is typed, the jobs that this leads to, and what became of them."""

import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ..config.data_files import is_below, missing
from ..config.options import CONF, STUDIES, shipped
from ..config.overrides import split_override
from ..records.job_table import ENDED, STATES, JobStatus, job_status, read_jobs
from ..sweeps.compose import Composer
from ..sweeps.jobs import all_at_once, planned_jobs
from ..system.errors import UserError, nearest
from ..system.files import read_json, write_json
from ..system.lock import folders_being_written
from .schema import Study, StudySweep

KEPT = "plan.json"  # what was composed, in the folder of a study at a scale
PLACE = re.compile(r"[\w/.+@%: -]*")  # needs no quotes in a value, and may stand in quotes
APART = ("hydra.sweep.dir", "hydra.sweep.subdir", "hydra/launcher", "hydra.launcher")  # what typed says nothing of


@dataclass(frozen=True)
class SweepState:
    """What became of one sweep of a study.

    Attributes:
        folder: of the sweep.
        state: `done`, also where runs diverged; `incomplete`: runs failed or are missing; `not_run`.
        reason: in words, where it is not done.
    """

    folder: Path
    state: str
    reason: str | None = None

    def said(self) -> str:
        """Returns state and reason as words."""
        return f"{self.state.replace('_', ' ')}: {self.reason}" if self.reason else self.state


@dataclass
class PlannedSweep:
    """A sweep of a study at a scale, composed and checked.

    Attributes:
        name: of the study's.
        folder: of its runs.
        after: names of the sweeps of this scale that have to be done before.
        typed: what is typed behind `trainopt -m`.
        jobs: those that it begins with, as `sweep.planned_jobs` says them.
        grows: whether more may follow, as in a search.
        missing: a line for each data set or file that is needed and not there.
        is_complete: of one that grows, whether its command has come to its end.
    """

    name: str
    folder: Path
    after: list[str]
    typed: list[str]
    jobs: list[dict[str, Any]] = field(default_factory=list)
    grows: bool = False
    missing: list[str] = field(default_factory=list)
    is_complete: bool = False

    def entries(self) -> list[JobStatus]:
        """Returns the state of every job that is known; those of earlier versions of the study are left out."""
        jobs = {job["folder"]: job for job in self.jobs}
        if self.grows:
            jobs = {job["folder"]: job for job in read_jobs(self.folder)} | jobs
        alive = folders_being_written([self.folder / name for name in jobs])
        return [job_status(self.folder, name, job, self.folder / name in alive) for name, job in jobs.items()]

    def state(self) -> SweepState:
        """Returns what became of it, as its folder says."""
        entries = self.entries()
        left = [e for e in entries if e.state not in ENDED]
        if not left and (self.is_complete or not self.grows):
            return SweepState(self.folder, "done")
        return SweepState(self.folder, "incomplete", what_is_left(entries, left))

    def hindrance(self, before: dict[str, SweepState]) -> str | None:
        """Returns why it cannot be run, if so.

        Args:
            before: what became of other sweeps.
        """
        reasons = list(self.missing)
        for name in self.after:
            if name in before and before[name].state != "done":
                reasons.append(f"needs {name}, which is {before[name].said()}")
        return "; ".join(reasons) or None

    def can_go_on(self) -> bool:
        """Returns whether its command would start a job; outdated and running ones it leaves alone."""
        states = {e.state for e in self.entries()} - {*ENDED, "running", "outdated"}
        return bool(states) or (self.grows and not self.is_complete)


def what_is_left(entries: list[JobStatus], left: list[JobStatus]) -> str:
    """Returns in a line how many runs are not done, and why."""
    if not left:
        return "its command has not come to its end"
    number = Counter(e.state for e in left)
    parts = [f"{number[state]} {state}" for state in STATES if number[state]]
    text = f"of {len(entries)} runs {', '.join(parts)}"
    errors = [f"{e.name}: {e.error}" for e in left if e.error]
    outdated = [e.name for e in left if e.state == "outdated"]
    if errors:
        text += f" ({errors[0]})"
    if outdated:
        text += f"; outdated: the folder {outdated[0]} holds a run with another configuration, remove it"
    return text


class StudyPlan:
    """All sweeps of a study at a scale.

    Args:
        study: what it says.
        scale: one of its scales.
        folder: for its sweeps and its report.
        composer: of configurations.
        launcher: what is typed about it.

    Raises:
        UserError: a sweep cannot be composed, or a job not be run as it was typed; one line that says where.
    """

    def __init__(self, study: Study, scale: str, folder: Path, composer: Composer, launcher: list[str]):
        self.study, self.scale, self.folder = study, study.scales[scale], folder
        self.scale_name, self.root = scale, data_root()
        self._launcher, self._composer = launcher, composer
        self._check_sets()
        kept = read_json(folder / KEPT)
        files = composition_files(composer.vocabulary.folders)
        options = digest([[str(file), file.read_text(errors="replace")] for file in files])
        variables = {name: value for name, value in os.environ.items() if name.startswith("TRAINOPT_")}
        self._marks: dict[str, str] = {}
        self.sweeps: dict[str, PlannedSweep] = {}
        for name, sweep in study.sweeps.items():
            if scale in sweep.typed:
                planned = self._typed(name, sweep)
                self._marks[name] = digest([options, self._command(planned), variables])
                self._fill(planned, kept.get(name, {}))
                self.sweeps[name] = planned
        self._find_missing()

    def command(self, sweep: PlannedSweep) -> list[str]:
        """Returns the words behind `trainopt` that run a sweep; one job needs no workers of joblib."""
        is_single = len(sweep.jobs) == 1 and not sweep.grows and "hydra/launcher=joblib" in self._launcher
        return [*self._command(sweep), *(["hydra/launcher=basic"] if is_single else self._launcher)]

    def apart(self) -> dict[str, SweepState]:
        """Returns the state of the sweeps that are no part of the scale."""
        others = [name for name in self.study.sweeps if name not in self.sweeps]
        reason = f"no part of scale {self.scale_name}"
        return {name: SweepState(self.folder / "sweeps" / name, "not_run", reason) for name in others}

    def keep(self) -> None:
        """Writes down what was composed, so that it is not composed again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            name: {
                "of": self._marks[name],
                "jobs": sweep.jobs,
                "grows": sweep.grows,
                "is_complete": sweep.is_complete,
            }
            for name, sweep in self.sweeps.items()
        }
        write_json(self.folder / KEPT, content)

    def _command(self, sweep: PlannedSweep) -> list[str]:
        folder = self._composer.config_dir
        return [*(["--config-dir", str(folder)] if folder else []), "-m", *sweep.typed]

    def _typed(self, name: str, sweep: StudySweep) -> PlannedSweep:
        """Returns a sweep with what is typed for it, places filled in."""
        sweeps = self.folder / "sweeps"
        where = self._where(name)
        typed = []
        for text in sweep.typed[self.scale_name]:
            sign, key, _ = split_override(text)
            if text.startswith("-") or not ("=" in text or sign == "~"):
                raise UserError(f"{where}: {text}: must be KEY=VALUE, as behind trainopt -m")
            if any(key == part or key.startswith(f"{part}.") for part in APART):
                raise UserError(f"{where}: {text}: is not the study's to say; leave it out")
            for mark, place in (("{sweeps}", sweeps), ("{data}", self.root)):
                if mark in text and not PLACE.fullmatch(str(place)):
                    raise UserError(f"{place}: must hold letters, digits and . _ - + only: {where} has it in a command")
                text = text.replace(mark, str(place))  # noqa: PLW2901
            typed.append(text)
        folder = sweeps / name
        after = [other for other in sweep.after if other in self.sweeps]
        return PlannedSweep(name, folder, after, [*typed, f"hydra.sweep.dir={quoted(str(folder))}"])

    def _fill(self, sweep: PlannedSweep, kept: dict[str, Any]) -> None:
        """Fills in the jobs: those that are kept, if nothing has changed since."""
        if kept.get("of") == self._marks[sweep.name]:
            sweep.jobs, sweep.grows, sweep.is_complete = kept["jobs"], kept["grows"], kept["is_complete"]
            return
        try:
            with self._composer.composed([*sweep.typed, *self._launcher]) as config:
                sweep.jobs, sweep.grows = planned_jobs(config), not all_at_once(config)
        except UserError as error:
            raise UserError(f"{self._where(sweep.name)}: {error}") from error

    def _where(self, name: str) -> str:
        return f"{self.study.name}.yaml: sweeps.{name}.typed.{self.scale_name}"

    def _check_sets(self) -> None:
        """Raises UserError for a data set of the scale that no YAML names."""
        known = self._composer.vocabulary.options("data")
        for name in self.scale.data:
            if name not in known:
                where = f"{self.study.name}.yaml: scales.{self.scale_name}.data"
                raise UserError(f"{where}: {name}: no such data set{nearest(name, known)}")

    def _find_missing(self) -> None:
        """Says for each sweep what its jobs need and is not there, but for what earlier sweeps leave.

        What the scale names and no job, all need.
        """
        sweeps = str(self.folder / "sweeps")
        needed = {}
        for name, sweep in self.sweeps.items():
            found = {json.dumps(job["needs"]): job["needs"] for job in sweep.jobs}.values()
            needed[name] = [{k: v for k, v in need.items() if not is_below(v, sweeps)} for need in found]
        named = {Path(v).expanduser() for all_of in needed.values() for need in all_of for v in need.values()}
        sets = {need["data"] for all_of in needed.values() for need in all_of}
        common = [{"data": name} for name in self.scale.data if name not in sets]
        common += [
            {"data": "", f"scales.{self.scale_name}.files": str(self.root / file)}
            for file in self.scale.files
            if self.root / file not in named
        ]
        for name, sweep in self.sweeps.items():
            lines = [line for need in [*needed[name], *common] for line in missing(need, self.root)]
            sweep.missing = list(dict.fromkeys(lines))


def data_root() -> Path:
    """Returns data.root as it is where nobody types it."""
    return Path(str(OmegaConf.create({"root": shipped("config.yaml")["data"]["root"]}).root)).expanduser()


def composition_files(folders: list[Path]) -> list[Path]:
    """Returns the files on which the jobs of a sweep depend, besides its command.

    These are the options and the code that composes, checks and fingerprints a configuration. What trains or reports
    is left out, since it changes no job: were it in, a changed comment there would have all studies composed again.

    Args:
        folders: that hold options; of each only those that also conf/ has, as --config-dir may name any folder.
    """
    groups = [place.name for place in CONF.iterdir() if place.is_dir() and place.name != STUDIES]
    files = {file for folder in folders for group in groups for file in (folder / group).rglob("*.yaml")}
    runner = Path(__file__).parents[1]
    files |= {file for package in ("config", "sweeps") for file in (runner / package).glob("*.py")}
    return sorted({*files, *CONF.glob("*.yaml"), runner / "records/run_folder.py"})


def digest(content: Any) -> str:
    """Returns 16 hexadecimal digits that tell a content from others."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def quoted(text: str) -> str:
    """Returns a text as a value on Hydra's command line, in quotes where it needs them.

    >>> print(quoted("it's, here"))
    'it\\'s, here'
    """
    return text if PLACE.fullmatch(text) else "'" + text.replace("'", "\\'") + "'"
