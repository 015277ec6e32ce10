"""Comparing 1,000 runs of 500 rows, against reading their files with pandas alone."""

import contextlib
import io
import shutil
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import pandas as pd

from pairs import hardware, ratios, report

sys.path.append(str(Path(__file__).resolve().parent.parent))
from helpers.fixtures import made_up_run
from trainopt.runner import cli

RUNS, ROWS, BOUND, PAIRS = 1000, 500, 2.0, 3


def make_runs(folder: Path) -> None:
    """Writes four methods with 250 seeds each."""
    curve = [10.0 + 80.0 * n / (ROWS // 2) for n in range(ROWS // 2 + 1)]
    for number in range(RUNS):
        method, seed = number % 4, number // 4
        shift = method + (seed * 7919 % 101) / 100
        made_up_run(
            folder / f"run{number}",
            seed,
            90.0 + shift,
            curve=[value + shift for value in curve],
            config={"optimizer.lr": 0.1 / (1 + method)},
        )


def with_pandas(folder: Path) -> float:
    """Reads the files of all runs with pandas; returns seconds."""
    began = perf_counter()
    for path in folder.glob("run*"):
        pd.read_json(path / "metrics.jsonl", lines=True)
        pd.read_json(path / "summary.json", typ="series")
    return perf_counter() - began


def ours(folder: Path) -> float:
    """Runs the command, with its pictures and its report; returns seconds."""
    sys.argv = ["trainopt", "compare", str(folder), "--out", str(folder / "out")]
    began = perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main()
    return perf_counter() - began


def main() -> bool:
    """Measures all."""
    print(f"\nComparing {RUNS} runs of {ROWS} rows, seconds. {hardware()}, pandas {pd.__version__}")
    folder = Path(tempfile.mkdtemp())
    try:
        make_runs(folder)
        a, b, ratio = ratios(lambda: ours(folder), lambda: with_pandas(folder), PAIRS)
        return report(f"trainopt compare: {a:.2f} / {b:.2f}", ratio, BOUND)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    raise SystemExit(not main())
