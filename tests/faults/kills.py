"""Kills runs at drawn moments, resumes them, and compares them with runs that nobody disturbed, bit for bit.

    cd tests && ../.venv/bin/python -m faults.kills --kills 1000

The lines are all optimizers, schedules and rules of batch sizes; folders of images, and transforms of images in memory,
that worker processes read; and other parts with a state, many in one run. One to four signals in a row strike a run,
SIGKILL, SIGTERM or SIGHUP: at any time of its life from the start on, or in the middle of steps, evaluations and
writing; where processes read its data, they strike one of these or the group, too.
Then it is resumed until its end. All rows, the summary and all state have to be equal, but for times.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from itertools import count, cycle
from pathlib import Path
from typing import Any

import torch

from helpers.cli import exit_code, forked, start_fork
from helpers.fixtures import image_folders, lines_of, reference_run
from helpers.runs import check_same_run
from trainopt.data import FolderSource, InMemory
from trainopt.data.sources.transformed import TransformedInMemory
from trainopt.runner.records import checkpoint_files
from trainopt.runner.state.progress import Progress
from trainopt.runner.state.recorder import Recorder
from trainopt.runner.system import files

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
STEPS = 40  # of the whole run
MOST_IN_A_ROW = 4
RUN = f"model=mlp model.hidden=[16] logger=none log_every=2steps checkpoint_every=3steps duration={STEPS}steps"
IN_MEMORY = "model.dropout=0.2 data.limit=240 data.validation=0.2 augmentation.flip=0.5 evaluate_every=1.3epochs"
READ_BY_WORKERS = "data=imagefolder data.path={images} data.size=8 data.workers=2 batching.size=8 evaluate_every=9steps"
MANY_PARTS = {
    "workers, randaugment": "augmentation=randaugment data.workers=2 batching.size=16",
    "parts, ema": (
        "optimizer=muon schedule=cosine averaging=ema gradient.accumulation_steps=2 gradient.clip_norm=0.5"
        " parameter_groups.no_decay=[bias,norm] metric=[top1,confusion_matrix] regularizer=[l2]"
        " probe=[gradient_noise] probe.gradient_noise.every=4steps augmentation.mixup=0.4"
    ),
    "parts, swa": (
        "optimizer=adamw schedule=one_cycle schedule.max_lr=0.01 averaging=swa averaging.start=0.3"
        " averaging.every=2steps objective=mse batching.persistency=[2,1]"
    ),
}
MOMENTS = {  # the largest number of such moments after which a signal comes
    "step": STEPS,
    "evaluation": 60,
    "half written": 20,
    "flush": 40,
    "rename": 20,
    "renamed": 20,
    "summary": 1,
    "summarised": 1,
    "reader": 40,
}


def all_lines() -> dict[str, str]:
    """Returns the command lines by name, as in `optimizer=adam`; {reference} and {images} are folders."""
    lines = {}
    for name, line in lines_of("optimizer", "schedule", "batching").items():
        size = "" if "batching=" in line else "batching.size=32"
        patience = "" if "schedule=range_test" in line else "early_stopping.patience=1000"
        lines[name] = f"{RUN} {IN_MEMORY} {size} {patience} {line}"
    for optimizer in ("sgd", "adam", "ehnewton"):
        lines[f"workers, {optimizer}"] = f"{RUN} {READ_BY_WORKERS} optimizer={optimizer}"
    return lines | {name: f"{RUN} {IN_MEMORY} {line}" for name, line in MANY_PARTS.items()}


def strike_at(kind: str, times: int, number: int) -> Callable[[], None]:
    """Returns what, called in the process of a run, sends it a signal at the given one of the moments of a kind."""
    left = times

    def strike() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            for process in children(os.getpid())[:1] if kind == "reader" else [os.getpid()]:
                os.kill(process, number)

    def before(function):
        def wrapped(*arguments, **more):
            strike()
            return function(*arguments, **more)

        return wrapped

    def after(function):
        def wrapped(*arguments, **more):
            result = function(*arguments, **more)
            strike()
            return result

        return wrapped

    def halved(function):
        def wrapped(path, content):
            path.with_name(path.name + ".tmp").write_bytes(bytes(content)[: len(content) // 2])
            strike()
            return function(path, content)

        return wrapped

    def during(function, *limits):
        def wrapped(self, *arguments):
            for batch in function(self, *(min(argument, *limits) if limits else argument for argument in arguments)):
                strike()
                yield batch

        return wrapped

    def prepare() -> None:
        if kind == "step":
            Progress.advance = before(Progress.advance)
        elif kind == "evaluation":
            for source in (InMemory, FolderSource):
                source.ordered = during(source.ordered, 16)
        elif kind == "reader":
            FolderSource._load = during(FolderSource._load)
            TransformedInMemory.epoch = during(TransformedInMemory.epoch)
        elif kind == "half written":
            for module in (files, checkpoint_files):
                module.write_temporary = halved(module.write_temporary)
        elif kind == "flush":
            os.fsync = before(os.fsync)
        elif kind in ("rename", "renamed"):
            os.replace = (before if kind == "rename" else after)(os.replace)
        elif kind in ("summary", "summarised"):
            Recorder.summarise = (before if kind == "summary" else after)(Recorder.summarise)

    return prepare


@dataclass
class Kill:
    """A signal to a run.

    Attributes:
        kind: of the moment: a key of `MOMENTS`, where `reader` is a signal to a process that reads its data; or, at any
            time of its life, `time`, or `group`, to its process group.
        number: of the signal.
        when: seconds from the start, or after how many moments of the kind.
        code: the exit code of the run, or minus the number of the signal.
    """

    kind: str
    number: int
    when: float
    code: int = 0

    @property
    def struck(self) -> bool:
        """Whether the signal ended the run."""
        return self.code != 0

    @property
    def is_expected(self) -> bool:
        """Whether a run may end like this: a killed one by the signal, a stopped one with its code as well."""
        if self.kind == "reader":
            return self.code in (0, 1)
        return self.code in (0, -self.number) or (self.number != signal.SIGKILL and self.code == 128 + self.number)


@dataclass
class Line:
    """A command line, and the run of it that nobody disturbs.

    Args:
        name: as in `optimizer=adam`.
        command: what is typed.
        folder: where the run is made, at the first use.
    """

    name: str
    command: list[str]
    folder: Path

    @cached_property
    def life(self) -> float:
        """Makes the run; the seconds that it took from its start to its end."""
        prepare_folder(self.folder)
        began = time.monotonic()
        code = forked(*self.command, "hydra.run.dir=.", folder=self.folder)
        assert code == 0, (self.folder / "output").read_text(encoding="utf-8")
        return time.monotonic() - began


@dataclass
class Sequence:
    """Kills of one run in a row, and what came of it.

    Attributes:
        line: its name.
        kills: those that were tried.
        problem: what is not as it has to be; empty: nothing.
    """

    line: str
    kills: list[Kill] = field(default_factory=list)
    problem: str = ""

    @property
    def struck(self) -> int:
        """The number of signals that ended the run."""
        return sum(kill.struck for kill in self.kills)


def prepare_folder(folder: Path, draws: bool = False) -> None:
    """Creates a run's folder; it draws no figures, which takes long, unless it has to."""
    folder.mkdir()
    if not draws:
        (folder / "curves.png").touch()


