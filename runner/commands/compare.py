"""`trainopt compare RUN|SWEEP …`: methods over seeds, a test against a baseline, a report."""

from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from ..comparison.metrics import AXES, METRICS, Target
from ..reporting.figure_style import add_style_flags, figure_style
from ..system.display import wide_console
from ..system.flags import FlagParser, existing_folder


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser(
        "trainopt compare",
        description="Compare methods over seeds: metrics, significance tests against a baseline, a report.",
    )
    parser.add_argument(
        "paths",
        type=existing_folder,
        nargs="+",
        metavar="RUN|SWEEP",
        help="folders of runs or sweeps, or folders above them",
    )
    parser.add_argument(
        "--by", metavar="KEY,KEY", help="keys that define a method; default: all that differ, except the seed"
    )
    parser.add_argument(
        "--baseline",
        metavar="METHOD",
        help="name of the baseline, or a part of it; default: the first method, as SGD of optimizer=sgd,adam",
    )
    parser.add_argument(
        "--metric",
        metavar=f"{'|'.join(METRICS)}|NAME",
        help="NAME: final_NAME, or selected_NAME (test value at the best validation); default: final_top1,"
        " or what the runs select by, or final_loss",
    )
    parser.add_argument(
        "--target",
        type=Target.parse,
        metavar="PERCENT|METRIC=VALUE",
        help="the cost to reach it is reported: an accuracy in percent, or METRIC=VALUE with loss (of evaluations),"
        " training_loss or raw_training_loss (of probe=[training_loss]), or train_loss (of single batches)",
    )
    parser.add_argument("--x", default="epochs", choices=tuple(AXES), help="x axis of curves; default: epochs")
    parser.renamed = {"--against": "--x"}
    parser.add_argument(
        "--tuning",
        type=existing_folder,
        action="append",
        metavar="SWEEP",
        help="a search of learning rates, whose trials count as tuning",
    )
    parser.add_argument(
        "--rename",
        action="append",
        metavar="NAME:LABEL",
        help="label in tables and figures, as optimizer=adam:Adam; NAME: a method, or KEY=VALUE in its name",
    )
    add_style_flags(parser)
    parser.add_argument(
        "--columns",
        metavar="NAME,NAME",
        help="columns of table.tex: metrics, p, difference, effect, n, AXIS_to_target, …",
    )
    out = Path("outputs/comparison")
    parser.add_argument(
        "--out",
        type=Path,
        default=out,
        metavar="DIR",
        help=f"folder of the files, which replace earlier ones; default: {out}",
    )
    parser.add_argument("--force", action="store_true", help="compare runs although there are reasons against it")
    return parser


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt compare RUN|SWEEP …`."""
    del debug
    compare(parser().parse_args(arguments))
    return 0


def compare(options: Namespace) -> None:
    """Reads, compares, prints and writes; UserError where the runs should not be compared."""
    from rich.progress import track

    from ..comparison.read import read_comparison
    from ..comparison.table import report_comparison

    console = wide_console()

    def follow(folders: list[Path]) -> Iterable[Path]:
        return track(folders, "reading", console=console, transient=True, disable=not console.is_terminal)

    by = options.by.split(",") if options.by else None
    choices = {"by": by, "baseline": options.baseline, "metric": options.metric, "target": options.target}
    columns = options.columns.split(",") if options.columns else []
    with figure_style(options.style, options.width):
        renames = options.rename or []
        comparison = read_comparison(options.paths, options.tuning or [], follow, renames=renames, **choices)
        report_comparison(comparison, options.x, options.out, options.force, console, columns)
