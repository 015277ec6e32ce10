"""`trainopt evaluate RUN|CHECKPOINT …`: one checkpoint on a run's evaluation sets, or several as an ensemble."""

import sys
from argparse import Namespace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from ..records.run_folder import read_config, wait_until_begun
from ..system.display import Display, metric_form, plain_table
from ..system.errors import FAILED, UserError
from ..system.files import json_text
from ..system.flags import FlagParser, existing_path

LARGEST_ARRAY = 20  # entries of a row of what is printed as a table
LARGEST_MATRIX = 9  # networks; of more, means over the pairs are printed in place of a matrix


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser("trainopt evaluate", description="Evaluate one checkpoint of a run, or several.")
    parser.add_argument(
        "paths",
        type=existing_path,
        nargs="+",
        metavar="RUN",
        help="a run's folder; with --ensemble: runs, sweeps or checkpoints",
    )
    parser.add_argument(
        "--checkpoint", default="last", metavar="best|last|FILE", help="checkpoint that is evaluated; default: last"
    )
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N; default: the run's")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="while the run trains: evaluate each new last.pt (or best.pt) and write evaluations.jsonl",
    )
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="evaluate several networks, and the mean of their probabilities",
    )
    parser.add_argument(
        "--weights",
        metavar="fit|W,W,…",
        help="with --ensemble: also a weighted mean; fit: weights with the lowest loss on the validation set",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of tables")
    return parser


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt evaluate RUN`, `trainopt evaluate --ensemble RUN|CHECKPOINT …`."""
    del debug
    options = parser().parse_intermixed_args(arguments)
    if options.ensemble:
        return evaluate_together(options)
    if options.weights is not None:
        raise UserError("--weights: is for --ensemble")
    if options.follow and options.json:
        raise UserError("--json: is not for --follow, which writes evaluations.jsonl")
    if len(options.paths) > 1:
        raise UserError(f"evaluate: takes one run, got {len(options.paths)}; --ensemble takes several")
    (run,) = options.paths
    if options.follow and options.checkpoint not in ("best", "last"):
        raise UserError(f"--checkpoint {options.checkpoint}: is one checkpoint; --follow takes best or last")
    if options.follow:
        wait_until_begun(run)
    read_config(run)  # says what is wrong before torch is imported
    if options.follow:
        from ..analysis.follow import follow

        return follow(run, options.checkpoint, options.device)
    return evaluate_run(run, options.checkpoint, options.device, options.json)


def evaluate_run(folder: Path, which: str, device: str | None = None, as_json: bool = False) -> int:
    """Evaluates a checkpoint of a run and prints its losses and metrics; returns the exit code.

    It is 1 if the run's records have other values, or the run's files do not agree.

    Args:
        folder: the run's.
        which: `best`, `last`, or a checkpoint file.
        device: as in the configuration; None: the run's.
        as_json: prints an object, in place of tables.
    """
    from ..analysis.checkpoints import checkpoint_path, read_state
    from ..analysis.evaluate import (
        evaluate_sets,
        evaluation_errors_explained,
        load_weights,
        other_records,
        rebuild_run,
    )
    from ..records.checkpoint_files import holds_average
    from ..records.frames import load_folders

    path = checkpoint_path(folder, which) if which in ("best", "last") else Path(which)
    state = read_state(path)
    display = Display(quiet=as_json)
    with evaluation_errors_explained():
        run = rebuild_run(folder, device, display)
        load_weights(run, state, path)
        rows = evaluate_sets(run, run.evaluation_sets)
    contradictions = [
        *other_records(folder, run.progress.step, rows),
        *load_folders([folder]).inconsistencies.values(),
    ]
    for line in contradictions:
        print(f"warning: {line}", file=sys.stderr)
    code = FAILED if contradictions else 0
    step = f"step {run.progress.step}{', averaged weights' if holds_average(state) else ''}"
    images = {kind: len(source) for kind, source in run.evaluation_sets.items()}
    if as_json:
        sets = {kind: {"samples": images[kind], **as_lists(row)} for kind, row in rows.items()}
        print(json_text({"checkpoint": path.name, "step": run.progress.step, "sets": sets}), end="")
        return code
    if run.objective.returns_loss:
        (row,) = rows.values()
        point = f" at theta = {row['theta']}" if "theta" in row else ""
        display.say(f"{path.name}, {step}: value {row['loss']:.6g}{point}")
        return code
    show_evaluation(f"{path.name}, {step}", images, rows, display)
    return code


def as_lists(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row with lists in place of arrays."""
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in row.items()}


def show_evaluation(title: str, images: dict[str, int], rows: dict[str, dict[str, Any]], display: Display) -> None:
    """Prints a table of the numbers of each set, and a table for each vector and matrix.

    Args:
        title: of the table.
        images: number of samples of each set.
        rows: of each set, the loss and the metrics.
        display: where to print.
    """
    numbers = [name for name, value in next(iter(rows.values())).items() if isinstance(value, int | float)]
    forms = {name: (name, ".4f", "") if name == "loss" else metric_form(name) for name in numbers}
    headers = [f"{label}{f' ({unit.strip()})' if unit else ''}" for label, _, unit in forms.values()]
    table = plain_table("set", "images", *headers)
    table.title = title
    for kind, row in rows.items():
        table.add_row(kind, f"{images[kind]:,}", *(f"{row[name]:{form}}" for name, (_, form, _) in forms.items()))
    display.say(table)
    for kind, row in rows.items():
        for name in (name for name in row if name not in numbers):
            show_array(f"{name} ({kind})", row[name], display)


def show_array(title: str, array: Any, display: Display) -> None:
    """Prints a vector or a matrix, if it is small."""
    if array.ndim > 2 or max(array.shape) > LARGEST_ARRAY:
        display.say(f"{title}: {'x'.join(map(str, array.shape))} numbers; --json prints them")
        return
    matrix = array if array.ndim == 2 else array[None]
    form = ".0f" if array.dtype.kind in "iu" else ".4g"
    table = plain_table("", *map(str, range(matrix.shape[1])))
    table.title = title
    for index, row in enumerate(matrix):
        table.add_row(str(index) if array.ndim == 2 else "", *(f"{value:{form}}" for value in row))
    display.say(table)


def evaluate_together(options: Namespace) -> int:
    """Evaluates an ensemble and prints the result; returns the exit code."""
    if options.follow:
        raise UserError("--follow: is for one run; leave --ensemble out")
    from ..analysis.ensemble import evaluate_ensemble

    display = Display(quiet=options.json)
    weights = parse_weights(options.weights)
    result = evaluate_ensemble(options.paths, weights, options.checkpoint, options.device, display)
    if options.json:
        print(json_text(result), end="")
    else:
        show_ensemble(result, display)
    return 0


def parse_weights(text: str | None) -> list[float] | str | None:
    """Returns the numbers in a text like `0.5,0.3,0.2`; a text that is no list of numbers as it is."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        return text


def show_ensemble(result: dict[str, Any], display: Display) -> None:
    """Prints what `evaluate_ensemble` returned."""
    weighted, members, pairs = result["weighted"], result["members"], result["pairs"]
    weights = (weighted or {}).get("weights")
    table = plain_table("", "", *(["weight"] if weights else []), "loss", "top-1 (%)", "top-5 (%)", left=2)

    def add(number: str, name: str, weight: str, metrics: dict[str, Any]) -> None:
        table.add_row(number, name, *([weight] if weights else []), *metric_cells(metrics))

    for k, member in enumerate(members):
        weight = f"{weights[k]:.3f}" if weights else ""
        add(str(k + 1), f"{member['name']}, step {member['step']}", weight, member)
    add("", "mean of these", "", result["mean_of_members"])
    add("", "ensemble, equal weights", "", result["ensemble"])
    if weighted:
        add("", f"ensemble, {'fitted' if weighted['fitted_on'] else 'given'} weights", "", weighted)
    display.say(table)
    display.say(f"on {result['images']:,} test images")
    if len(members) <= LARGEST_MATRIX:
        display.say(pair_matrix(len(members), pairs))
        display.say("below the diagonal: images that two classify differently (%); above: correlation of errors")
        return
    disagreements = [pair["disagreement"] for pair in pairs]
    correlations = [pair["correlation"] for pair in pairs if pair["correlation"] is not None]
    display.say(f"each two classify {mean_and_range(disagreements, '.2f')} % of the images differently")
    if correlations:
        display.say(f"correlation of errors of each two: {mean_and_range(correlations, '.3f')}")


def metric_cells(metrics: dict[str, Any]) -> tuple[str, str, str]:
    """Returns loss, top-1 and top-5 accuracy as text."""
    return f"{metrics['loss']:.4f}", f"{metrics['top1']:.2f}", f"{metrics['top5']:.2f}"


def pair_matrix(count: int, pairs: list[dict[str, Any]]) -> Table:
    """Returns disagreement and correlation of each two networks, below and above the diagonal."""
    cells = [["·" if i == j else "" for j in range(count)] for i in range(count)]
    for pair in pairs:
        i, j = pair["members"]
        cells[j][i] = f"{pair['disagreement']:.2f}"
        cells[i][j] = "—" if pair["correlation"] is None else f"{pair['correlation']:.3f}"
    table = plain_table("", *(str(k + 1) for k in range(count)))
    table.columns[0].style = "bold"
    for k, row in enumerate(cells):
        table.add_row(str(k + 1), *row)
    return table


def mean_and_range(values: list[float], form: str) -> str:
    """Returns the mean of values and their range.

    >>> mean_and_range([1.0, 2.0, 6.0], ".1f")
    '3.0 (1.0 to 6.0)'
    """
    return f"{fmean(values):{form}} ({min(values):{form}} to {max(values):{form}})"
