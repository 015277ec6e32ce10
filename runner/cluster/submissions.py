"""The submissions of a sweep, a file each in its folder `cluster`: which jobs each task of an array runs."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..system.files import read_json, write_json

FOLDER = "cluster"


@dataclass(frozen=True)
class Submission:
    """An array of tasks that was submitted.

    Attributes:
        name: of the array in the queue; no other submission has it.
        arguments: of the sweep's command, without settings of the cluster.
        tasks: the folders of the jobs of each task, relative to the sweep's. A task without any works on a search: it
            runs the whole command, and takes what no other process has begun.
        scheduler: whose queue it is in, as `--to` takes it.
        settings: what each task asks for.
    """

    name: str
    arguments: list[str]
    tasks: list[list[str]]
    scheduler: str = "slurm"
    settings: dict[str, Any] = field(default_factory=dict)

    def write(self, sweep: Path) -> Path:
        """Writes the file of the submission; returns its path."""
        path = submission_path(sweep, self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self))
        return path


def submission_path(sweep: Path, name: str) -> Path:
    """Returns the file of a submission."""
    return sweep / FOLDER / f"{name}.json"


def log_path(path: Path, index: int | str) -> Path:
    """Returns the log of a task.

    Args:
        path: of the submission's file.
        index: of the task.
    """
    return path.with_name(f"{path.stem}_{index}.log")


def read_submission(path: Path) -> Submission:
    """Returns the submission in a file."""
    return Submission(**read_json(path))


def read_submissions(sweep: Path) -> list[Submission]:
    """Returns the submissions of a sweep; none where it has none."""
    return [read_submission(path) for path in sorted((sweep / FOLDER).glob("*.json"))]
