"""MLflow."""

import logging
import os
import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from .tracker import FAILED, INTERRUPTED, Page, Row, Tracker, flat, numbers

STATUS = {"running": "RUNNING", **dict.fromkeys(FAILED, "FAILED"), **dict.fromkeys(INTERRUPTED, "KILLED")}
ID = "trainopt.id"  # the tag by which a run is found again
# what a server takes in one call, and of one value
MOST_METRICS, MOST_PARAMETERS, LONGEST_PARAMETER, LONGEST_TAG = 1000, 100, 6000, 8000


class MLflow(Tracker):
    """Sends a run to an MLflow server or database.

    A run that diverged is FINISHED, with the tag `status` diverged. A parameter cannot change: what does, as the
    duration of a run that is made longer, becomes a tag `changed.KEY`.

    Args:
        tracking_uri: of a server or a database (sqlite:///FILE); None: as MLFLOW_TRACKING_URI says, else MLflow's own.
        experiment: of MLflow.
        group: the tag `group`; None: the name of the sweep, for a run of one.
        tags: further tags, as `{team: vision}`.
        notes: the run's description.
        timeout: as for a tracker, in seconds.
        folder: as for a tracker.
        say: as for a tracker.
    """

    name = "mlflow"
    sends_at_once = True

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str = "trainopt",
        group: str | None = None,
        tags: dict[str, Any] | None = None,
        notes: str | None = None,
        timeout: float = 60.0,
        folder: Path | None = None,
        say: Callable[[str], None] = print,
    ):
        self._uri, self._experiment, self._group = tracking_uri, experiment, group
        self._tags, self._notes = tags or {}, notes
        settings = {"tracking_uri": tracking_uri, "experiment": experiment, "group": group, "tags": tags}
        super().__init__("mlflow", {**settings, "notes": notes}, timeout, folder, say)

    @property
    def destination(self) -> str:
        """The address and the experiment."""
        uri = self._uri or os.environ.get("MLFLOW_TRACKING_URI")
        return f"{self._experiment}{f' ({uri})' if uri else ''}"

    def open(self, page: Page) -> str:
        """Begins a run, or goes on with the one that has its tag."""
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # of 7: a server that is away is not waited for
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(round(self.timeout)))
        from mlflow.tracking import MlflowClient

        for logger in ("mlflow", "alembic"):  # the making of a database
            logging.getLogger(logger).setLevel(logging.WARNING)
        self._client = MlflowClient(tracking_uri=self._uri)
        experiment = self._client.get_experiment_by_name(self._experiment)
        number = self._client.create_experiment(self._experiment) if experiment is None else experiment.experiment_id
        runs = self._client.search_runs([number], filter_string=f"tags.`{ID}` = '{page.id}'", max_results=1)
        self._started = round(1000 * page.started)
        if runs:
            self._run = runs[0]
            self._client.update_run(self._run.info.run_id, status="RUNNING")
        else:
            self._run = self._client.create_run(number, self._started, {ID: page.id}, page.name)
        self._describe(page)
        return f"run {self._run.info.run_id} of {self.destination}"

    def _describe(self, page: Page) -> None:
        from mlflow.entities import Param, RunTag

        past = self._run.data.params
        values = {entity_name(key): str(value)[:LONGEST_PARAMETER] for key, value in flat(page.config).items()}
        new = iter(Param(key, value) for key, value in values.items() if key not in past)
        while part := list(islice(new, MOST_PARAMETERS)):
            self._client.log_batch(self._run.info.run_id, params=part)
        tags: dict[str, Any] = {
            f"changed.{key}": value for key, value in values.items() if past.get(key, value) != value
        }
        tags |= {f"environment.{key}": value for key, value in flat(page.environment).items()}
        tags |= {**self._tags, "group": self._group or page.group, "mlflow.note.content": self._notes}
        named = iter(RunTag(entity_name(k), str(v)[:LONGEST_TAG]) for k, v in tags.items() if v is not None)
        while some := list(islice(named, MOST_PARAMETERS)):
            self._client.log_batch(self._run.info.run_id, tags=some)

    def send(self, rows: list[Row]) -> None:
        """Sends rows, many in one call."""
        self._log([(name, value, self._time(row), row.step) for row in rows for name, value in row.values.items()])

    def _log(self, values: Sequence[tuple[str, float, int, int]]) -> None:
        """Sends (name, value, time in ms, step) of points of curves."""
        from mlflow.entities import Metric

        metrics = iter(Metric(entity_name(name), value, time, step) for name, value, time, step in values)
        while part := list(islice(metrics, MOST_METRICS)):
            self._client.log_batch(self._run.info.run_id, metrics=part)

    def _time(self, row: Row) -> int:
        """Returns the time of a row in ms, the same whenever it is sent: MLflow draws curves over it, too."""
        return self._started + round(1000 * row.axes.get("train_seconds", 0.0))

    def unsent(self, rows: list[Row]) -> list[Row]:
        """Returns the rows with those of their values that the histories of their curves lack."""
        run_id = self._run.info.run_id
        names = {name for row in rows for name in row.values}
        past = {
            (name, metric.step, metric.value)
            for name in names
            for metric in self._client.get_metric_history(run_id, entity_name(name))
        }
        return [
            row._replace(values={name: v for name, v in row.values.items() if (name, row.step, v) not in past})
            for row in rows
        ]

    def finish(self, status: str, summary: dict[str, Any]) -> None:
        """Sends the numbers of the summary, the status as MLflow has it, and as a tag."""
        run_id, step = self._run.info.run_id, summary.get("steps") or 0
        end = self._started + round(1000 * (summary.get("wall_seconds") or 0.0))
        self._log([(name, value, end, step) for name, value in numbers(summary).items()])
        self._client.set_tag(run_id, "status", status)
        if status == "running":
            return
        self._client.set_terminated(run_id, STATUS.get(status, "FINISHED"), end)


def entity_name(text: str) -> str:
    """Returns a name of which every store takes all characters.

    >>> entity_name("probe/a*b/C_K")
    'probe/a_b/C_K'
    """
    return re.sub(r"[^\w\-. /]", "_", text)[:250]
