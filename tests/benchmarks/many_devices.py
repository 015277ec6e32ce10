"""Two ranks on the CPUs of this machine against one, and the part of their step that is communication.

A step is what an optimizer does with a batch: passes, reductions, and the update. What is waited for inside of
reductions counts as communication: also for a rank that is later, so on a machine that does more besides it is more.
"""

import json
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.ranks import start_ranks, wait_ranks
from pairs import hardware
from trainopt.runner.distributed.group import Group
from trainopt.runner.state.update_scale import ScaledUpdate

IMAGES = "data=synthetic data.image_shape=[3,32,32] batching.size=64"
CASES = {
    "ResNet-20, SGD": f"model=resnet20 {IMAGES}",
    "ResNet-20, SGD, batch norm of each rank": f"model=resnet20 {IMAGES} batch_norm=local",
    "ResNet-20, EHNewton, one iteration": f"model=resnet20 {IMAGES} optimizer=ehnewton",
    "a linear layer of 3072 inputs, SGD": f"model=mlp model.hidden=[] {IMAGES}",
    "the same, EHNewton, 20 iterations": f"model=mlp model.hidden=[] {IMAGES} optimizer=ehnewton"
    " optimizer.cg_max_iter=20",
}
STEPS, WARM_UP = 10, 3


def measure(rank: int) -> None:
    """Lets the run of this process write the seconds of its steps, of these in reductions, and their number."""
    steps: list[tuple[float, float, int]] = []
    inside, calls = 0.0, 0
    connection, prepare = Group._connection, ScaledUpdate.__init__

    @contextmanager
    def timed(self, *timeout):
        nonlocal inside, calls
        began = perf_counter()
        calls += 1
        with connection(self, *timeout):
            yield
        inside += perf_counter() - began

    def prepared(self, *arguments):
        prepare(self, *arguments)
        update = self.step

        def step(closure):
            began, inside_before, calls_before = perf_counter(), inside, calls
            update(closure)
            steps.append((perf_counter() - began, inside - inside_before, calls - calls_before))
            if len(steps) == STEPS:
                Path(f"steps{rank}.json").write_text(json.dumps(steps[WARM_UP:]))

        self.step = step

    Group._connection, ScaledUpdate.__init__ = timed, prepared


def steps_of(folder: Path, size: int, line: str) -> list[tuple[float, float, int]]:
    """Returns seconds, seconds in reductions and number of calls of the steps of rank 0."""
    folder.mkdir()
    os.chdir(folder)
    typed = f"{line} logger=none data.train_size=640 data.test_size=64 duration={STEPS}steps evaluate_every=1e9epochs"
    assert wait_ranks(start_ranks(size, typed, folder, before=measure)) == size * [0]
    return json.loads((folder / "steps0.json").read_text())


def main() -> None:
    """Measures every case; the processes share the cores of the machine."""
    print(f"\nTwo ranks (gloo, one thread each) against one, medians of {STEPS - WARM_UP} steps. {hardware()}")
    with tempfile.TemporaryDirectory() as top:
        for number, (name, line) in enumerate(CASES.items()):
            one, two = (steps_of(Path(top) / f"{number} {size}", size, line) for size in (1, 2))
            share = median(inside / whole for whole, inside, _ in two)
            times = " and ".join(f"{1000 * median(row[0] for row in rows):.1f}" for rows in (one, two))
            calls = median(row[2] for row in two)
            print(f"{name:<42} ms of a step, 1 and 2 ranks: {times}; communication {share:.0%} ({calls:g} calls)")


if __name__ == "__main__":
    main()
