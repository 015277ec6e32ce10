"""Minibatch persistency and adaptive Nesterov on CIFAR-10 (Mandatelli 2018, figures 2.6 and 3.5).

    python mandatelli_study.py FOLDER [cpu|paper]

Needs TRAINOPT_DATA with CIFAR-10, of which 5,000 training images are held out. AlexNet, batches of 512. `paper`:
100 epochs, three seeds, float32, for a GPU. `cpu` (an hour on two cores): bfloat16 and one seed, fewer epochs for
larger K, and the adaptive rate is compared over ten epochs with a schedule that falls at the same shares of the
run. Runs that are there already are not repeated. The tables are printed, and FOLDER/study.png has accuracies on
the held-out images over epochs and over gradients.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

TRAINOPT = str(Path(sys.executable).with_name("trainopt"))
COMMON = ["model=alexnet_cifar", "data=cifar10", "data.validation=0.1", "batching.size=512", "logger=none"]
PERSISTENCY = {
    f"K = {k}": ["optimizer.lr=0.01", "optimizer.momentum=0.5", f"batching.persistency={k}"] for k in (1, 2, 5)
}
SCHEDULED = ["optimizer.lr=0.1", "optimizer.momentum=0.5", "optimizer.nesterov=true", "schedule=multistep"]
# scale: (seeds, what all share, lengths for each K, for adaptive Nesterov and its peer, milestones of the peer)
SCALES = {
    "cpu": (
        (0,),
        ["precision=bf16", "channels_last=true", "evaluate_every=88steps", "checkpoint_every=88steps"],
        ("1760steps", "1760steps", "1056steps"),
        "10epochs",
        "[4epochs,7epochs]",
    ),
    "paper": ((0, 1, 2), [], ("100epochs",) * 3, "100epochs", "[40epochs,70epochs]"),
}
TOGETHER = {"cpu": 2, "paper": 1}  # runs at a time


def jobs(scale: str) -> dict[str, dict[str, list[str]]]:
    """Return what is typed for each method of both comparisons."""
    _, shared, of_persistency, of_adaptive, milestones = SCALES[scale]
    rates = {
        "scheduled": [*SCHEDULED, f"schedule.milestones={milestones}"],
        "adaptive Nesterov": ["optimizer=adaptive_nesterov"],
    }
    return {
        "persistency": {
            name: [*COMMON, *shared, *typed, f"duration={length}"]
            for (name, typed), length in zip(PERSISTENCY.items(), of_persistency, strict=True)
        },
        "rate": {name: [*COMMON, *shared, *typed, f"duration={of_adaptive}"] for name, typed in rates.items()},
    }


def place(folder: Path, name: str, seed: int) -> Path:
    """Return the folder of a run."""
    return folder / f"{name.replace(' ', '')}-seed{seed}"


def run(target: Path, typed: list[str], seed: int, threads: int | None) -> None:
    """Run it, or go on with it, unless it is done."""
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    command = [TRAINOPT, *typed, f"seed={seed}", f"hydra.run.dir={target}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{target.name}: {done.stderr}")


def rows(folder: Path, kind: str) -> list[dict]:
    """Return the rows of a kind of a run."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def table(folders: dict[str, list[Path]]) -> None:
    """Print the columns of the study's tables 2.1 and 2.2, means over the seeds, as Markdown."""
    print("\n| | updates | epochs | best top-1 (%) | at epoch | at update | lowest loss | at epoch | at update |")
    print("| --- " * 9 + "|")
    for name, runs in folders.items():
        found = [json.loads((run / "summary.json").read_text()) for run in runs]
        cells = [f"{mean(s['steps'] for s in found):,.0f}", f"{mean(s['epochs'] for s in found):.0f}"]
        for key, form in (("best_top1", ".2f"), ("lowest_loss", ".3f")):
            best = [s[key] for s in found]
            cells += [f"{mean(b['value'] for b in best):{form}}", f"{mean(b['epoch'] for b in best):.1f}"]
            cells.append(f"{mean(b['step'] for b in best):,.0f}")
        print(f"| {name} | {' | '.join(cells)} |")


def draw(folder: Path, comparisons: dict[str, dict[str, list[Path]]]) -> None:
    """Draw accuracy over epochs and over gradients, and the learning rates, mean and range of the seeds."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    grid = figure.subplots(2, 2)
    panels = [
        (grid[0][0], "persistency", "validation", "epoch", "top1"),
        (grid[0][1], "persistency", "validation", "gradients", "top1"),
        (grid[1][0], "rate", "validation", "epoch", "top1"),
        (grid[1][1], "rate", "train", "epoch", "lr"),
    ]
    for axis, comparison, kind, x, y in panels:
        colours = ("#0072B2", "#D55E00", "#009E73")
        for (name, runs), colour in zip(comparisons[comparison].items(), colours, strict=False):
            curves = [rows(run, kind) for run in runs]
            at = np.mean([[row[x] for row in curve] for curve in curves], axis=0)
            values = np.array([[row[y] for row in curve] for curve in curves])
            marker = "." if kind == "validation" else None
            axis.plot(at, values.mean(0), color=colour, label=name, marker=marker, linewidth=1)
            axis.fill_between(at, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
        axis.set(xlabel={"epoch": "epochs", "gradients": "gradients (updates)"}[x])
        axis.set(ylabel={"top1": "top-1 on held-out images (%)", "lr": "learning rate"}[y])
        if y == "lr":
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.savefig(folder / "study.png", dpi=110)


def main() -> None:
    """Run what is missing, print the tables, draw the picture."""
    folder, scale = Path(sys.argv[1]).resolve(), (sys.argv[2:] or ["cpu"])[0]
    seeds, together = SCALES[scale][0], TOGETHER[scale]
    comparisons = {
        comparison: {name: [place(folder, name, seed) for seed in seeds] for name in typed}
        for comparison, typed in jobs(scale).items()
    }
    threads = None if together == 1 else max(1, (os.cpu_count() or 1) // together)
    with ThreadPoolExecutor(together) as pool:
        waiting = [
            pool.submit(run, place(folder, name, seed), typed, seed, threads)
            for methods in jobs(scale).values()
            for name, typed in methods.items()
            for seed in seeds
        ]
        for job in waiting:
            job.result()
    for methods in comparisons.values():
        table(methods)
    draw(folder, comparisons)


if __name__ == "__main__":
    main()
