"""Batch size, learning rate, C_K and L_K, and what it brings to act on these (Liao et al. 2018, smaller).

    python liao_study.py FOLDER

The study's toy network 1024-500-500-10 on MNIST (section 4.4), three epochs instead of forty, three seeds;
needs TRAINOPT_DATA with MNIST; a quarter of an hour on two cores. 1. Five batch sizes and three learning rates:
C_K, L_K and test error; do size and rate order the two? 2. Dynamic sampling against fixed sizes at the study's
learning rate. 3. Controllers that act on the measures, against the fixed sizes: time to the error that the best
of these ends with. Runs that are there already are not repeated. The tables are printed; FOLDER/comparison has
the plane of C_K and L_K.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from omegaconf import OmegaConf

TRAINOPT = str(Path(sys.executable).with_name("trainopt"))
EPOCHS = 3
SIZES, RATES, SEEDS = (32, 64, 128, 256, 512), (0.00625, 0.025, 0.1), (0, 1, 2)
RATE = 0.025  # of dynamic sampling and controllers (the study: 0.1, at which the smallest batches do badly here)
TOY = ["experiment=liao2018/mnist_mlp"]
TOY_DYNAMIC = ["experiment=liao2018/mnist_dynamic", "model=mlp", "model.hidden=[500,500]"]
SHARED = [
    f"duration={EPOCHS}epochs",
    f"schedule.milestones=[{EPOCHS / 2}epochs,{EPOCHS * 3 / 4}epochs]",
    "evaluate_every=0.25epochs",
    "checkpoint_every=1000epochs",
    "logger=none",
]
ALONE = "hydra.sweeper.params=null"  # without the sweep of the experiment
AT_RATE = [ALONE, f"optimizer.lr={RATE}", f"seed={','.join(map(str, SEEDS))}"]
EVERY_STEP = ["probe.fisher.each_epoch=false", "probe.fisher.every=10steps", "batching.every=0.1epochs"]
DYNAMIC = {
    "s32-to-128": "[32,32,64,64,128]",
    "s32-to-512": "[32,64,128,256,512]",
    "s512-to-32": "[512,256,128,64,32]",
}
CONTROLLED = {
    "norm test": ["batching=controlled_norm_test", "batching.size=32"],
    "growth of L_K": ["batching=controlled", "batching.size=32", "batching.adjust=[size]"],
    "path of s64": ["batching=controlled_reference", "batching.size=32", "batching.adjust=[size]"],
}


def sweep(folder: Path, *typed: str) -> None:
    """Make a sweep, or what is missing of it, two runs at a time; stop where it fails."""
    command = [TRAINOPT, "-m", *SHARED, f"hydra.sweep.dir={folder}", *typed]
    command += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout[-500:]}{done.stderr[-2000:]}")


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    """Return the rows of a kind of a run's metrics."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def summaries(folder: Path) -> list[dict[str, Any]]:
    """Return what the runs of a sweep ended with."""
    found = []
    for path in sorted(folder.glob("*/summary.json")):
        config = OmegaConf.load(path.parent / "run.yaml")
        tests, probed = rows(path.parent, "test"), rows(path.parent, "probe")
        found.append(
            {
                "status": json.loads(path.read_text())["status"],
                "size": config.batching.get("size"),
                "rate": config.optimizer.lr,
                "seed": config.seed,
                "scope": config.batching.get("scope"),
                "folder": path.parent,
                "C": probed[-1]["C_K"],
                "L": probed[-1]["L_K"],
                "measured": [(row["step"], row["C_K"], row["L_K"]) for row in probed],
                "error": 100 - tests[-1]["top1"],
                "seconds": tests[-1]["train_seconds"],
                "way": [(row["train_seconds"], 100 - row["top1"]) for row in tests],
                "sizes": [row["batch_size"] for row in rows(path.parent, "control")],
            }
        )
    return found