def draw_kill(rng: random.Random, line: Line) -> Kill:
    """Draws a signal and its moment."""
    has_readers = line.name.startswith("workers")
    kind = rng.choice(["time", "group" if has_readers else "time", *MOMENTS])
    if kind == "reader" and not has_readers:
        kind = "step"
    if kind in MOMENTS:
        return Kill(kind, rng.choice(SIGNALS[:2] if kind == "reader" else SIGNALS), rng.randint(1, MOMENTS[kind]))
    return Kill(kind, rng.choice(SIGNALS), rng.uniform(0, line.life))


def run_and_kill(line: Line, folder: Path, kill: Kill) -> int:
    """Starts the run of a folder, or resumes it, and kills it; returns its exit code, or minus the signal's number."""
    command = (*line.command, "hydra.run.dir=.")
    if kill.kind in MOMENTS:
        return forked(*command, folder=folder, before=strike_at(kill.kind, int(kill.when), kill.number))
    pid = start_fork(*command, folder=folder, before=lambda: os.setpgid(0, 0))
    time.sleep(kill.when)  # until it is waited for, no other process gets its number
    with suppress(ProcessLookupError):  # a group that it has not formed yet
        (os.killpg if kill.kind == "group" else os.kill)(pid, kill.number)
    return exit_code(pid)


