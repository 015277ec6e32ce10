"""The last layer of pretrained ResNets trained anew by six methods (Zorca 2020, figures 4.1 to 4.8, smaller).

    python last_layer_study.py FOLDER [TASK-NETWORK ...]

Needs TRAINOPT_DATA with CIFAR-10, MNIST and weights/resnet*.th, which were trained on CIFAR-10; half an hour on
two cores. Two tasks: CIFAR-10 itself, tested on its test images alone (a split of the training images would be no
test: the backbones have seen them), and MNIST as 32x32 colour images, which they have not. For each task and
network every method's learning rate is found by hydra/sweeper=lr_heuristic; where one lies at the end of the grid,
the grid is widened for all. Then five seeds at that rate, two epochs, with the study's decay. Runs that are there
already are not repeated. The tables are printed, and FOLDER/study.png has top-1 over steps and over seconds.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

TRAINOPT = str(Path(sys.executable).with_name("trainopt"))
DATA = Path(os.environ.get("TRAINOPT_DATA", "."))
TASKS = {"cifar10": ["data=cifar10"], "mnist": ["data=mnist", "data.channels=3", "data.size=32"]}
NETWORKS = {p.name.partition("-")[0]: p for p in sorted(DATA.glob("weights/resnet*.th"))}
NORMALISED = ["data.mean=[0.485,0.456,0.406]", "data.std=[0.229,0.224,0.225]"]  # as the weights were trained
COMMON = ["regularizer=[l2]", "batching.size=64", "logger=none", "checkpoint_every=1000epochs"]
PARALLEL = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
METHODS = {
    "EHNewton, 1 iteration": ["optimizer=ehnewton", "optimizer.cg_max_iter=1"],
    "EHNewton, 20 iterations": ["optimizer=ehnewton", "optimizer.cg_max_iter=20"],
    "Adam": ["optimizer=adam", "optimizer.eps=1e-7"],
    "RMSProp": ["optimizer=rmsprop", "optimizer.eps=1e-7"],
    "AdaGrad": ["optimizer=adagrad"],
    "SGD, momentum 0.9": ["optimizer=sgd", "optimizer.momentum=0.9"],
}
SEEDS = "0,1,2,3,4"
FINAL = ["duration=2epochs", "schedule=exponential", "schedule.gamma=0.94", "schedule.every=0.1epochs"]
FIRST, LAST, WIDEST = 1, 7, -3  # exponents of the study's grid, and how far it may be widened


def trainopt(*typed: str) -> None:
    """Run a command; stop where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([TRAINOPT, *typed], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(typed)}: {done.stdout[-500:]}{done.stderr[-2000:]}")


def typed_for(task: str, network: str) -> list[str]:
    """Return what all runs of a task and a network share."""
    return [f"model={network}", f"model.weights={NETWORKS[network]}", *TASKS[task], *NORMALISED]


def found_rates(folder: Path, task: str, network: str) -> dict[str, dict]:
    """Search the rate of every method, on a grid that is the same for all; return lr_heuristic.json by method."""
    first = FIRST
    while True:
        found = {}
        for name, method in METHODS.items():
            sweep = folder / f"{task}-{network}-rate-{short(name)}"
            exponents = f"hydra.sweeper.exponents=[{','.join(map(str, range(first, LAST + 1)))}]"
            search = ["-m", "hydra/sweeper=lr_heuristic", exponents, f"hydra.sweep.dir={sweep}", *PARALLEL]
            trainopt(*search, *typed_for(task, network), "model.trainable=last_layer", *COMMON, *method)
            found[name] = json.loads((sweep / "lr_heuristic.json").read_text())
        if first == WIDEST or not any(result["edge"] for result in found.values()):
            return found
        first -= 1


def short(name: str) -> str:
    """Return a name without what is awkward in a folder's."""
    return name.replace(", ", "-").replace(" ", "-").lower()


def finals(folder: Path, task: str, network: str, name: str) -> list[Path]:
    """Return the folders of the final runs that are there."""
    return sorted(path.parent for path in folder.glob(f"{task}-{network}-final-{short(name)}/*/summary.json"))


def train(folder: Path, task: str, network: str) -> None:
    """Find the rates, then train with five seeds; and evaluate the network with its own last layer."""
    shared = typed_for(task, network)
    for name, result in found_rates(folder, task, network).items():
        method = [*METHODS[name], f"optimizer.lr={result['chosen']}"]
        sweep = f"hydra.sweep.dir={folder}/{task}-{network}-final-{short(name)}"
        every = ["evaluate_every=30steps", f"seed={SEEDS}"]
        trainopt("-m", sweep, *PARALLEL, *shared, "model.trainable=last_layer", *COMMON, *method, *FINAL, *every)
    if task == "cifar10":
        own = [f"hydra.run.dir={folder}/{network}-pretrained", "duration=1steps", "data.limit=1000", "logger=none"]
        trainopt(*shared, *own)