def only(runs: Iterable[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """Return the runs of which these are true."""
    return [run for run in runs if all(run[key] == value for key, value in wanted.items())]


def spread(values: list[float], digits: int = 2) -> str:
    """Return mean and standard deviation."""
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def share_explained(cells: dict[tuple[int, float], float], by: int) -> float:
    """Return the share of the variance of the logarithms that the means over one of the two factors have."""
    logs = {key: math.log(value) for key, value in cells.items()}
    middle = mean(logs.values())
    levels = {key[by] for key in logs}
    means = {level: mean(value for key, value in logs.items() if key[by] == level) for level in levels}
    between = sum((means[key[by]] - middle) ** 2 for key in logs)
    return between / sum((value - middle) ** 2 for value in logs.values())


def grid(folder: Path) -> list[dict[str, Any]]:
    """Make the runs of every size with every rate, print their measures; return them."""
    typed = [f"batching.size={','.join(map(str, SIZES))}", f"optimizer.lr={','.join(map(str, RATES))}"]
    sweep(folder / "grid", *TOY, *typed, AT_RATE[-1])
    runs = summaries(folder / "grid")
    fewest = min(run["measured"][-1][0] for run in only(runs, size=max(SIZES)))
    cells: dict[str, dict[tuple[int, float], float]] = {name: {} for name in ("C", "L", "C at", "L at")}
    print("\n| C_K, L_K, test error (%) | " + " | ".join(f"lr {rate}" for rate in RATES) + " |")
    print("| --- " * (len(RATES) + 1) + "|")
    for size in SIZES:
        line = []
        for rate in RATES:
            own = only(runs, size=size, rate=rate)
            ended = only(own, status="finished")
            if len(ended) < len(own):
                line.append(f"{len(own) - len(ended)} of {len(own)} diverged")
                continue
            early = [next(row for row in run["measured"] if row[0] >= fewest) for run in own]
            cells["C"][size, rate], cells["L"][size, rate] = (mean(run[name] for run in own) for name in "CL")
            cells["C at"][size, rate], cells["L at"][size, rate] = (mean(row[i] for row in early) for i in (1, 2))
            error = mean(run["error"] for run in own)
            line.append(f"{cells['C'][size, rate]:.0f}, {cells['L'][size, rate]:.1f}, {error:.2f}")
        print(f"| {size} | {' | '.join(line)} |")
    print("\n| share of the variance of the logarithm explained | by batch size | by learning rate |")
    print("| --- | --- | --- |")
    for name, found in cells.items():
        when = f"after {fewest} steps" if " " in name else "after all epochs"
        print(f"| {name[0]}_K {when} | {share_explained(found, 0):.2f} | {share_explained(found, 1):.2f} |")
    return runs


def line(name: str, runs: list[dict[str, Any]], target: float) -> None:
    """Print a row about runs that differ in their seed."""
    times = [next((t for t, error in run["way"] if error <= target), math.nan) for run in runs]
    reached = [t for t in times if not math.isnan(t)]
    until = f"{mean(reached):.1f} ({len(reached)} of {len(runs)})" if reached else f"- (0 of {len(runs)})"
    figures = (
        spread([run["error"] for run in runs]),
        f"{mean(run['seconds'] for run in runs):.1f}",
        until,
        f"{mean(run['C'] for run in runs):.1f}",
        f"{mean(run['L'] for run in runs):.1f}",
        str(runs[0]["sizes"][-1]) if runs[0]["sizes"] else "",
    )
    print(f"| {name} | {' | '.join(figures)} |")


def main() -> None:
    """Run what is missing, print the tables, draw the pictures."""
    folder = Path(sys.argv[1]).resolve()
    runs = grid(folder)
    at_rate = {size: only(runs, size=size, rate=RATE) for size in SIZES}
    for name, stages in DYNAMIC.items():
        typed = [*TOY_DYNAMIC, f"batching.stages={stages}", "batching.scope=run,learning_rate"]
        sweep(folder / name, *typed, *AT_RATE)
    growth = mean(run["L"] for run in at_rate[64]) / EPOCHS
    reference = only(at_rate[64], seed=0)[0]["folder"]
    more = {
        "norm test": [],
        "growth of L_K": [f"batching.L_growth=[0,{growth:.4g}]"],
        "path of s64": [f"batching.reference='{reference}'"],
    }
    for name, typed in CONTROLLED.items():
        sweep(folder / name.replace(" ", "-"), *TOY, *typed, *more[name], *EVERY_STEP, *AT_RATE)
    best = min(at_rate, key=lambda size: mean(run["error"] for run in at_rate[size]))
    target = mean(run["error"] for run in at_rate[best])
    print(f"\n| lr {RATE} | test error (%) | seconds | until {target:.2f} % | C_K | L_K | last size |")
    print("| --- " * 7 + "|")
    for size, own in at_rate.items():
        line(f"s{size}", own, target)
    for name in DYNAMIC:
        own = summaries(folder / name)
        line(name, only(own, scope="run"), target)
        line(f"{name}-MS", only(own, scope="learning_rate"), target)
    for name in CONTROLLED:
        line(name, summaries(folder / name.replace(" ", "-")), target)
    swept = [folder / name for name in ("grid", *DYNAMIC)]
    subprocess.run([TRAINOPT, "compare", *map(str, swept), "--force", "--out", str(folder / "comparison")], check=True)


if __name__ == "__main__":
    main()
