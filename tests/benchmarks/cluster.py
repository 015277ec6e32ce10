"""A sweep of 10,000 runs: planning it, its job table, and comparing its runs; seconds against the bounds."""

import contextlib
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

from pairs import hardware, peak_megabytes, processor_seconds, report, resident, start

sys.path.append(str(Path(__file__).resolve().parent.parent))
from helpers.fixtures import made_up_run
from trainopt.runner import cli
from trainopt.runner.records.job_table import read_jobs
from trainopt.runner.search.compose import Composer
from trainopt.runner.sweeps.jobs import plan_sweep

RUNS, COMPARED = 10_000, 400
PLAN_SECONDS, STATUS_SECONDS = 120.0, 10.0
GROWTH = 1.0  # MB of memory for a run that is compared, with few or many records
RECORD_BYTES = 1000.0  # of memory for a record of a run that is compared


def plan(folder: Path, runs: int) -> float:
    """Plans a sweep of two optimizers; returns its seconds."""
    typed = ["model=mlp", "optimizer=sgd,adam", "optimizer.lr=0.1,0.01", "batching.size=32,64", "schedule=cosine"]
    typed += [f"seed=range({runs // 8})", f"hydra.sweep.dir={folder}"]

    def planned() -> None:
        with Composer().composed(typed) as config:
            plan_sweep(config)

    with contextlib.redirect_stdout(io.StringIO()):
        return processor_seconds(planned)


def fill(folder: Path, rows: int) -> None:
    """Writes a finished run for each job of a planned sweep: copies of one, with their seeds and fingerprints."""
    one = made_up_run(folder / "one", curve=[10.0 + 80.0 * n / rows for n in range(rows)])
    texts = {path.name: path.read_text() for path in one.iterdir()}
    shutil.rmtree(one)
    fingerprint = json.loads(texts["summary.json"])["fingerprint"]
    for number, job in enumerate(read_jobs(folder)):
        run = folder / job["folder"]
        run.mkdir(parents=True)
        for name, text in texts.items():
            new = text.replace(fingerprint, job["fingerprint"]).replace('"seed": 0', f'"seed": {number}')
            (run / name).write_text(new.replace("seed: 0", f"seed: {number}"))


def typed(*arguments: str) -> float:
    """Runs a command; returns its seconds."""

    def command() -> None:
        cli.dispatch(list(arguments), debug=False)

    with contextlib.redirect_stdout(io.StringIO()):
        return processor_seconds(command)


def growth(folder: str) -> None:
    """Prints by how many MB a process grows that compares the runs of a sweep."""
    typed("status", folder)
    before = resident("VmHWM")
    typed("compare", folder, "--out", f"{folder}/out")
    print((resident("VmHWM") - before) / 1024)


def measure() -> bool:
    """Measures all."""
    print(f"\nA sweep of {RUNS} runs, processor seconds. {hardware()}")
    top = Path(tempfile.mkdtemp())
    try:
        seconds = plan(top / "sweep", RUNS)
        holds = report(f"planning: {seconds:.1f} s / {PLAN_SECONDS:.0f} s", seconds / PLAN_SECONDS, 1.0)
        fill(top / "sweep", 5)
        seconds = typed("status", str(top / "sweep"))
        holds &= report(f"trainopt status: {seconds:.1f} s / {STATUS_SECONDS:.0f} s", seconds / STATUS_SECONDS, 1.0)
        for name, rows in (("few", 5), ("many", 200)):
            plan(top / name, COMPARED)
            fill(top / name, rows)
        few, many = (peak_megabytes(str(top / name)) for name in ("few", "many"))
        print(f"comparing {COMPARED} runs of 9 records grows by {few:.0f} MB, of 399 records by {many:.0f} MB")
        holds &= report("bytes of a record", (many - few) * 2**20 / (390 * COMPARED), RECORD_BYTES)
        return holds & report("MB of a run with 399 records", many / (COMPARED), GROWTH)
    finally:
        shutil.rmtree(top)


if __name__ == "__main__":
    start(measure, growth)
