"""Kills runs on several processes at drawn moments, one process or all, and compares them with undisturbed runs.

    cd tests && ../.venv/bin/python -m faults.rank_kills --kills 60

One to three signals in a row strike a run: SIGKILL or SIGTERM, one process or all, at any time of its life, or one in
the middle of steps, evaluations and writing. What torchrun does then is done here: the others get SIGTERM, and SIGKILL
where they have not ended after `PATIENCE` seconds. Then the run is resumed until its end. Where it always had as many
processes, it has to equal the undisturbed run bit for bit; else to 1e-6, with the same samples.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from itertools import count
from pathlib import Path

import torch

from faults.kills import report, strike_at
from helpers.ranks import DOUBLE, start_ranks
from helpers.runs import check_same_run, rows, weights
from trainopt.data import InMemory

SIZES = (2, 3)
STEPS = 12
PATIENCE = 15.0  # seconds; torchrun has 30
HANGS = 60.0  # seconds after which processes that wait for each other count as a problem
MOMENTS = {"step": STEPS, "evaluation": 4, "half written": 8, "flush": 14, "rename": 8, "renamed": 8, "summary": 1}
AT_EVERY_RANK = ("step", "evaluation")  # the other moments are of writing, which is rank 0's
RUN = (
    f"logger=none data=digits data.limit=100 batching.size=33 log_every=1steps checkpoint_every=2steps"
    f" evaluate_every=5steps duration={STEPS}steps"
)
LINES = {
    "sgd": f"{DOUBLE} +model.dropout=0.2 optimizer.momentum=0.9 averaging=ema",
    "adam": f"{DOUBLE} optimizer=adam gradient.accumulation_steps=2 regularizer=[l2]",
    "ehnewton": f"{DOUBLE} optimizer=ehnewton optimizer.momentum=0.5 optimizer.adapt_damping=true +model.dropout=0.2",
    "linear": "model._target_=helpers.ranks.DoubleLinear optimizer=ehnewton optimizer.cg_max_iter=3 probe=[fisher]"
    " probe.fisher.every=2steps",
}


@dataclass
class RankKill:
    """A signal to a run.

    Attributes:
        size: number of processes.
        kind: of the moment: a key of `MOMENTS`, or `time`.
        rank: that it strikes; None: all.
        number: of the signal.
        when: seconds from the start, or after how many moments of the kind.
        codes: the exit codes of the processes, or minus the numbers of signals.
        waited: whether processes had to be killed that did not end by SIGTERM.
    """

    size: int
    kind: str
    rank: int | None
    number: int
    when: float
    codes: list[int] = field(default_factory=list)
    waited: bool = False

    @property
    def struck(self) -> bool:
        """Whether the signal ended the run."""
        return any(self.codes)


@dataclass
class RankLine:
    """A command line, and the runs of it that nobody disturbs, by number of processes.

    Args:
        name: a key of `LINES`.
        top: where these runs are made, at the first use.
    """

    name: str
    top: Path
    _lives: dict[int, float] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """What is typed."""
        return f"{RUN} {LINES[self.name]}"

    def life(self, size: int) -> float:
        """Makes the run on so many processes, once; the seconds that it took."""
        if size not in self._lives:
            began = time.monotonic()
            codes, _ = wait_as_torchrun(start_ranks(size, self.command, self.whole(size)))
            assert codes == size * [0], (self.whole(size) / "rank0.txt").read_text(encoding="utf-8")
            self._lives[size] = time.monotonic() - began
        return self._lives[size]

    def whole(self, size: int) -> Path:
        """Returns the folder of the undisturbed run on so many processes."""
        return self.top / f"whole {self.name} {size}"


@dataclass
class RankSequence:
    """Kills of one run in a row, and what came of it; `problem` says what is not as it has to be."""

    line: str
    kills: list[RankKill] = field(default_factory=list)
    problem: str = ""


def wait_as_torchrun(processes: list[int]) -> tuple[list[int], bool]:
    """Waits for processes, and ends all where one fails; returns their exit codes, and whether SIGKILL was needed."""
    codes: dict[int, int] = {}
    began = time.monotonic()
    failed: float | None = None
    waited = False
    while len(codes) < len(processes):
        for pid in set(processes) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
        left, now = set(processes) - set(codes), time.monotonic()
        if failed is None and (any(codes.values()) or now - began > HANGS):
            failed = now
            for pid in left:
                os.kill(pid, signal.SIGTERM)
        elif failed is not None and now - failed > PATIENCE:
            waited = True
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[pid] for pid in processes], waited


def draw_kill(rng: random.Random, line: RankLine, size: int) -> RankKill:
    """Draws a signal, its moment, and whom it strikes."""
    kind, number = rng.choice(["time", "time", *MOMENTS]), rng.choice([signal.SIGKILL, signal.SIGTERM])
    if kind == "time":
        return RankKill(size, kind, rng.choice([None, *range(size)]), number, rng.uniform(0, line.life(size)))
    rank = rng.randrange(size) if kind in AT_EVERY_RANK else 0
    return RankKill(size, kind, rank, number, rng.randint(1, MOMENTS[kind]))


def strike_in_evaluation(times: int, number: int) -> None:
    """Lets this process get a signal at a batch of an evaluation; all processes read the same batches."""
    ordered, left = InMemory.ordered, times

    def struck(self, batch_size):
        nonlocal left
        for batch in ordered(self, batch_size):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), number)
            yield batch

    InMemory.ordered = struck


def run_and_kill(line: RankLine, folder: Path, kill: RankKill) -> None:
    """Starts the run of a folder, or resumes it, and kills it; notes how its processes ended."""

    def before(rank: int) -> None:
        if rank == kill.rank and kill.kind == "evaluation":
            strike_in_evaluation(int(kill.when), kill.number)
        elif rank == kill.rank and kill.kind != "time":
            strike_at(kill.kind, int(kill.when), kill.number)()

    processes = start_ranks(kill.size, line.command, folder, before=before)
    if kill.kind == "time":
        time.sleep(kill.when)
        for pid in processes if kill.rank is None else [processes[kill.rank]]:
            with suppress(ProcessLookupError):
                os.kill(pid, kill.number)
    began = time.monotonic()
    kill.codes, kill.waited = wait_as_torchrun(processes)
    kill.waited |= time.monotonic() - began > HANGS


def strike(line: RankLine, folder: Path, kills: list[RankKill], size: int) -> RankSequence:
    """Kills a run until a signal comes too late, resumes it to its end, and compares it with the undisturbed one.

    Args:
        line: of the run.
        folder: where the run is made.
        kills: one after the other.
        size: number of processes of the end.
    """
    sequence = RankSequence(line.name)
    line.life(size)
    for kill in kills:
        run_and_kill(line, folder, kill)
        sequence.kills.append(kill)
        if kill.kind != "time" and kill.waited:
            sequence.problem = f"processes hang: {kill}"
            return sequence
        if not kill.struck:
            break
    codes, _ = wait_as_torchrun(start_ranks(size, line.command, folder))
    try:
        assert codes == size * [0], f"resumed: exit codes {codes}"
        if all(kill.size == size for kill in sequence.kills):
            check_same_run(folder, line.whole(size))
        else:
            check_to_rounding(folder, line.whole(size))
        assert not list(folder.rglob("*.tmp")), "a temporary file is left"
    except AssertionError as error:
        sequence.problem = str(error)[:2000] or "differs"
    return sequence


def check_to_rounding(one: Path, other: Path) -> None:
    """Asserts that two runs had the same samples, and have the same weights to 1e-6."""
    places = [[(row["kind"], row["step"], row.get("samples")) for row in rows(folder)] for folder in (one, other)]
    assert places[0] == places[1]
    after = weights(other)
    for name, value in weights(one).items():
        assert (value - after[name]).abs().max() <= 1e-6, name


def sequences(top: Path, seed: int) -> Iterator[RankSequence]:
    """Yields kills in a row without end, line by line; the folders of those with a problem are left."""
    lines = [RankLine(name, top) for name in LINES]
    for index in count():
        rng, folder, line = random.Random(f"{seed}/{index}"), top / f"parts-{index}", lines[index % len(lines)]
        changes, size = rng.random() < 0.5, rng.choice(SIZES)
        kills = [draw_kill(rng, line, rng.choice(SIZES) if changes else size) for _ in range(rng.randint(1, 3))]
        sequence = strike(line, folder, kills, size)
        yield sequence
        if not sequence.problem:
            shutil.rmtree(folder)


def main() -> None:
    """Kills as often as the command line says; prints a line for each run and a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix="rank-kills-"))
    torch.set_num_threads(1)
    all_equal = report(
        sequences(top, options.seed),
        options.kills,
        labels=lambda kill: [
            f"whom: {'all' if kill.rank is None else f'rank {kill.rank}'}",
            *["ended by SIGKILL alone"] * kill.waited,
        ],
        tried=lambda kill: list(astuple(replace(kill, when=round(kill.when, 3)))),
    )
    if all_equal:
        shutil.rmtree(top)
    sys.exit(0 if all_equal else 1)


if __name__ == "__main__":
    main()
