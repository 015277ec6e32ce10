"""Drawn inputs: what runs a command line with them, and draws so many."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from helpers.cli import start_fork
from trainopt.runner.records.run_folder import read_config

EXAMPLES = int(os.environ.get("TRAINOPT_FUZZ", "25"))
KINDS = 16  # in test_fuzz.py, test_fuzz_data.py and test_fuzz_runs.py
LIMIT_SECONDS = 60
RUN = ("model=mlp", "model.hidden=[4]", "data.limit=60", "logger=none", "evaluate_every=1000epochs", "run.name=a")
BRIEF = (*RUN, "duration=2steps")
PUNCTUATION = " ,=[]{}()'\"&$#%;:!?*+-_.@~^|<>äß日"


class Ended:
    """A command that has ended: its exit code and what it printed."""

    def __init__(self, code: int, out: str):
        self.code, self.out = code, out
        assert "Traceback" not in out, out
        assert code in (0, 1, 2, 3, 129, 130, 143), (code, out)

    def check_refused(self, *names: str) -> None:
        """Asserts that it ended with exit code 2, in a line or a few, which hold one of the names."""
        lines = self.out.strip().splitlines()
        assert self.code == 2, (self.code, self.out)
        assert 1 <= len(lines) <= 3, self.out
        assert not names or any(name in self.out for name in names), (names, self.out)


def run(folder: Path, *typed: str, before: Callable[[], object] = lambda: None, is_drawn: bool = False) -> Ended:
    """Runs a command line in a folder, and waits for its end; its figures are empty files unless `is_drawn`."""
    (folder / "output").unlink(missing_ok=True)

    def prepare() -> None:
        if not is_drawn:
            Figure.savefig = lambda figure, path, **options: Path(path).touch()
        before()

    return wait_for(start_fork(*typed, folder=folder, before=prepare), folder)


def wait_for(pid: int, folder: Path) -> Ended:
    """Waits for the end of a command as long as it may take; what it printed is in `output` in the folder."""
    output, until = folder / "output", time.monotonic() + LIMIT_SECONDS
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return Ended(os.waitstatus_to_exitcode(status), output.read_bytes().decode(errors="replace"))
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"hangs: {output.read_text(errors='replace')}")
        time.sleep(0.01)


def config(run_folder: Path) -> dict:
    """Returns the configuration in a run's run.yaml, which must be in UTF-8."""
    (run_folder / "run.yaml").read_text(encoding="utf-8")
    return read_config(run_folder)[0]


def check_done(folder: Path, *typed: str) -> None:
    """Asserts that a command line's run has ended, and that the same command again reports it."""
    again = run(folder, *typed)
    assert again.code == 0
    assert "done" in again.out or "finished" in again.out, again.out


def only_run(folder: Path) -> Path:
    """Returns the folder of the only run below outputs/; nothing else was written in the folder."""
    (file,) = (folder / "outputs").rglob("summary.json")
    return file.parent


def write_npz(path: Path, **parts) -> None:
    """Writes 30 images for training and 12 for testing."""
    rng = np.random.default_rng(0)
    content = {"x_train": rng.integers(0, 256, (30, 6, 6, 1), dtype=np.uint8), "y_train": np.arange(30) % 3}
    content |= {"x_test": rng.integers(0, 256, (12, 6, 6, 1), dtype=np.uint8), "y_test": np.arange(12) % 3}
    with path.open("wb") as file:
        np.savez(file, **(content | parts))


def check_kinds(kind: Callable[..., object], tmp_path: Path) -> None:
    """Draws inputs of a kind, each with an empty folder of its own.

    Args:
        kind: takes a function that draws, and the folder.
        tmp_path: where the folders lie.
    """

    @settings(
        max_examples=max(1, -(-EXAMPLES // KINDS)),
        deadline=None,
        derandomize="TRAINOPT_FUZZ" not in os.environ,  # the tests draw the same each time
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data):
        folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "here"
        folder.mkdir()
        try:
            kind(data.draw, folder)
        finally:
            shutil.rmtree(folder.parent)

    check()
