"""Hydra's sweeper that searches hyperparameters with Optuna; trials are runs of an ordinary sweep."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from ..sweeps.sweeper import SearchSweeper
from ..system.errors import UserError
from ..trials.result import TrialSearchResult

if TYPE_CHECKING:
    from ..trials.search import TrialSearch


class OptunaSweeper(SearchSweeper):
    """Searches the keys that the command leaves open: `optimizer.lr=tag(log,interval(1e-4,1e-1))`.

    Every swept key is searched, but for the seed: the metric of a trial is the mean over its seeds. With a pruner, the
    runs of a trial pause at rungs, and go on from their checkpoints where the trial is not pruned. The same command
    goes on where it was stopped; with more trials it extends a search; several processes may work on one.

    Args:
        n_trials: how many trials end, those of earlier commands included.
        sampler: random, qmc (Sobol), tpe or cmaes.
        pruner: none, median, hyperband or asha.
        reduction_factor: of hyperband and asha: one of so many trials goes on at a rung.
        metric: SET_NAME, as validation_loss or test_top1, after the last evaluation; or train_loss.
        direction: minimize or maximize; None: as the metric's class says.
        seed: of the sampler.
        params: searched where the command has not that key.
    """

    def __init__(
        self,
        n_trials: int,
        sampler: str,
        pruner: str,
        reduction_factor: int,
        metric: str,
        direction: str | None,
        seed: int,
        params: dict[str, Any],
    ):
        super().__init__()
        del params  # `typed_search` reads them from the configuration
        self.metric = metric
        self.options: dict[str, Any] = {
            "n_trials": n_trials,
            "sampler": sampler,
            "direction": direction,
            "seed": seed,
            "pruner": pruner,
            "reduction_factor": reduction_factor,
        }

    @classmethod
    def first_jobs(cls, config: DictConfig) -> list[dict[str, Any]]:
        """Checks what trials may try; returns no jobs, as the first trial chooses them.

        Raises:
            UserError: Optuna is not installed; a key of the sweeper has a value that is not allowed; nothing is
                searched; or a trial cannot be run with a bound or a choice of the space.
        """
        settings = cls.settings(config)
        check_installed("hydra/sweeper=optuna", settings["sampler"])
        cls(**settings).new_search(config).check()
        return []

    def new_search(self, config: DictConfig) -> "TrialSearch":
        """Returns the search that a command types."""
        from ..trials.metric import MetricName  # imports torch
        from ..trials.search import SearchOptions, typed_search  # imports Optuna

        return typed_search(config, self, SearchOptions(metric=MetricName.parse(self.metric), **self.options))

    def find_best(self) -> TrialSearchResult | None:
        """Runs trials until there are enough; returns the result, or None if it was stopped."""
        from ..trials.report import write_trials

        search = self.new_search(self.sweep_config)
        if search.note:
            print(search.note, flush=True)
        if not (search.run() and search.wait()):
            return None
        return write_trials(search.folder, search.study, search.jobs())


def check_installed(typed: str, sampler: str) -> None:
    """Raises UserError where the packages of a search are not installed.

    Args:
        typed: what asks for them.
        sampler: of the search.
    """
    for name in ("optuna", *(["cmaes"] if sampler == "cmaes" else [])):
        if find_spec(name) is None:
            raise UserError(f"{typed}: needs the package {name}; pip install 'trainopt[optuna]'")
