"""What `trainopt landscape` prints and writes."""

import argparse
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.progress import track
from rich.table import Table

from ..analysis.landscape import NO_BARRIER, landscape
from ..analysis.landscape_figures import LETTERS, draw_landscape
from ..system.display import PLAIN_WIDTH, Display
from ..system.errors import UserError
from ..system.files import json_text, shown, write_text

RULE = (
    "barrier: the most, on the way from one to the other, that a figure lies above the straight line between its"
    " values at the two ends (Entezari et al. 2022);"
    f" less than {NO_BARRIER:g} points of test error count as none (Frankle et al. 2020)"
)


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
    parser.add_argument("--points", type=int, metavar="N", help="on the way (21), or along each side of a plane (15)")
    parser.add_argument(
        "--beyond", type=float, default=0.2, metavar="SHARE", help="how far to go on beyond; default: 0.2"
    )
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="training images; default: 1000")
    parser.add_argument(
        "--batch-norm",
        default="recompute",
        metavar="recompute|interpolate",
        help="its statistics between checkpoints: anew from training images (default), or interpolated",
    )
    parser.add_argument("--checkpoint", default="last", metavar="best|last", help="of a run; default: last")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N; default: the first run's")
    parser.add_argument("--json", action="store_true", help="print what landscape.json holds, instead of tables")
    out = Path("outputs/landscape")
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"for the files; default: {out}")
    show_and_write(parser.parse_args(arguments))
    return 0


def show_and_write(given: Namespace) -> None:
    """Evaluates, prints and write; UserError where that cannot be done."""
    display = Display(quiet=given.json)
    if not display.console.is_terminal:
        display.console.width = max(display.console.width, PLAIN_WIDTH)

    def follow(steps: Iterable[Any], what: str) -> Iterable[Any]:
        shows = display.console.is_terminal and not given.json
        return track(list(steps), what, console=display.console, transient=True, disable=not shows)

    found = landscape(
        given.paths,
        given.points,
        given.beyond,
        given.images,
        given.batch_norm,
        given.checkpoint,
        given.device,
        display,
        follow,
    )
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        write_text(given.out / "landscape.json", json_text(found))
        pictures = draw_landscape(found, given.out)
    except OSError as error:
        raise UserError(f"{shown(given.out)}: cannot be written ({error.strerror}); give --out DIR") from error
    if given.json:
        print(json_text(found), end="")
        return
    show_landscape(found, display)
    files = ", ".join(f"{p.name}.png, {p.name}.svg" for p in pictures)
    display.say(f"files: {shown(given.out)}/ (landscape.json, {files})")


def show_landscape(found: dict[str, Any], display: Display) -> None:
    """Prints the checkpoints, the barriers between them, and what these mean."""
    ends: dict[int, dict[str, float]] = {}
    for line in found["lines"]:
        at = {point["t"]: point for point in line["points"]}
        ends |= {line["from"]: at[0.0], line["to"]: at[1.0]}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("", "", "train loss", "test loss", "train error (%)", "test error (%)"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for k, checkpoint in enumerate(found["checkpoints"]):
        cells = figures_of({key: ends[k][key] for key in found["lines"][0]["barriers"]})
        table.add_row(LETTERS[k], f"{checkpoint['name']}, step {checkpoint['step']}", *cells)
    for line in found["lines"]:
        heights = {key: barrier["height"] for key, barrier in line["barriers"].items()}
        table.add_row("", f"barrier {way(line)}", *figures_of(heights))
    display.say(table)
    for line in found["lines"]:
        display.say(verdict(line))
    display.say(RULE)
    images = f"{found['images']['train']:,} training images and {found['images']['test']:,} test images"
    how = {
        "recompute": "; statistics of batch norm between checkpoints: computed anew from these training images",
        "interpolate": "; statistics of batch norm between checkpoints: interpolated",
        None: "",
    }[found["batch_norm"]]
    display.say(f"on {images}{how}")


def figures_of(values: dict[str, float]) -> list[str]:
    """Returns losses and errors as text, training and test of the one, then of the other."""
    order = ("train_loss", "test_loss", "train_error", "test_error")
    return [f"{values[key]:.4f}" if key.endswith("loss") else f"{values[key]:.2f}" for key in order]


def way(line: dict[str, Any]) -> str:
    """Returns a line as the letters of its ends."""
    return f"{LETTERS[line['from']]}–{LETTERS[line['to']]}"


def verdict(line: dict[str, Any]) -> str:
    """Says in words whether there is a barrier between two checkpoints."""
    loss, error = line["barriers"]["test_loss"], line["barriers"]["test_error"]
    share = f"{100 * line['relative_distance']:.3g} % of the length of {LETTERS[line['from']]}"
    apart = f"distance {line['distance']:.4g}, {share}"
    if line["one_basin"]:
        rise = f"{error['height']:.2f} points in the test error, {loss['height']:.4f} in the test loss"
        return f"{way(line)}: no barrier lies between them: they lie in one basin ({rise}; {apart})"
    return (
        f"{way(line)}: a barrier of {error['height']:.2f} points of test error lies between them, at t ="
        f" {error['t']:.2f}, and of {loss['height']:.4f} in the test loss, at t = {loss['t']:.2f} ({apart})"
    )
