"""The searches of a tournament by trials: as many for every method, of one length, with the same seeds."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from ..config.overrides import split_override
from ..records.job_table import SEED
from ..reporting.method_styles import method_labels
from ..sweeps.jobs import composed, plan_jobs
from ..system.errors import UserError
from ..system.hydra_compat import parse_overrides
from ..trials.report import write_trials
from ..trials.search import Searcher, SearchOptions, TrialSearch, declared_space, point_overrides
from ..trials.space import Space, as_text, corners, read_space
from .search import SearchedMethod
from .tuning_budget import check_trial_length

MethodSearch = tuple[SearchedMethod, TrialSearch | None]  # None: nothing is searched


class TrialTuner:
    """Searches the spaces of the methods of a tournament.

    Args:
        config: of the sweep.
        searcher: runs the jobs.
        methods: (name, overrides) of each; an override that leaves its key open, as with interval(a,b), is searched.
        options: of each search.
        trial_duration: length of a trial; None: as that of a final run.
        seeds: of the trials; the metric of a trial is the mean over them.

    Attributes:
        settings: what all searches have in common.
        searches: the methods with their searches.

    Raises:
        UserError: nothing is searched; a method has no search space; or trials are longer than final runs.
    """

    def __init__(
        self,
        config: DictConfig,
        searcher: Searcher,
        methods: Iterable[tuple[str, list[str]]],
        options: SearchOptions,
        trial_duration: str | None,
        seeds: list[int],
    ):
        self.config, self.searcher, self.options = config, searcher, options
        self.folder = Path(config.hydra.sweep.dir)
        self.trial_duration, self.seeds = trial_duration, seeds
        self.settings: dict[str, Any] = {}
        self.searches = [self._search_of(name, overrides) for name, overrides in methods]
        if not any(method.is_tuned for method, _ in self.searches):
            raise UserError("every key of the search spaces has a value, so that nothing is searched; leave one open")

    def _search_of(self, name: str, overrides: list[str]) -> MethodSearch:
        """Returns a method with its search."""
        parsed = parse_overrides(overrides)
        typed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
        space = method_space(self.config, typed, [o for o in parsed if o.is_sweep_override()])
        run = composed(self.config, typed)
        duration = run.duration if self.trial_duration is None else self.trial_duration
        check_trial_length(duration, run.duration)
        trial = [o for o in typed if split_override(o)[1] != "duration"] + [f"duration={duration}"]
        trial = typed if self.trial_duration is None else trial
        options = self.options
        settings = {"search": options.sampler, "selection": str(options.metric), "duration": duration}
        self.settings = {**settings, "seeds": len(self.seeds), "sampler_seed": options.seed}
        method = SearchedMethod(name, typed, bool(space), self.settings)
        if not space:
            return method, None
        runs = [[*trial, f"{SEED}={seed}"] for seed in self.seeds]
        entries = method.entries()
        return method, TrialSearch(self.config, self.searcher, options, space, runs, name, entries)

    def check(self, final_seed: int) -> None:
        """Checks every method before the first trial.

        Args:
            final_seed: of a final run.

        Raises:
            UserError: a trial or a final run cannot begin with a bound or a choice of a space, or two methods are the
                same.
        """
        names: dict[tuple[Any, ...], str] = {}
        for method, search in self.searches:
            space = search.space if search else {}
            if search is not None:
                search.check()
            finals = [method.final_overrides(final_seed, point_overrides(point)) for point in corners(space)]
            jobs = plan_jobs(self.config, finals)
            identity = (jobs[0]["fingerprint"], *(f"{key}={as_text(space[key])}" for key in sorted(space)))
            if identity in names:
                raise UserError(f"{names[identity]} and {method.name}: are the same method")
            names[identity] = method.name

    def tune(self) -> list[SearchedMethod] | None:
        """Searches all spaces; returns the methods with what was chosen, or None if it was stopped."""
        searches = [(method, search) for method, search in self.searches if search is not None]
        for note in dict.fromkeys(search.note for _, search in searches if search.note):
            print(note, flush=True)
        for method, search in searches:
            print(f"searching {', '.join(search.space)} of {method.name}", flush=True)
            if not search.run():
                return None
        labels = method_labels(method.name for method, _ in searches)
        for method, search in searches:
            if not search.wait():
                return None
            folder = self.folder / method.folder
            result = write_trials(folder, search.study, search.jobs(), labels[method.name])
            method.content = result.content
        return [method for method, _ in self.searches]


def method_space(config: DictConfig, typed: list[str], opened: list[Override]) -> Space:
    """Returns what is searched of a method: its declared space, and instead or in addition what its overrides open.

    Args:
        config: of the sweep.
        typed: the overrides of the method that give a key a value; these keys are not searched.
        opened: those that leave a key open.

    Raises:
        UserError: there is neither a declared space nor an open key.
    """
    space = read_space(opened)
    try:
        declared = declared_space(config, typed)
    except UserError:  # an optimizer of the user's
        if not space:
            raise
        declared = {}
    bare = {split_override(str(override.input_line))[1] for override in opened}
    return {**{key: d for key, d in declared.items() if split_override(f"{key}=")[1] not in bare}, **space}
