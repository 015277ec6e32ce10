"""The contract of a tracker, and the logger that it is for a run."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ..records.logger import Logger
from .process import TrackerProcess

# statuses of summary.json that a service shows as its own; all others are those of a run that goes on
FINISHED, FAILED, INTERRUPTED = ("finished", "diverged"), ("failed",), ("interrupted",)


class Row(NamedTuple):
    """A record, as a tracker gets it.

    Attributes:
        number: of the record in metrics.jsonl, from 0 on; a resumed run writes the same records again.
        step: the update that it is about.
        values: the curves' values by name, as `train/total`.
        axes: what a curve may be drawn over: epoch, samples, train_seconds, ….
    """

    number: int
    step: int
    values: dict[str, float]
    axes: dict[str, float]


@dataclass
class Page:
    """What a service shows of a run beside its records.

    Attributes:
        id: of the run, the same in all sessions; letters and digits.
        name: of the run's folder.
        group: of runs that belong together: the name of the sweep.
        folder: the run's.
        config: the configuration, in sections; with `choices`, the option of each group.
        environment: the content of environment.json.
        started: when the run began, in seconds since 1970.
        pid: the process that trains the run, or None.
    """

    id: str
    name: str
    group: str | None
    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    started: float
    pid: int | None = None


class Tracker(Logger):
    """A service that shows runs, fed by a process of its own, so that a run neither waits for it nor fails with it.

    A class for one derives from this one, takes its settings as keys, and has `open`, `send`, `unsent` and `finish`;
    whatever these raise is told in one line, and sent another time.

    Args:
        package: that the service needs.
        settings: the class's arguments, from which the process makes it anew.
        timeout: seconds after the end of a run in which the service must have taken everything.
        folder: the run's, or None.
        say: shows a line.

    Attributes:
        name: of the option, as in logger=[wandb], and of the file that says how far it is.
        sends_at_once: whether rows are safe when `send` returns, and not only when `finish` does.

    Raises:
        ValueError: the package is missing.
    """

    name: str
    sends_at_once = False

    def __init__(
        self,
        package: str,
        settings: dict[str, Any],
        timeout: float,
        folder: Path | None = None,
        say: Callable[[str], None] = print,
    ):
        if find_spec(package) is None:
            raise ValueError(f"{package} is not installed; pip install 'trainopt[trackers]'")
        if not timeout > 0:
            raise ValueError(f"timeout={timeout}: must be > 0")
        self.settings = {**settings, "timeout": timeout}
        self.timeout = timeout
        self._folder = folder
        self._say = say
        self._process: TrackerProcess | None = None

    @property
    @abstractmethod
    def destination(self) -> str:
        """Where runs go, as the name of a project: how far it is, is noted for each."""

    @abstractmethod
    def open(self, page: Page) -> str | None:
        """Begins a run of the service, or goes on with the one of the page's id; returns where it is, in a line."""

    @abstractmethod
    def send(self, rows: list[Row]) -> None:
        """Sends rows."""

    @abstractmethod
    def unsent(self, rows: list[Row]) -> list[Row]:
        """Returns what the service lacks of rows that may have been sent before a crash."""

    @abstractmethod
    def finish(self, status: str, summary: dict[str, Any]) -> None:
        """Sends the summary and the status, and waits until the service has everything.

        Args:
            status: of summary.json; interrupted, if the run's process was killed.
            summary: the rest of summary.json.

        Raises:
            TimeoutError: it has not, after `timeout` seconds.
        """

    def upload_hint(self, folder: Path) -> str:
        """Returns how what lies in files of this machine gets to the service; empty where nothing does."""
        del folder
        return ""

    def row(self, row: dict[str, Any]) -> None:
        """Starts the process, if that was not done: it reads metrics.jsonl."""
        del row
        if self._process is None and self._folder is not None:
            target = f"{type(self).__module__}.{type(self).__qualname__}"
            self._process = TrackerProcess(target, self.settings, self._folder, self.name)

    def flush(self) -> None:
        """Shows what the process reported."""
        if self._process is not None:
            for line in self._process.reports():
                self._say(line)

    def close(self) -> None:
        """Lets the process send the rest, for `timeout` seconds at most."""
        if self._process is not None:
            self._process.end(self.timeout)
            self.flush()


def flat(node: dict[str, Any], separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """Returns the values in a dict of dicts by joined keys.

    >>> flat({"seed": 0, "optimizer": {"lr": 0.1}})
    {'seed': 0, 'optimizer.lr': 0.1}
    """
    values: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            values |= flat(value, separator, f"{prefix}{key}{separator}")
        else:
            values[f"{prefix}{key}"] = value
    return values


def numbers(node: dict[str, Any], separator: str = "/") -> dict[str, float]:
    """Returns the numbers in a dict of dicts by joined keys.

    >>> numbers({"status": "finished", "final": {"top1": 91.2, "loss": None}})
    {'final/top1': 91.2}
    """
    return {k: v for k, v in flat(node, separator).items() if isinstance(v, int | float) and not isinstance(v, bool)}
