"""An optimizer for searches: it puts the loss of the function theta -> theta where a formula says.

It fails or diverges by the same formula, and every step goes on record.
"""

import math
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from helpers.cli import exit_code, start_fork

SOURCE = """
import math, pathlib, time, torch

HERE = pathlib.Path(__file__).parent

class Placed(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, best=-2.0, width=4.0, pause=0.0):
        super().__init__(params, {{"lr": lr}})
        self.place, self.pause = (math.log10(lr) - best) ** 2 + 0.1 * (width - 4) ** 2, pause
        self.key = f"{{lr!r}},{{best!r}},{{width!r}}"

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        time.sleep(self.pause)
        (p,) = self.param_groups[0]["params"]
        state = self.state[p]
        state["step"] = state.get("step", 0) + 1
        with open(HERE / "steps", "a") as file:
            file.write(f"{{self.key}},{{state['step']}}\\n")
        if {fails[0]} < self.place < {fails[1]}:
            raise ArithmeticError("no further")
        p.fill_(float("nan") if self.place > {diverges} else self.place + 1 / state["step"])
        return loss
"""
TRAINING = (
    "model=function",
    "model.function=product",
    "model.start=[1.0]",
    "data=none",
    "logger=none",
    "optimizer._target_=their_placed.Placed",
    "optimizer.lr=tag(log,interval(1e-4,1.0))",
    "evaluate_every=1steps",
    "checkpoint_every=1steps",
)


def write_placed(folder: Path, fails: tuple[float, float], diverges: float) -> None:
    """Writes the module `their_placed` into a folder.

    Args:
        folder: in which runs start.
        fails: places between which a run fails at its first step.
        diverges: a place beyond which it diverges.
    """
    (folder / "their_placed.py").write_text(SOURCE.format(fails=fails, diverges=diverges))


def place_of(lr: float, best: float = -2.0, width: float = 4.0) -> float:
    """Returns what the loss comes near to."""
    return (math.log10(lr) - best) ** 2 + 0.1 * (width - 4) ** 2


def point_key(lr: float, best: float = -2.0, width: float = 4.0) -> str:
    """Returns what the lines of the steps at a point begin with; behind it stand a comma and the number of the step."""
    return f"{lr!r},{best!r},{width!r}"


def strike(command: tuple[str, ...], folder: Path, rng: random.Random, earliest: float) -> int:
    """Starts a search three times, and kills all of its processes each time; returns how many did not end before.

    Args:
        command: of the search.
        folder: to start it in.
        rng: draws the moments.
        earliest: seconds from a start; the latest is 3 s later.
    """
    kills = 0
    for _ in range(3):
        pid = start_fork(*command, folder=folder, before=os.setsid)
        time.sleep(rng.uniform(earliest, earliest + 3.0))
        os.killpg(pid, signal.SIGKILL)
        kills += exit_code(pid) == -signal.SIGKILL
    assert kills > 0
    return kills


def made_steps(folder: Path) -> Counter[str]:
    """Returns how often each step was made."""
    return Counter((folder / "steps").read_text().split())