def rows(folder: Path) -> list[dict]:
    """Return the evaluations of a run."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "test"]


def table(folder: Path, task: str, network: str) -> None:
    """Print the figures of a task and a network as Markdown."""
    own = folder / f"{network}-pretrained"
    beside = f", pretrained {rows(own)[0]['top1']:.2f} %" if task == "cifar10" else ""
    print(f"\n| {task}, {network}{beside} | lr | top-1 after 60 steps | after 300 | at the end (%) | seconds |")
    print("| --- " * 6 + "|")
    for name in METHODS:
        curves = [rows(run) for run in finals(folder, task, network, name)]
        lr = json.loads((folder / f"{task}-{network}-rate-{short(name)}/lr_heuristic.json").read_text())["chosen"]
        cells = []
        for step in (60, 300, curves[0][-1]["step"]):
            values = [row["top1"] for curve in curves for row in curve if row["step"] == step]
            cells.append(f"{mean(values):.2f} ± {stdev(values):.2f}")
        seconds = mean(curve[-1]["train_seconds"] for curve in curves)
        print(f"| {name} | {lr:g} | {' | '.join(cells)} | {seconds:.1f} |")


def to_target(folder: Path, chosen: list[tuple[str, str]], target: float = 85.0) -> None:
    """Print steps and seconds until a test top-1, mean over the seeds, where all of them reach it."""
    print(f"\n| steps (seconds) to {target:g} % | " + " | ".join("-".join(pair) for pair in chosen) + " |")
    print("| --- " * (len(chosen) + 1) + "|")
    for name in METHODS:
        cells = []
        for task, network in chosen:
            curves = [rows(run) for run in finals(folder, task, network, name)]
            hits = [next((row for row in curve if row["top1"] >= target), None) for curve in curves]
            if None in hits:
                cells.append("-")
                continue
            steps, seconds = (mean(row[key] for row in hits) for key in ("step", "train_seconds"))
            cells.append(f"{steps:.0f} ({seconds:.2f})")
        print(f"| {name} | {' | '.join(cells)} |")


def draw(folder: Path, chosen: list[tuple[str, str]]) -> None:
    """Draw top-1 over steps and over seconds, mean and range of the seeds."""
    import numpy as np
    from matplotlib.figure import Figure

    colours = ("#D55E00", "#CC79A7", "#009E73", "#56B4E9", "#E69F00", "#0072B2")
    axes_names = {"step": "steps", "train_seconds": "seconds of training"}
    figure = Figure(figsize=(12, 2.8 * len(chosen) + 0.6), layout="constrained")
    grid = figure.subplots(len(chosen), 2, squeeze=False)
    for line, (task, network) in zip(grid, chosen, strict=True):
        lowest = 100.0
        for axis, (key, label) in zip(line, axes_names.items(), strict=True):
            for name, colour in zip(METHODS, colours, strict=True):
                curves = [rows(run)[1:] for run in finals(folder, task, network, name)]
                x = np.mean([[row[key] for row in curve] for curve in curves], axis=0)
                y = np.array([[row["top1"] for row in curve] for curve in curves])
                axis.plot(x, y.mean(0), color=colour, label=name, linewidth=1.2)
                axis.fill_between(x, y.min(0), y.max(0), color=colour, alpha=0.12, linewidth=0)
                lowest = min(lowest, y.mean(0)[len(x) // 10 :].min())
            if task == "cifar10":
                own = rows(folder / f"{network}-pretrained")[0]["top1"]
                axis.axhline(own, color="0.4", linestyle=":", label="pretrained")
            axis.set(xlabel=label, xscale="log", ylim=(lowest - 2, None))
            axis.grid(alpha=0.3, which="both")
            axis.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(f"{task}, {network}\ntest top-1 (%)")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(folder / "study.png", dpi=100)


def main() -> None:
    """Run what is missing, print the tables, draw the picture."""
    folder = Path(sys.argv[1]).resolve()
    every = [(task, network) for task in TASKS for network in NETWORKS]
    chosen = [pair for pair in every if not sys.argv[2:] or "-".join(pair) in sys.argv[2:]]
    if not chosen:
        raise SystemExit("nothing to do: set TRAINOPT_DATA, and name tasks as cifar10-resnet20 or mnist-resnet56")
    for task, network in chosen:
        train(folder, task, network)
    for task, network in chosen:
        table(folder, task, network)
    to_target(folder, chosen)
    draw(folder, chosen)


if __name__ == "__main__":
    main()
