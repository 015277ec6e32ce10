"""EHNewton against SGD and Adam on real data, each method at its own best learning rate.

    python ehnewton_study.py FOLDER [PROBLEM ...]

Needs TRAINOPT_DATA with MNIST and CIFAR-10; an hour on two cores. For each problem and method: a run (seed 0)
for each learning rate of a grid, with a tenth of the training images held out; the grid grows by a point as
long as the best (top-1 on the held-out images at the end) lies at its end; then three runs (seeds 1 to 3) on
all training images at the best. On CIFAR-10 all spend about as many gradients, by counting operations; on MNIST
EHNewton with one iteration makes as many steps as SGD, with twenty a quarter. Runs that are there already are
not repeated. The tables are printed, and FOLDER/study.png has the test loss over steps, gradients and seconds.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean, stdev

SEEDS = (1, 2, 3)
TRAINOPT = str(Path(sys.executable).with_name("trainopt"))
METHODS = {
    "SGD, momentum 0.9": ["optimizer=sgd"],
    "Adam": ["optimizer=adam"],
    "EHNewton, 1 iteration": ["optimizer=ehnewton", "optimizer.cg_max_iter=1"],
    "EHNewton, 20 iterations": ["optimizer=ehnewton", "optimizer.cg_max_iter=20"],
    "EHNewton, 1, Gauss-Newton": [
        "optimizer=ehnewton",
        "optimizer.cg_max_iter=1",
        "optimizer.curvature=gauss_newton",
    ],
    "EHNewton, 20, Gauss-Newton": [
        "optimizer=ehnewton",
        "optimizer.cg_max_iter=20",
        "optimizer.curvature=gauss_newton",
    ],
}
SHORT = dict(zip(METHODS, ("sgd", "adam", "eh1", "eh20", "gn1", "gn20"), strict=True))
GRID = {
    "sgd": [0.003, 0.01, 0.03, 0.1, 0.3],
    "adam": [0.0003, 0.001, 0.003, 0.01, 0.03],
    "eh1": [0.03, 0.1, 0.3, 1, 3],
    "eh20": [0.001, 0.003, 0.01, 0.03, 0.1],
    "gn1": [0.03, 0.1, 0.3, 1, 3],
    "gn20": [0.01, 0.03, 0.1, 0.3, 1],
}
MOST = 9  # learning rates of a grid that grows
LADDER = [float(f"{digit}e{power}") for power in range(-6, 2) for digit in (1, 3)]
MNIST_STEPS = dict(zip(GRID, ((2000, 2000),) * 3 + ((500, 500), (2000, 2000), (500, 500)), strict=True))
# problem: (title, what is typed, (steps of a trial, of a final run) by method, evaluations of a final run)
PROBLEMS = {
    "m12": ("MNIST, MLP 784-12-12-10", ["data=mnist", "model=mlp"], MNIST_STEPS, 20),
    "m500": (
        "MNIST, MLP 784-500-500-10",
        ["data=mnist", "model=mlp", "model.hidden=[500,500]"],
        MNIST_STEPS,
        20,
    ),
    "c20": (
        "CIFAR-10, ResNet-20, batch 64",
        ["data=cifar10", "model=resnet20", "batching.size=64"],
        {"sgd": (300, 800), "adam": (300, 800), "eh1": (150, 400), "eh20": (60, 160), "gn1": (180, 480)},
        4,
    ),
}


def run(folder: Path, name: str, arguments: list[str]) -> dict:
    """Run it unless it is there; return its summary."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # two at a time, with a core each
    command = [TRAINOPT, *arguments, "logger=none", f"hydra.run.dir={target}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    return json.loads((target / "summary.json").read_text())


def rows(folder: Path, kind: str) -> list[dict]:
    """Return the rows of a kind of a run."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def method(folder: Path, job: tuple[str, str]) -> None:
    """Tune a method on a problem, then train it with three seeds."""
    problem, title = job
    short = SHORT[title]
    _, typed, steps, evaluations = PROBLEMS[problem]
    if short not in steps:
        return
    trial_steps, final_steps = steps[short]
    scores: dict[float, float] = {}

    def trial(lr: float) -> None:
        arguments = [f"duration={trial_steps}steps", f"evaluate_every={trial_steps}steps", "data.validation=0.1"]
        name = f"{problem}-{short}-tune-{lr:g}"
        summary = run(folder, name, [*typed, *METHODS[title], *arguments, "seed=0", f"optimizer.lr={lr:g}"])
        held_out = rows(folder / name, "validation")[-1]["top1"]
        scores[lr] = held_out if summary["status"] == "finished" else -1.0

    for lr in GRID[short]:
        trial(lr)
    while len(scores) < MOST:
        best = max(scores, key=lambda lr: scores[lr])
        place = LADDER.index(best)
        if best == min(scores):
            trial(LADDER[place - 1])
        elif best == max(scores):
            trial(LADDER[place + 1])
        else:
            break
    best = max(scores, key=lambda lr: scores[lr])
    for seed in SEEDS:
        arguments = [f"duration={final_steps}steps", f"evaluate_every={final_steps // evaluations}steps"]
        run(
            folder,
            f"{problem}-{short}-final-s{seed}",
            [*typed, *METHODS[title], *arguments, f"seed={seed}", f"optimizer.lr={best:g}"],
        )


def table(folder: Path, problem: str) -> None:
    """Print the figures of a problem as Markdown."""
    print(f"\n| {PROBLEMS[problem][0]} | lr | steps | gradients | seconds | test top-1 (%) | test loss |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for title, short in SHORT.items():
        found = finals(folder, problem, short)
        if not found:
            continue
        last = [rows(f, "test")[-1] for f in found]
        lr = rows(found[0], "train")[-1]["lr"]
        accuracy, loss = [row["top1"] for row in last], [row["loss"] for row in last]
        print(
            f"| {title} | {lr:g} | {last[0]['step']:,} | {mean(r['gradient_equivalents'] for r in last):,.0f}"
            f" | {mean(r['train_seconds'] for r in last):.0f} | {mean(accuracy):.2f} ± {stdev(accuracy):.2f}"
            f" | {mean(loss):.3f} ± {stdev(loss):.3f} |"
        )


def finals(folder: Path, problem: str, short: str) -> list[Path]:
    """Return the folders of the final runs that are there."""
    return sorted(path.parent for path in folder.glob(f"{problem}-{short}-final-s*/summary.json"))


def draw(folder: Path, problems: list[str]) -> None:
    """Draw the test loss over steps, gradients and seconds, mean and range of the seeds."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    colours = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
    axes_names = {"step": "steps", "gradient_equivalents": "gradients", "train_seconds": "seconds of training"}
    figure = Figure(figsize=(13, 3.4 * len(problems) + 0.6), layout="constrained")
    grid = figure.subplots(len(problems), 3, squeeze=False)
    for line, problem in zip(grid, problems, strict=True):
        for axis, (key, label) in zip(line, axes_names.items(), strict=True):
            for (title, short), colour in zip(SHORT.items(), colours, strict=True):
                curves = [rows(f, "test") for f in finals(folder, problem, short)]
                if not curves:
                    continue
                x = np.mean([[row[key] for row in curve] for curve in curves], axis=0)[1:]
                y = np.array([[row["loss"] for row in curve] for curve in curves])[:, 1:]
                axis.plot(x, y.mean(0), color=colour, label=title, marker=".")
                axis.fill_between(x, y.min(0), y.max(0), color=colour, alpha=0.15, linewidth=0)
            axis.set(xlabel=label, xscale="log", yscale="log")
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.grid(alpha=0.3, which="both")
            axis.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(f"{PROBLEMS[problem][0]}\ntest loss")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(folder / "study.png", dpi=110)


def main() -> None:
    """Run what is missing, print the tables, draw the picture."""
    folder, chosen = Path(sys.argv[1]).resolve(), sys.argv[2:] or list(PROBLEMS)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(partial(method, folder), [(p, m) for p in chosen for m in METHODS]))
    for problem in chosen:
        table(folder, problem)
    draw(folder, chosen)


if __name__ == "__main__":
    main()
