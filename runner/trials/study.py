"""The study of a search: its trials in Optuna's journal, a file that several processes may write at a time."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from ..records.job_table import PlanLock
from ..system.errors import UserError
from ..system.lock import waited_for
from .space import Space, as_text

JOURNAL = "search.journal"
STUDY_NAME = "search"  # of the only one of a sweep; hyperband hashes it
SETTINGS, SEARCHER, RETRIED = "settings", "searcher", "retried"  # attributes of the study and of trials


@dataclass(frozen=True)
class StudySettings:
    """What all trials of a search share.

    Attributes:
        sampler: random, qmc, tpe or cmaes.
        pruner: none, median, hyperband or asha.
        reduction_factor: of hyperband and asha: the rungs are its powers, and one of so many trials goes on.
        metric: that is minimised or maximised.
        direction: minimize or maximize.
        seed: of the sampler.
        evaluations: of a trial that runs to its end; 0: not known, where nothing is pruned.
    """

    sampler: str
    pruner: str
    reduction_factor: int
    metric: str
    direction: str
    seed: int
    evaluations: int

    def rungs(self) -> list[int]:
        """Returns after how many evaluations a trial may be pruned."""
        if self.pruner == "none":
            return []
        if self.pruner == "median":
            return list(range(1, self.evaluations))
        powers = [self.reduction_factor**i for i in range(self.evaluations.bit_length())]
        return [power for power in powers if power < self.evaluations]


class SearchStudy:
    """The trials of a search, each a point of a space with its state.

    What a trial tries is a function of the seed, its number, and the trials before it that have ended.

    Args:
        folder: of the sweep; the journal lies in it.
        settings: of the search.
        space: what is searched.
        name: of the study, as a journal may have several.

    Raises:
        UserError: the folder holds another search.
    """

    def __init__(self, folder: Path, settings: StudySettings, space: Space, name: str = STUDY_NAME):
        self.settings, self.space, self._folder = settings, space, folder
        with quiet():
            self._storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                sampler=_sampler(settings, 0),
                pruner=_pruner(settings),
                direction=settings.direction,
                load_if_exists=True,
            )
        present = {**asdict(settings), "space": {key: as_text(d) for key, d in space.items()}}
        stored = self._study.user_attrs.get(SETTINGS)
        if stored is None:
            self._study.set_user_attr(SETTINGS, present)
        elif stored != present:
            differ = [f"{key}={stored.get(key)}" for key in present if stored.get(key) != present[key]]
            raise UserError(f"{folder}: holds a search with {', '.join(differ)}; give hydra.sweep.dir=DIR for another")

    def trials(self) -> list[FrozenTrial]:
        """Returns all trials that count: one that failed and is tried again counts once."""
        with quiet():
            trials = self._study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get(RETRIED) for trial in trials}
        return [trial for trial in trials if trial.number not in again]

    def ask(self, searcher: str, retry: FrozenTrial | None = None) -> Trial:
        """Returns a new trial, with a value for each key of the space.

        Args:
            searcher: the process that runs it.
            retry: a trial that failed, whose values are tried again.
        """
        with quiet():
            attributes = {SEARCHER: searcher, **({} if retry is None else {RETRIED: retry.number})}
            state: dict[str, Any] = {} if retry is None else {"params": retry.params, "distributions": self.space}
            template = create_trial(state=TrialState.RUNNING, user_attrs=attributes, **state)
            trial_id = self._storage.create_new_trial(self._study._study_id, template_trial=template)
            return self.trial(trial_id)

    def next_trial(self, searcher: str, number: int, failed: list[FrozenTrial]) -> Trial | None:
        """Returns a trial that failed, to be tried again, or else a new one; None where there are enough.

        One process at a time does so: another one could ask between the count and the new trial.

        Args:
            searcher: the process that runs it.
            number: of the trials that are enough.
            failed: trials that are tried again, unless another process has begun to; those that are dealt with go.
        """
        with waited_for(lambda: PlanLock(self._folder)):
            trials = self.trials()
            while failed:
                retry = failed.pop(0)
                if any(trial.number == retry.number for trial in trials):
                    return self.ask(searcher, retry)
            return self.ask(searcher) if len(trials) < number else None

    def trial(self, trial_id: int) -> Trial:
        """Returns a running trial; what it lacks is sampled."""
        with quiet():
            number = self._storage.get_trial_number_from_id(trial_id)
            self._study.sampler = _sampler(self.settings, number)
            trial = Trial(self._study, trial_id)
            for key, distribution in self.space.items():
                if isinstance(distribution, CategoricalDistribution):
                    trial.suggest_categorical(key, distribution.choices)
                    continue
                numbers: Any = distribution
                suggest = trial.suggest_int if isinstance(numbers, IntDistribution) else trial.suggest_float
                suggest(key, numbers.low, numbers.high, step=numbers.step, log=numbers.log)
        return trial

    def prunes(self, trial: Trial, value: float, rung: int) -> bool:
        """Returns whether a trial ends, by its value after so many evaluations."""
        with quiet():
            trial.report(value, rung)
            return trial.should_prune()

    def tell(self, trial: Trial, state: TrialState, value: float | None = None) -> None:
        """Ends a trial, unless another process has done so."""
        with quiet():
            self._study.tell(trial, value if state == TrialState.COMPLETE else None, state, skip_if_finished=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Optuna's lines and its warnings of experimental features off the screen while entered."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _sampler(settings: StudySettings, number: int) -> BaseSampler:
    """Returns the sampler for a trial; all of them are seeded by its number, but Sobol's, which counts its points."""
    seed = (settings.seed * 1_000_003 + number) % 2**32
    if settings.sampler == "qmc":
        return QMCSampler(
            qmc_type="sobol",
            scramble=True,
            seed=settings.seed,
            independent_sampler=RandomSampler(seed),
            warn_independent_sampling=False,
            warn_asynchronous_seeding=False,
        )
    if settings.sampler == "tpe":
        return TPESampler(seed=seed, multivariate=True, group=True)
    if settings.sampler == "cmaes":
        return CmaEsSampler(seed=seed, independent_sampler=RandomSampler(seed), warn_independent_sampling=False)
    return RandomSampler(seed)


def _pruner(settings: StudySettings) -> BasePruner:
    if settings.pruner == "median":
        return MedianPruner()
    if settings.pruner == "asha":
        return SuccessiveHalvingPruner(min_resource=1, reduction_factor=settings.reduction_factor)
    if settings.pruner == "hyperband":
        return HyperbandPruner(1, max(1, settings.evaluations), settings.reduction_factor)
    return NopPruner()
