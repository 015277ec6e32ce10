"""References to checkpoints (run folder, file, configuration), and the checks that several belong together."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from trainopt.models import DamagedFile

from ..records.checkpoint_files import numbered_checkpoints, read_checkpoint
from ..records.job_table import jobs_below
from ..records.run_folder import CONFIG, read_config
from ..state.run import Run
from ..system.display import Display
from ..system.errors import UserError
from ..system.files import shown
from .evaluate import load_weights, rebuild_run

# Keys of data that have no effect on which images a set holds: paths, preprocessing, augmentation.
KEYS_WITHOUT_IMAGES = (
    *("root", "download", "workers", "mean", "std", "size", "channels", "crop_pct", "interpolation"),
    *("bootstrap", "scale", "ratio", "color_jitter"),
)


@dataclass
class CheckpointRef:
    """A checkpoint of a run.

    Attributes:
        folder: the run's.
        path: of the checkpoint.
        config: the run's configuration.
    """

    folder: Path
    path: Path
    config: DictConfig

    @property
    def name(self) -> str:
        """The run's folder and the name of the checkpoint, for messages and figures."""
        return f"{shown(self.folder)} {self.path.stem}"

    def state(self) -> dict[str, Any]:
        """Returns the content of the file; UserError if it cannot be read."""
        return read_state(self.path)

    def description(self) -> dict[str, Any]:
        """Returns the names of the run and the checkpoint, for JSON."""
        return {"run": shown(self.folder), "checkpoint": self.path.name, "name": self.name}


def read_state(path: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint; UserError if it cannot be read."""
    try:
        return read_checkpoint(path)
    except DamagedFile as error:
        raise UserError(str(error)) from error


def checkpoint_path(folder: Path, which: str) -> Path:
    """Returns the path of a run's checkpoint, whether the file exists or not.

    Args:
        folder: the run's.
        which: `best` or `last`.
    """
    path = folder / "checkpoints" / f"{which}.pt"
    if which == "last" and not path.exists():  # the run was killed while it replaced the file
        return next((older for _, older in numbered_checkpoints(path.parent)), path)
    return path


def find_checkpoints(paths: Iterable[str | Path], which: str) -> list[CheckpointRef]:
    """Returns the checkpoints that paths name, each once, in their order.

    Args:
        paths: of checkpoints in RUN/checkpoints/, of runs, of sweeps, or of folders above runs, all of whose runs
            are taken.
        which: `best` or `last`, of a run.

    Raises:
        UserError: a path is none of these.
    """
    if which not in ("best", "last"):
        raise UserError(f"--checkpoint {which}: must be best or last; a file is named in the place of its run")
    run_of: dict[Path, Path] = {}  # the run's folder, by checkpoint
    for path in map(Path, paths):
        if path.is_file():
            folder = path.absolute().parent.parent
            if path.absolute().parent.name != "checkpoints" or not (folder / CONFIG).is_file():
                raise UserError(f"{path}: is in no run's folder; a checkpoint is RUN/checkpoints/{path.name}")
            run_of.setdefault(path.resolve(), folder)
            continue
        if not path.is_dir():
            raise UserError(f"{path}: no such run or checkpoint")
        is_run = (path / CONFIG).is_file()
        folders = [path] if is_run else [path / name for name in jobs_below(path)]
        if not folders:
            raise UserError(f"{path}: is no run's or sweep's folder (there is no {CONFIG} in it or below it)")
        for folder in folders:
            run_of.setdefault(checkpoint_path(folder, which).resolve(), folder)
    configs = {folder: read_config(folder)[0] for folder in dict.fromkeys(run_of.values())}
    return [CheckpointRef(folder, path, configs[folder]) for path, folder in run_of.items()]


def check_same_images(checkpoints: list[CheckpointRef], inputs: tuple[str, ...] = ()) -> None:
    """Raises UserError, which names a key, unless all runs have the same test set and validation set.

    Args:
        checkpoints: of the runs.
        inputs: further keys of data that must be equal, as `mean`.
    """
    first, *others = checkpoints
    ours = image_keys(first.config, inputs)
    for other in others:
        theirs = image_keys(other.config, inputs)
        for key in dict.fromkeys([*ours, *theirs]):
            one, two = ours.get(key, "—"), theirs.get(key, "—")
            if one != two:
                raise UserError(
                    f"{shown(other.folder)}: has other images than {shown(first.folder)}:"
                    f" data.{key} is {two} there, {one} here"
                )


def image_keys(config: DictConfig, inputs: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the values of the keys of data that determine a run's images, and of the keys in `inputs`."""
    data = config.data.items()
    return {str(key): value for key, value in data if key in inputs or key not in KEYS_WITHOUT_IMAGES}


def rebuilt_runs(
    checkpoints: list[CheckpointRef], device: str | None, display: Display, train_images: int = 0
) -> Iterator[Run]:
    """Yields for each checkpoint its run, rebuilt, with its weights; checkpoints of one run share what is built.

    Args:
        checkpoints: of runs with the same images.
        device: as in the configuration; None: each run's own.
        display: for notes.
        train_images: as in `rebuild_run`.

    Raises:
        UserError: a run cannot be built, is of a test function, or has other labels than the first.
    """
    built: tuple[Path, Run] | None = None
    labels: dict[str, torch.Tensor] = {}
    for checkpoint in checkpoints:
        if built is None or built[0] != checkpoint.folder:
            built = None  # two networks may not fit into memory
            built = checkpoint.folder, rebuild_run(checkpoint.folder, device, display, train_images)
        run = built[1]
        if run.objective.returns_loss:
            raise UserError(f"{shown(checkpoint.folder)}: is a run of a test function, which has no classes")
        for kind, source in run.evaluation_sets.items():
            theirs = source.targets.cpu()
            if not torch.equal(labels.setdefault(kind, theirs), theirs):
                raise UserError(
                    f"{shown(checkpoint.folder)}: its {kind} images have other labels than those of"
                    f" {shown(checkpoints[0].folder)}; were the files of the data changed?"
                )
        load_weights(run, checkpoint.state(), checkpoint.path)
        yield run
