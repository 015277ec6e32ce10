"""Two ranks on the CPUs of this machine against one, and the part of their step that is communication."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.ranks import run_ranks
from helpers.runs import summary
from pairs import hardware

CASES = {
    "ResNet-20, 32x32, batches of 64": "model=resnet20 data=synthetic data.image_shape=[3,32,32] batching.size=64",
    "a linear layer on 32x32, batches of 64": "model=mlp model.hidden=[] data=synthetic data.image_shape=[3,32,32]",
}
STEPS = 12


def step_seconds(folder: Path, size: int, line: str) -> float:
    """Returns the seconds of a step, evaluations apart."""
    typed = f"{line} logger=none data.train_size=512 data.test_size=64 duration={STEPS}steps evaluate_every=1e9epochs"
    assert run_ranks(size, typed, folder) == size * [0]
    return summary(folder)["train_seconds"] / STEPS


def main() -> None:
    """Measures every case; the processes share the cores of the machine."""
    print(f"\nTwo ranks (gloo, one thread each) against one, milliseconds of a step. {hardware()}")
    for name, line in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            runs = [(size, typed) for size in (1, 2) for typed in ("batch_norm=global", "batch_norm=local")]
            times = {
                (size, typed): 1000 * step_seconds(Path(folder) / f"{size}{typed}", size, f"{line} {typed}")
                for size, typed in runs
            }
        shown = ", ".join(f"{size} with {typed}: {value:.1f}" for (size, typed), value in times.items())
        print(f"{name}: {shown}")


if __name__ == "__main__":
    main()
