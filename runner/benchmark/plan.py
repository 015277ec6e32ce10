"""The searches of a benchmark: one for each workload, submission and study. Needs no torch to be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ..config.data_files import missing
from ..config.quoting import literal
from ..records.job_table import ENDED, PLAN, job_statuses, read_jobs
from ..search.compose import Composer
from ..studies.plan import data_root
from ..sweeps.jobs import check_planned, first_jobs, plan_jobs
from ..sweeps.plan_job import JobPlanner
from ..system.errors import UserError
from ..system.files import read_json
from ..system.hydra_compat import parse_overrides, product
from ..trials.result import FILE
from .submissions import Submission
from .suite import Effort, Suite, Workload

RULESETS = ("external", "self")  # AlgoPerf's: a search of the declared space; the configuration as it is


@dataclass(frozen=True)
class Search:
    """A study: the trials of a submission on a workload, a sweep of its own.

    With the ruleset `external` they are points of the submission's search space, drawn at random; what a point is
    follows from study and number alone, so that more trials may be added. With `self` it is one run.

    Attributes:
        workload, submission: what is trained, and how.
        study: its number, and the seed of its runs and of its draws.
        folder: of the sweep.
        trials: how many.
        overrides: of every run.
        options: Hydra's, of the sweep.
    """

    workload: str
    submission: Submission
    study: int
    folder: Path
    trials: int
    overrides: list[str]
    options: list[str]

    def jobs(self) -> list[dict[str, Any]]:
        """Returns the job of each trial in the plan of the sweep, as many as are asked for, in their order.

        Trials of one point, as a space of few choices has them, have one job; the report of the search says which.
        """
        jobs = sorted(read_jobs(self.folder), key=lambda job: job.get("trial", 0))
        by_folder = {job["folder"]: job for job in jobs}
        trials = read_json(self.folder / FILE).get("trials", [])
        reported = [folder for trial in trials for folder in trial["runs"] if folder in by_folder]
        folders = [*reported, *(folder for folder in by_folder if folder not in reported)]
        return [by_folder[folder] for folder in folders[: self.trials]]

    def states(self) -> list[str]:
        """Returns the state of each trial; `missing` where it has not been planned."""
        jobs = self.jobs()
        states = {job.name: job.state for job in job_statuses(self.folder, {job["folder"]: job for job in jobs})}
        return [states[job["folder"]] for job in jobs] + ["missing"] * (self.trials - len(jobs))

    def is_done(self) -> bool:
        """Returns whether all trials have ended, with the configuration that the search now has."""
        return read_json(self.folder / PLAN).get("overrides") == self.overrides and not set(self.states()) - {*ENDED}


class BenchmarkPlan:
    """All searches of a benchmark.

    Args:
        suite: of workloads.
        submissions: that take part.
        effort: trials and studies.
        ruleset: external or self.
        folder: of the sweeps and of the page.
        common: overrides of all runs.
        launcher: overrides of Hydra's launcher.
        composer: of configurations.
        typed: the command line.

    Attributes:
        searches: by workload, then submission, then study.
    """

    def __init__(
        self,
        suite: Suite,
        submissions: list[Submission],
        effort: Effort,
        ruleset: str,
        folder: Path,
        common: list[str],
        launcher: list[str],
        composer: Composer,
        typed: str = "",
    ):
        self.suite, self.submissions, self.effort, self.ruleset = suite, submissions, effort, ruleset
        self.folder, self.common, self._launcher, self._composer = folder, common, launcher, composer
        self.typed = typed
        self.searches = [
            self._search(name, workload, submission, study)
            for name, workload in suite.workloads.items()
            for submission in submissions
            for study in range(effort.studies)
        ]

    @property
    def trials(self) -> int:
        """How many trials a study has."""
        return self.effort.trials if self.ruleset == "external" else 1

    def command(self, search: Search) -> list[str]:
        """Returns the arguments of `trainopt` that run a search."""
        return [*self._composer.flags, "-m", *self._overrides(search)]

    def _overrides(self, search: Search) -> list[str]:
        launcher = self._launcher if search.trials > 1 else ["hydra/launcher=basic"]
        return [*search.options, *launcher, *search.overrides]

    def check(self, searches: list[Search]) -> None:
        """Checks each workload with each submission among some searches, and the search space of each submission.

        Raises:
            UserError: a run cannot begin with its configuration, or files are missing; or a run of an earlier command
                has another configuration now.
        """
        pairs: dict[tuple[str, Submission], Search] = {}
        submissions: dict[Submission, Search] = {}
        for search in searches:
            pairs.setdefault((search.workload, search.submission), search)
            submissions.setdefault(search.submission, search)
        with self._composer.composed(self._launcher) as config:
            planner = JobPlanner(config)
            for search in self.searches:
                with self._named(search):
                    check_planned(planner, search.folder, search.jobs())
            for search in pairs.values():
                with self._named(search):
                    check_run(config, search.overrides)
        for search in submissions.values():
            with self._named(search), self._composer.composed(self._overrides(search)) as config:
                first_jobs(config)

    @contextmanager
    def _named(self, search: Search) -> Iterator[None]:
        """Names in an error the search that has it."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.suite.name}: {search.workload}, {search.submission.name}: {error}") from error

    def _search(self, name: str, workload: Workload, submission: Submission, study: int) -> Search:
        folder = self.folder / "sweeps" / name / submission.folder / f"{self.ruleset}-{study}"
        overrides = [*self.suite.overrides, *workload.overrides, *self.common, *submission.overrides, f"seed={study}"]
        options = [f"hydra.sweep.dir={literal(str(folder))}"]
        if self.ruleset == "external":
            options += ["hydra/sweeper=optuna", "hydra.sweeper.sampler=random", f"hydra.sweeper.seed={study}"]
            options += [f"hydra.sweeper.n_trials={self.trials}", f"hydra.sweeper.metric={workload.metric}"]
        return Search(name, submission, study, folder, self.trials, overrides, options)


def check_run(config: DictConfig, overrides: list[str]) -> None:
    """Raises UserError where a run cannot begin; keys that are left open have their defaults.

    Args:
        config: of a sweep.
        overrides: of the run.
    """
    fixed = [override for override in parse_overrides(overrides) if not override.is_sweep_override()]
    (job,) = plan_jobs(config, product(fixed))
    lines = missing(job["needs"], data_root())
    if lines:
        raise UserError("; ".join(lines))
