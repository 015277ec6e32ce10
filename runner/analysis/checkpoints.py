"""Checkpoints that are looked at together: of which runs they are, and whether these have the same images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig

from trainopt.models import DamagedFile

from ..records.checkpoint_files import numbered_checkpoints, read_checkpoint
from ..records.job_table import jobs_below
from ..records.run_folder import read_config
from ..system.errors import UserError
from ..system.files import shown

if TYPE_CHECKING:
    from ..state.run import Run
    from ..system.display import Display

# keys of data that do not choose images: where they lie, how they become inputs, what is done to those of training
APART = {"root", "download", "workers", "mean", "std", "size", "channels", "crop_share", "interpolation"}
APART |= {"bootstrap", "scale", "ratio", "color_jitter"}


@dataclass
class Member:
    """A checkpoint of a run."""

    folder: Path  # the run's
    path: Path
    config: DictConfig  # the run's

    @property
    def name(self) -> str:
        """The run's folder and the checkpoint's name, as people see them."""
        return f"{shown(self.folder)} {self.path.stem}"

    def state(self) -> dict[str, Any]:
        """Returns what is in the file; UserError if it cannot be read."""
        return state_in(self.path)


def state_in(path: Path) -> dict[str, Any]:
    """Returns what is in a checkpoint; UserError if it cannot be read."""
    try:
        return read_checkpoint(path)
    except DamagedFile as error:
        raise UserError(str(error)) from error


def checkpoint_path(folder: Path, which: str) -> Path:
    """Returns the file of a run's checkpoint, whether it is there or not.

    Args:
        folder: the run's.
        which: `best` or `last`.
    """
    path = folder / "checkpoints" / f"{which}.pt"
    if which == "last" and not path.exists():  # it was being replaced when the run was killed
        return next((older for _, older in numbered_checkpoints(path.parent)), path)
    return path


def find_members(paths: Iterable[str | Path], which: str) -> list[Member]:
    """Returns the checkpoints that paths name, each once, in their order.

    Args:
        paths: of checkpoints in RUN/checkpoints/, of runs, and of sweeps or folders above runs, all of whose runs
            are taken.
        which: `best` or `last`, of a run.

    Raises:
        UserError: a path is none of these.
    """
    if which not in ("best", "last"):
        raise UserError(f"--checkpoint {which}: must be best or last; files are named in the place of runs")
    found: dict[Path, Path] = {}  # the run's folder by checkpoint
    for path in map(Path, paths):
        if path.is_file():
            folder = path.absolute().parent.parent
            if path.absolute().parent.name != "checkpoints" or not (folder / "run.yaml").is_file():
                raise UserError(f"{path}: lies in no run's folder, as RUN/checkpoints/{path.name} does")
            found.setdefault(path.resolve(), folder)
            continue
        if not path.is_dir():
            raise UserError(f"{path}: no such run or checkpoint")
        is_run = (path / "run.yaml").is_file()
        folders = [path] if is_run else [path / name for name in jobs_below(path)]
        if not folders:
            raise UserError(f"{path}: is no run's or sweep's folder (there is no run.yaml in it or below it)")
        for folder in folders:
            found.setdefault(checkpoint_path(folder, which).resolve(), folder)
    configs = {folder: read_config(folder)[0] for folder in dict.fromkeys(found.values())}
    return [Member(folder, path, configs[folder]) for path, folder in found.items()]


def check_same_images(members: list[Member], inputs: tuple[str, ...] = ()) -> None:
    """Raises UserError, which names a key, unless all runs have the same test and held-out images.

    Args:
        members: of the runs.
        inputs: keys of data beside those that choose images, which must be the same too.
    """
    first, *others = members
    ours = images_of(first.config, inputs)
    for other in others:
        theirs = images_of(other.config, inputs)
        for key in dict.fromkeys([*ours, *theirs]):
            one, two = ours.get(key, "—"), theirs.get(key, "—")
            if one != two:
                raise UserError(
                    f"{shown(other.folder)}: has other images than {shown(first.folder)}:"
                    f" data.{key} is {two} there, {one} here"
                )


def images_of(config: DictConfig, inputs: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the keys of a run's data that choose its images, and those of `inputs`, with their values."""
    return {str(key): value for key, value in config.data.items() if key in inputs or key not in APART}


def runs_of(members: list[Member], device: str | None, display: "Display", train_images: int = 0) -> Iterator["Run"]:
    """Yields, for each member, its run with the member's weights; members of one run share what is built.

    Args:
        members: of runs with the same images.
        device: as in the configuration; None: each run's own.
        display: for notes.
        train_images: how many training images there are to evaluate on, as the set `train`; 0: none.

    Raises:
        UserError: a run cannot be built, is of a test function, or has other labels than the first.
    """
    from .evaluate import prepared, set_state

    built: tuple[Path, Run] | None = None
    labels: dict[str, torch.Tensor] = {}
    for member in members:
        if built is None or built[0] != member.folder:
            built = None  # two networks need not fit into memory
            built = member.folder, prepared(member.folder, device, display, train_images)
        run = built[1]
        if run.objective.returns_loss:
            raise UserError(f"{shown(member.folder)}: is of a test function, which classifies nothing")
        for kind, source in run.evaluation_sets.items():
            theirs = torch.as_tensor(source.labels).cpu()
            if not torch.equal(labels.setdefault(kind, theirs), theirs):
                raise UserError(
                    f"{shown(member.folder)}: its {kind} images have other labels than those of"
                    f" {shown(members[0].folder)}; were the files of the data changed?"
                )
        set_state(run, member.state(), member.path)
        yield run
