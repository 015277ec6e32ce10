"""`trainopt landscape RUN|CHECKPOINT …`: loss and error between two checkpoints, or on the plane through three."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.progress import track

from ..analysis.landscape import NO_BARRIER, landscape
from ..analysis.landscape_figures import LETTERS, draw_landscape
from ..system.display import Display, plain_table, wide_console
from ..system.errors import UserError
from ..system.files import json_text, shown, write_text

DEFINITION = (
    "barrier: the largest height of a loss or an error, on the way between two checkpoints, above the straight line"
    " between its values at the two (Entezari et al. 2022);"
    f" less than {NO_BARRIER:g} points of test error count as none (Frankle et al. 2020)"
)
BATCH_NORM = {
    "recompute": "; statistics of batch norm between checkpoints: recomputed from these training images",
    "interpolate": "; statistics of batch norm between checkpoints: interpolated",
    None: "",  # the network has none
}


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt landscape RUN|CHECKPOINT RUN|CHECKPOINT [RUN|CHECKPOINT]`."""
    del debug
    parser = argparse.ArgumentParser(
        "trainopt landscape",
        description="Evaluate a network between two checkpoints, or on the plane through three.",
    )
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="RUN|CHECKPOINT",
        help="a run's folder, or a file in its checkpoints/",
    )
    parser.add_argument("--points", type=int, metavar="N", help="on a line (21), or along each side of a plane (15)")
    parser.add_argument(
        "--beyond",
        type=float,
        default=0.2,
        metavar="FRACTION",
        help="how far a line extends beyond the checkpoints, in units of their distance; default: 0.2",
    )
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="training images; default: 1000")
    parser.add_argument(
        "--batch-norm",
        default="recompute",
        metavar="recompute|interpolate",
        help="its statistics between checkpoints: recomputed from training images (default), or interpolated",
    )
    parser.add_argument("--checkpoint", default="last", metavar="best|last", help="of a run; default: last")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N; default: the first run's")
    parser.add_argument("--json", action="store_true", help="print the content of landscape.json instead of tables")
    out = Path("outputs/landscape")
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"for the files; default: {out}")
    run(parser.parse_args(arguments))
    return 0


def run(options: argparse.Namespace) -> None:
    """Evaluates, prints and writes; UserError where that is not possible."""
    display = Display(wide_console(), quiet=options.json)

    def follow(steps: Iterable[Any], what: str) -> Iterable[Any]:
        shows = display.console.is_terminal and not options.json
        return track(list(steps), what, console=display.console, transient=True, disable=not shows)

    result = landscape(
        options.paths,
        options.points,
        options.beyond,
        options.images,
        options.batch_norm,
        options.checkpoint,
        options.device,
        display,
        follow,
    )
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        write_text(options.out / "landscape.json", json_text(result))
        figures = draw_landscape(result, options.out)
    except OSError as error:
        raise UserError(f"{shown(options.out)}: cannot be written ({error.strerror}); give --out DIR") from error
    if options.json:
        print(json_text(result), end="")
        return
    show_landscape(result, display)
    files = ", ".join(f"{figure.name}.png, {figure.name}.svg" for figure in figures)
    display.say(f"files: {shown(options.out)}/ (landscape.json, {files})")


def show_landscape(result: dict[str, Any], display: Display) -> None:
    """Prints the checkpoints, the barriers between them, and what these mean."""
    ends: dict[int, dict[str, float]] = {}
    for line in result["lines"]:
        at = {point["t"]: point for point in line["points"]}
        ends |= {line["from"]: at[0.0], line["to"]: at[1.0]}
    table = plain_table("", "", "train loss", "test loss", "train error (%)", "test error (%)", left=2)
    for k, checkpoint in enumerate(result["checkpoints"]):
        table.add_row(LETTERS[k], f"{checkpoint['name']}, step {checkpoint['step']}", *loss_and_error_cells(ends[k]))
    for line in result["lines"]:
        heights = {key: barrier["height"] for key, barrier in line["barriers"].items()}
        table.add_row("", f"barrier {line_name(line)}", *loss_and_error_cells(heights))
    display.say(table)
    for line in result["lines"]:
        display.say(conclusion(line))
    display.say(DEFINITION)
    images = f"{result['images']['train']:,} training images and {result['images']['test']:,} test images"
    display.say(f"on {images}{BATCH_NORM[result['batch_norm']]}")


def loss_and_error_cells(values: dict[str, float]) -> list[str]:
    """Returns train and test loss, then train and test error, as text."""
    losses = [f"{values[key]:.4f}" for key in ("train_loss", "test_loss")]
    return losses + [f"{values[key]:.2f}" for key in ("train_error", "test_error")]


def line_name(line: dict[str, Any]) -> str:
    """Returns a line as the letters of its ends."""
    return f"{LETTERS[line['from']]}–{LETTERS[line['to']]}"


def conclusion(line: dict[str, Any]) -> str:
    """Returns a sentence on whether there is a barrier between two checkpoints."""
    loss, error = line["barriers"]["test_loss"], line["barriers"]["test_error"]
    percent = f"{100 * line['relative_distance']:.3g} % of the length of {LETTERS[line['from']]}"
    distance = f"distance {line['distance']:.4g}, {percent}"
    if line["one_basin"]:
        rise = f"{error['height']:.2f} points in the test error, {loss['height']:.4f} in the test loss"
        return f"{line_name(line)}: no barrier lies between them: they lie in one basin ({rise}; {distance})"
    return (
        f"{line_name(line)}: a barrier of {error['height']:.2f} points of test error lies between them, at t ="
        f" {error['t']:.2f}, and of {loss['height']:.4f} in the test loss, at t = {loss['t']:.2f} ({distance})"
    )
