"""`trainopt landscape RUN|CHECKPOINT …`: loss and error between two checkpoints, or on the plane through three."""

from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..reporting.figure_style import add_style_flags, figure_style
from ..system.display import Display, wide_console
from ..system.errors import UserError
from ..system.files import json_text, shown, write_text
from ..system.flags import FlagParser, existing_path


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser(
        "trainopt landscape",
        description="Evaluate a network between two checkpoints, or on the plane through three.",
    )
    parser.add_argument(
        "paths",
        type=existing_path,
        nargs="+",
        metavar="RUN|CHECKPOINT",
        help="a run's folder, or a file in its checkpoints/",
    )
    parser.add_argument(
        "--points",
        type=int,
        metavar="N",
        help="number of points on a line (default: 21), or along each side of a plane (15)",
    )
    parser.add_argument(
        "--beyond",
        type=float,
        default=0.2,
        metavar="FRACTION",
        help="how far a line extends beyond the checkpoints, as a fraction of their distance; default: 0.2",
    )
    parser.add_argument(
        "--images", type=int, default=1000, metavar="N", help="number of training images; default: 1000"
    )
    parser.add_argument(
        "--batch-norm",
        default="recompute",
        metavar="recompute|interpolate",
        help="batch norm's statistics between checkpoints: recomputed from training images (default), or interpolated",
    )
    parser.add_argument("--checkpoint", default="last", metavar="best|last", help="checkpoint of a run; default: last")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N; default: the first run's")
    parser.add_argument("--json", action="store_true", help="print the content of landscape.json instead of tables")
    out = Path("outputs/landscape")
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"folder of the files; default: {out}")
    add_style_flags(parser)
    return parser


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt landscape RUN|CHECKPOINT RUN|CHECKPOINT [RUN|CHECKPOINT]`."""
    del debug
    run(parser().parse_args(arguments))
    return 0


def run(options: Namespace) -> None:
    """Evaluates, prints and writes; UserError where that is not possible."""
    from rich.progress import track

    from ..analysis.landscape import landscape
    from ..analysis.landscape_figures import draw_landscape
    from ..analysis.landscape_tables import show_landscape

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
        with figure_style(options.style, options.width):
            figures = draw_landscape(result, options.out)
    except OSError as error:
        raise UserError(f"{shown(options.out)}: cannot be written ({error.strerror}); give --out DIR") from error
    if options.json:
        print(json_text(result), end="")
        return
    show_landscape(result, display)
    files = ", ".join(f"{figure.name}.pdf, .png, .svg" for figure in figures)
    display.say(f"files: {shown(options.out)}/ (landscape.json, {files})")
