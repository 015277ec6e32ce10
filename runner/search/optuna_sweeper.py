"""Hydra's sweeper that searches hyperparameters with Optuna; trials are runs of an ordinary sweep."""

from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig

from ..sweeps.sweeper import SearchSweeper
from ..system.errors import UserError
from ..trials.result import TrialSearchResult


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
        direction: minimize or maximize; None: losses and errors are minimised, other metrics maximised.
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
        del params  # `configured_overrides` reads them from the configuration
        self.n_trials, self.sampler, self.pruner = n_trials, sampler, pruner
        self.reduction_factor, self.metric, self.direction, self.seed = reduction_factor, metric, direction, seed

    @classmethod
    def first_jobs(cls, config: DictConfig) -> list[dict[str, Any]]:
        """Checks what trials may try; returns no jobs, as the first trial chooses them.

        Raises:
            UserError: Optuna is not installed; a key of the sweeper has a value that is not allowed; nothing is
                searched; or a trial cannot be run with a bound or a choice of the space.
        """
        settings = cls.settings(config)
        if find_spec("optuna") is None:
            raise UserError("hydra/sweeper=optuna: needs Optuna; pip install 'trainopt[optuna]'")
        if settings["sampler"] == "cmaes" and find_spec("cmaes") is None:
            raise UserError("hydra.sweeper.sampler=cmaes: needs the package cmaes; pip install 'trainopt[optuna]'")
        from ..trials.search import TrialSearch  # imports Optuna

        TrialSearch(config, cls(**settings)).check()
        return []

    def sweep(self, arguments: list[str]) -> TrialSearchResult | None:
        """Runs trials until there are enough; returns the result, or None if it was stopped."""
        from ..trials.search import TrialSearch

        del arguments
        return TrialSearch(self.sweep_config, self).run()