def children(pid: int) -> list[int]:
    """Returns the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def strike(line: Line, folder: Path, kills: Iterable[Kill], draws: bool = False) -> Sequence:
    """Kills a run until a signal comes too late, resumes it to its end, and compares it with the undisturbed one.

    Args:
        line: of the run.
        folder: where the run is made.
        kills: one after the other.
        draws: whether the run draws its figures.
    """
    sequence = Sequence(line.name)
    _ = line.life  # makes the undisturbed run
    prepare_folder(folder, draws)
    for kill in kills:
        began = time.monotonic()
        kill.code = run_and_kill(line, folder, kill)
        if not kill.struck and not sequence.kills:  # a whole run, perhaps on a machine that does less besides
            line.life = min(line.life, time.monotonic() - began)
        sequence.kills.append(kill)
        if not kill.is_expected:
            sequence.problem = f"exit code {kill.code}"
            return sequence
        if not kill.struck:
            break
    code = forked(*line.command, "hydra.run.dir=.", folder=folder)
    if code != 0:
        sequence.problem = f"resumed: exit code {code}"
        return sequence
    try:
        check_same_run(folder, line.folder)
        assert not list(folder.rglob("*.tmp")), "a temporary file is left"
    except AssertionError as error:
        sequence.problem = str(error)[:2000] or "differs"
    return sequence


def sequences(top: Path, seed: int, name: str = "") -> Iterator[Sequence]:
    """Yields kills in a row without end, line by line in a drawn order; the folders of those with a problem are left.

    Args:
        top: an empty folder to work in.
        seed: of all that is drawn.
        name: a part of the names of the lines.
    """
    images = top / "images"
    image_folders(images, train=40, val=10)
    places = {"reference": reference_run(top / "reference"), "images": images}
    commands = [(line_name, line) for line_name, line in all_lines().items() if name in line_name]
    random.Random(seed).shuffle(commands)
    lines = [Line(n, line.format(**places).split(), top / f"whole-{i}") for i, (n, line) in enumerate(commands)]
    for index, line in zip(count(), cycle(lines), strict=False):
        rng = random.Random(f"{seed}/{index}")
        folder = top / f"parts-{index}"
        kills = (draw_kill(rng, line) for _ in range(rng.randint(1, MOST_IN_A_ROW)))
        sequence = strike(line, folder, kills, draws=rng.random() < 0.2)
        yield sequence
        if not sequence.problem:
            shutil.rmtree(folder)


def report(
    sequences: Iterator[Any], number: int, labels: Callable[[Any], list[str]], tried: Callable[[Any], list[Any]]
) -> bool:
    """Prints a line for each run, and a table of the kills at the end; returns whether no run differs.

    Args:
        sequences: of kills; so many are taken that there is the number.
        number: of kills that struck.
        labels: of a kill that are counted beside its signal, its moment and its line.
        tried: what is printed of a kill.
    """
    struck: Counter[str] = Counter()
    runs = problems = 0
    began = time.monotonic()
    for sequence in sequences:
        runs += 1
        problems += bool(sequence.problem)
        for kill in (kill for kill in sequence.kills if kill.struck):
            name = signal.Signals(kill.number).name
            struck.update(["kills", f"by {name}", f"at: {kill.kind}", f"line: {sequence.line}", *labels(kill)])
        kills = [tried(kill) for kill in sequence.kills]
        entry = {"kills": struck["kills"], "run": runs, "line": sequence.line, "tried": kills}
        print(json.dumps({**entry, **({"problem": sequence.problem} if sequence.problem else {})}), flush=True)
        if struck["kills"] >= number:
            break
    for name, count_of in sorted(struck.items()):
        print(f"{count_of:5d} {name}")
    print(f"{struck['kills']} kills of {runs} runs in {time.monotonic() - began:.0f} s: {problems} runs differ")
    return not problems


def main() -> None:
    """Kills as often as the command line says; prints a line for each run and a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", default="", metavar="NAME", help="those with NAME in their name; default: all")
    parser.add_argument("--folder", type=Path, help="an empty one; default: a temporary one")
    options = parser.parse_args()
    top = options.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    top.mkdir(exist_ok=True)
    os.environ["TRAINOPT_CACHE"] = str(top / "cache")
    torch.set_num_threads(1)
    all_equal = report(
        sequences(top, options.seed, options.lines),
        options.kills,
        labels=lambda kill: [],
        tried=lambda kill: list(astuple(replace(kill, when=round(kill.when, 3)))),
    )
    if all_equal and options.folder is None:
        shutil.rmtree(top)
    sys.exit(0 if all_equal else 1)


if __name__ == "__main__":
    main()
