"""`trainopt evaluate RUN|CHECKPOINT …`: a checkpoint on a run's evaluation sets, or several as an ensemble."""

import argparse
from pathlib import Path

from rich.table import Table

from ..system.display import Display
from ..system.errors import UserError


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt evaluate RUN`, `trainopt evaluate --ensemble RUN|CHECKPOINT …`."""
    del debug
    parser = argparse.ArgumentParser("trainopt evaluate", description="Evaluate a checkpoint of a run, or several.")
    parser.add_argument(
        "paths", type=Path, nargs="+", metavar="RUN", help="a run's folder; --ensemble: runs, sweeps, checkpoints"
    )
    parser.add_argument("--checkpoint", default="last", metavar="best|last|FILE", help="default: last")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N; default: the run's")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="evaluate every new last.pt (or best.pt) beside the run, into evaluations.jsonl, until the run ends",
    )
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="evaluate two or more networks, and the mean of their probabilities",
    )
    parser.add_argument(
        "--weights",
        metavar="fit|W,W,…",
        help="--ensemble: also a weighted mean; fit: the best weights on the validation set (data.validation)",
    )
    parser.add_argument("--json", action="store_true", help="--ensemble: print an object instead of tables")
    given = parser.parse_intermixed_args(arguments)
    if given.ensemble:
        return evaluate_together(given)
    if given.weights is not None or given.json:
        raise UserError(f"{'--json' if given.weights is None else '--weights'}: is for --ensemble")
    if len(given.paths) > 1:
        raise UserError(f"evaluate: takes one run, and got {len(given.paths)}; --ensemble takes several")
    (run,) = given.paths
    if given.follow and given.checkpoint not in ("best", "last"):
        raise UserError(f"--checkpoint {given.checkpoint}: is one checkpoint; --follow takes best or last")
    from ..records.run_folder import read_config, wait_until_begun

    if given.follow:
        wait_until_begun(run)
    read_config(run)  # says what is wrong before torch is imported
    if given.follow:
        from ..analysis.follow import follow

        return follow(run, given.checkpoint, given.device)
    evaluate_run(run, given.checkpoint, given.device)
    return 0


def evaluate_together(given: argparse.Namespace) -> int:
    """`trainopt evaluate --ensemble RUN|CHECKPOINT …`."""
    if given.follow:
        raise UserError("--follow: is for one run; leave --ensemble out")
    from ..analysis.ensemble import evaluate_ensemble
    from ..system.files import json_text
    from .ensemble_table import show_ensemble

    display = Display(quiet=given.json)
    found = evaluate_ensemble(given.paths, weights_in(given.weights), given.checkpoint, given.device, display)
    if given.json:
        print(json_text(found), end="")
    else:
        show_ensemble(found, display)
    return 0


def weights_in(text: str | None) -> list[float] | str | None:
    """Returns the numbers in a text like `0.5,0.3,0.2`; a text that is no list of numbers as it is."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        return text


def evaluate_run(folder: Path, which: str, device: str | None = None) -> None:
    """Evaluates a checkpoint of a run and prints the figures.

    Args:
        folder: the run's.
        which: `best`, `last`, or a checkpoint file.
        device: as in the configuration; None: the run's.
    """
    from ..analysis.checkpoints import checkpoint_path, read_state
    from ..analysis.evaluate import evaluate_sets, load_weights, out_of_memory_explained, rebuild_run

    path = checkpoint_path(folder, which) if which in ("best", "last") else Path(which)
    state = read_state(path)
    display = Display()
    with out_of_memory_explained():
        run = rebuild_run(folder, device, display)
        load_weights(run, state, path)
        rows = evaluate_sets(run, run.evaluation_sets)
    step = run.progress.step
    if run.objective.returns_loss:
        (row,) = rows.values()
        point = f" at theta = {row['theta']}" if "theta" in row else ""
        display.say(f"{path.name}, step {step}: value {row['loss']:.6g}{point}")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title=f"{path.name}, step {step}")
    for name in ("set", "images", "loss", "top-1 (%)", "top-5 (%)"):
        table.add_column(name, justify="left" if name == "set" else "right")
    for kind, row in rows.items():
        cells = (f"{row['loss']:.4f}", f"{row['top1']:.2f}", f"{row['top5']:.2f}")
        table.add_row(kind, f"{len(run.evaluation_sets[kind]):,}", *cells)
    display.say(table)
