"""The sweeps of a study at one scale: their commands, their jobs and their state."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ..config.data_files import is_below, missing
from ..config.forms.object_files import reject_unknown
from ..config.options import CONF, NO_GROUPS, SPACES, shipped
from ..config.overrides import split_override
from ..config.quoting import literal
from ..records.job_table import ENDED, STATES, JobStatus, job_statuses, read_jobs
from ..search.compose import Composer
from ..sweeps.jobs import first_jobs, has_fixed_jobs
from ..system.errors import UserError, nearest
from ..system.files import plural, read_json, write_json
from .schema import Study, StudySweep

PLAN_CACHE = "plan.json"  # the composed jobs, in the folder of a study at a scale
UNQUOTED = re.compile(r"[\w/.+@%: -]*")  # may stand in quotes and without, in a value
LEFT_OUT = "left out by --only"  # why a sweep is not run
RESERVED = ("hydra.sweep.dir", "hydra.sweep.subdir", "hydra/launcher", "hydra.launcher")  # keys that no study may set


@dataclass(frozen=True)
class SweepState:
    """The state of a sweep.

    Attributes:
        folder: of the sweep.
        state: `done`, also if runs diverged; `incomplete` if runs failed or are missing; `not_run`.
        reason: in words, unless it is done.
    """

    folder: Path
    state: str
    reason: str | None = None

    def __str__(self) -> str:
        """Returns state and reason in words."""
        return f"{self.state.replace('_', ' ')}: {self.reason}" if self.reason else self.state


@dataclass
class PlannedSweep:
    """A sweep of a study at a scale, composed and checked.

    Attributes:
        name: of the sweep.
        folder: of its runs.
        after: names of the sweeps of this scale that have to be done first.
        overrides: of its command `trainopt -m`.
        jobs: the first ones, as `sweeps.jobs.first_jobs` returns them.
        grows: whether its command adds jobs, as a search does.
        missing_files: a line for each data set or file that it needs and that does not exist.
        is_complete: of a sweep that grows, whether its command has ended.
        is_left_out: whether it is not to be run, as `StudyPlan.select` says.
    """

    name: str
    folder: Path
    after: list[str]
    overrides: list[str]
    jobs: list[dict[str, Any]] = field(default_factory=list)
    grows: bool = False
    missing_files: list[str] = field(default_factory=list)
    is_complete: bool = False
    is_left_out: bool = False

    def job_statuses(self) -> list[JobStatus]:
        """Returns the state of each planned job; jobs of earlier versions of the study are left out."""
        jobs = {job["folder"]: job for job in self.jobs}
        if self.grows:
            jobs = {job["folder"]: job for job in read_jobs(self.folder)} | jobs
        return job_statuses(self.folder, jobs)

    def state(self) -> SweepState:
        """Returns the state of the sweep, from its folder."""
        jobs = self.job_statuses()
        unfinished = [job for job in jobs if job.state not in ENDED]
        if not unfinished and (self.is_complete or not self.grows):
            return SweepState(self.folder, "done")
        return SweepState(self.folder, "incomplete", unfinished_text(unfinished, len(jobs)))

    def obstacle(self, states: dict[str, SweepState]) -> str | None:
        """Returns why it cannot be run, or None.

        Args:
            states: of other sweeps, by name.
        """
        if self.is_left_out:
            return LEFT_OUT
        reasons = list(self.missing_files)
        for name in self.after:
            if name in states and states[name].state != "done":
                reasons.append(f"needs {name}, which is {states[name]}")
        return "; ".join(reasons) or None

    def can_start_jobs(self) -> bool:
        """Returns whether its command would start a job; running and outdated ones are left alone."""
        states = {job.state for job in self.job_statuses()} - {*ENDED, "running", "outdated"}
        return bool(states) or (self.grows and not self.is_complete)


def unfinished_text(unfinished: list[JobStatus], job_count: int) -> str:
    """Returns in one line how many jobs of a sweep have which state, and why.

    Args:
        unfinished: the jobs that have not ended.
        job_count: number of all jobs of the sweep.
    """
    if not unfinished:
        return "its command has not ended"
    counts = Counter(job.state for job in unfinished)
    parts = [f"{counts[state]} {state}" for state in STATES if counts[state]]
    text = f"of {plural(job_count, 'run')} {', '.join(parts)}"
    errors = [f"{job.name}: {job.error}" for job in unfinished if job.error]
    outdated = [job.name for job in unfinished if job.state == "outdated"]
    if errors:
        text += f" ({errors[0]})"
    if outdated:
        text += (
            f"; outdated: the folder {outdated[0]} holds a run with another configuration or of other code, remove it"
        )
    return text


class StudyPlan:
    """All sweeps of a study at a scale.

    Args:
        study: to be run.
        scale: one of its scales.
        folder: of its sweeps and its report.
        composer: of configurations.
        launcher: overrides of Hydra's launcher.

    Raises:
        UserError: a sweep cannot be composed, or a job not be run; one line that names the key in the study's file.
    """

    def __init__(self, study: Study, scale: str, folder: Path, composer: Composer, launcher: list[str]):
        self.study, self.scale, self.folder = study, study.scales[scale], folder
        self.scale_name, self.root = scale, data_root()
        self._launcher, self._composer = launcher, composer
        self._check_datasets()
        cached = read_json(folder / PLAN_CACHE)
        files = composition_files(composer.vocabulary.folders)
        options = digest([[str(file), file.read_text(encoding="utf-8", errors="replace")] for file in files])
        variables = {name: value for name, value in os.environ.items() if name.startswith("TRAINOPT_")}
        self._digests: dict[str, str] = {}
        self.sweeps: dict[str, PlannedSweep] = {}
        for name, sweep in study.sweeps.items():
            if scale in sweep.typed:
                planned = self._without_jobs(name, sweep)
                self._digests[name] = digest([options, self._sweep_command(planned), variables])
                self._add_jobs(planned, cached.get(name, {}))
                self.sweeps[name] = planned
        self._find_missing_files()

    def select(self, patterns: Sequence[str]) -> None:
        """Leaves out the sweeps that are neither named nor needed by one that is; UserError for a name of none.

        Args:
            patterns: names of sweeps, in which `*`, `?` and `[…]` stand for what they do in a shell.
        """
        named = []
        for pattern in patterns:
            matching = [name for name in self.study.sweeps if fnmatchcase(name, pattern)]
            here = [name for name in matching if name in self.sweeps]
            problem = f"no such sweep at scale {self.scale_name}"
            if matching and not here:
                scales = [s for s in self.study.scales if any(s in self.study.sweeps[name].typed for name in matching)]
                raise UserError(f"--only {pattern}: {problem}, only at {' and '.join(scales)}")
            reject_unknown("--only ", [] if here else [pattern], self.sweeps, problem)
            named += here
        for sweep in reversed(self.sweeps.values()):  # what a sweep needs stands before it
            sweep.is_left_out = sweep.name not in named
            if not sweep.is_left_out:
                named += sweep.after

    def command(self, sweep: PlannedSweep) -> list[str]:
        """Returns the arguments of `trainopt` that run a sweep; a single job is run without workers."""
        is_single = len(sweep.jobs) == 1 and not sweep.grows and "hydra/launcher=joblib" in self._launcher
        return [*self._sweep_command(sweep), *(["hydra/launcher=basic"] if is_single else self._launcher)]

    def of_other_scales(self) -> dict[str, SweepState]:
        """Returns the state of the study's sweeps that are not part of the scale, by name."""
        others = [name for name in self.study.sweeps if name not in self.sweeps]
        reason = f"not part of scale {self.scale_name}"
        return {name: SweepState(self.folder / "sweeps" / name, "not_run", reason) for name in others}

    def save(self) -> None:
        """Writes the composed jobs, so that a later command need not compose them again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            name: {
                "digest": self._digests[name],
                "jobs": sweep.jobs,
                "grows": sweep.grows,
                "is_complete": sweep.is_complete,
            }
            for name, sweep in self.sweeps.items()
        }
        write_json(self.folder / PLAN_CACHE, content)

    def _sweep_command(self, sweep: PlannedSweep) -> list[str]:
        return [*self._composer.flags, "-m", *sweep.overrides]

    def _without_jobs(self, name: str, sweep: StudySweep) -> PlannedSweep:
        """Returns a sweep with its overrides, in which folders stand for {sweeps} and {data}."""
        sweeps = self.folder / "sweeps"
        key = self._key(name)
        overrides = []
        for override in sweep.typed[self.scale_name]:
            sign, parameter, _ = split_override(override)
            if override.startswith("-") or not ("=" in override or sign == "~"):
                raise UserError(f"{key}: {override}: must be KEY=VALUE, as behind trainopt -m")
            if any(parameter == reserved or parameter.startswith(f"{reserved}.") for reserved in RESERVED):
                raise UserError(f"{key}: {override}: cannot be set by a study; leave it out")
            for placeholder, folder in (("{sweeps}", sweeps), ("{data}", self.root)):
                if placeholder in override and not UNQUOTED.fullmatch(str(folder)):
                    raise UserError(
                        f"{folder}: must consist of letters, digits and . _ - +, as {key} has it in a command"
                    )
                override = override.replace(placeholder, str(folder))  # noqa: PLW2901
            overrides.append(override)
        folder = sweeps / name
        after = [other for other in sweep.after if other in self.sweeps]
        return PlannedSweep(name, folder, after, [*overrides, f"hydra.sweep.dir={literal(str(folder))}"])

    def _add_jobs(self, sweep: PlannedSweep, cached: dict[str, Any]) -> None:
        """Adds its jobs to a sweep: the cached ones if nothing that they depend on has changed."""
        if cached.get("digest") == self._digests[sweep.name]:
            sweep.jobs, sweep.grows, sweep.is_complete = cached["jobs"], cached["grows"], cached["is_complete"]
            return
        try:
            with self._composer.composed([*sweep.overrides, *self._launcher]) as config:
                sweep.jobs, sweep.grows = first_jobs(config), not has_fixed_jobs(config)
        except UserError as error:
            raise UserError(f"{self._key(sweep.name)}: {error}") from error

    def _key(self, name: str) -> str:
        return f"{self.study.name}.yaml: sweeps.{name}.typed.{self.scale_name}"

    def _check_datasets(self) -> None:
        """Raises UserError for a data set of the scale that is no option of data."""
        known = self._composer.vocabulary.options("data")
        for name in self.scale.data:
            if name not in known:
                key = f"{self.study.name}.yaml: scales.{self.scale_name}.data"
                raise UserError(f"{key}: {name}: no such data set{nearest(name, known)}")

    def _find_missing_files(self) -> None:
        """Finds the missing files of each sweep, except results of earlier sweeps.

        Data sets and files of the scale that no job uses are needed by all sweeps.
        """
        sweeps = str(self.folder / "sweeps")
        needed = {}
        for name, sweep in self.sweeps.items():
            needs = {json.dumps(job["needs"]): job["needs"] for job in sweep.jobs}.values()
            needed[name] = [{k: v for k, v in need.items() if not is_below(v, sweeps)} for need in needs]
        used_files = {Path(v).expanduser() for needs in needed.values() for need in needs for v in need.values()}
        used_datasets = {need["data"] for needs in needed.values() for need in needs}
        common = [{"data": name} for name in self.scale.data if name not in used_datasets]
        common += [
            {"data": "", f"scales.{self.scale_name}.files": str(self.root / file)}
            for file in self.scale.files
            if self.root / file not in used_files
        ]
        for name, sweep in self.sweeps.items():
            lines = [line for need in [*needed[name], *common] for line in missing(need, self.root)]
            sweep.missing_files = list(dict.fromkeys(lines))


def data_root() -> Path:
    """Returns the default of data.root."""
    return Path(str(OmegaConf.create({"root": shipped("config.yaml")["data"]["root"]}).root)).expanduser()


def composition_files(folders: list[Path]) -> list[Path]:
    """Returns the files on which the jobs of a sweep depend, besides its command.

    These are the options and the code that composes, checks and fingerprints a configuration. What trains or reports
    is left out, since it changes no job: were it in, a changed comment there would have all studies composed again.

    Args:
        folders: that hold options; of each only those that also conf/ has, as --config-dir may name any folder.
    """
    others = set(NO_GROUPS) - {SPACES}
    groups = [folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name not in others]
    files = {file for folder in folders for group in groups for file in (folder / group).rglob("*.yaml")}
    runner = Path(__file__).parents[1]
    files |= {file for package in ("config", "search", "sweeps", "trials") for file in (runner / package).rglob("*.py")}
    return sorted({*files, *CONF.glob("*.yaml"), runner / "records/run_folder.py"})


def digest(content: Any) -> str:
    """Returns a hash of JSON content, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
