"""How a run ended: lines on the screen, and the figures of a run that came to its end."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..records.run_folder import DONE, LOG, read_summary
from ..system.display import Display
from ..system.environment import IN_TASK
from ..system.files import shown


def report_failure(error: str, folder: Path) -> None:
    """Prints which error ended a run."""
    print(f"trainopt: the run failed: {error}", file=sys.stderr)
    print(f"trainopt: the traceback is in {shown(folder / LOG)}", file=sys.stderr)


def report_end(display: Display, summary: dict[str, Any], folder: Path) -> None:
    """Prints how a run ended, and draws its figures if it came to its end.

    Args:
        display: where to print.
        summary: of the run.
        folder: the run's.
    """
    if summary["status"] == "failed":
        report_failure(summary["error"], folder)
        return
    if summary["status"] in ("interrupted", "paused"):
        way = f"go on from the last checkpoint with: trainopt resume {shown(folder)}"
        if IN_TASK in os.environ:
            way = "its task goes on from the last checkpoint when it starts again; after a cancel, trainopt submit does"
        display.say(f"{summary['status']}; {way}")
        return
    range_test = summary.get("range_test")
    if not (folder / "curves.png").exists():
        with suppress(OSError):  # a folder that can only be read shows its results all the same
            draw_figures(folder, range_test)
    display.show_summary(summary, folder)
    if summary["status"] == "diverged":
        end = summary["diverged_at"]
        name = next(name for name in ("weights", "gradient_norm", "loss") if name in end)
        what = f"the {name.replace('_', ' ')} became {end[name]}"
        display.say(f"diverged: {what} after step {end['step']} (epoch {end['epoch']:.2f})")
    if summary.get("stopped_early"):
        display.say(f"stopped early: {summary['steps']} steps; {summary['stopped_because']}")
    for change in summary.get("code_changes", ()):
        display.say(f"other code from step {change['step']} on: {', '.join(change['files'])}")
    if range_test:
        from .range_test import report_bounds

        for line in report_bounds(range_test):
            display.say(line)


def report_interrupt(display: Display, folder: Path) -> None:
    """Prints how a run goes on that a signal ended before its first step, or after its last one."""
    status = read_summary(folder).get("status")
    if status in DONE:
        display.say(f"interrupted; the run is {status}, and the same command shows its result")
    elif any((folder / "checkpoints").glob("*.pt")):
        report_end(display, {"status": "interrupted"}, folder)
    else:
        display.say("interrupted before the first step; the same command starts it again")


def draw_figures(folder: Path, range_test: dict[str, Any] | None) -> None:
    """Draws all figures of a run into its folder: each where there is something to show."""
    from .curves import draw_learning_curves  # matplotlib is imported at the end of a run only
    from .fisher_curves import draw_fisher_curves
    from .loss_terms import draw_loss_terms
    from .metric_arrays import draw_metric_arrays
    from .range_test import draw_range_test
    from .trajectory import draw_trajectory

    draw_loss_terms(folder, folder.name)
    draw_metric_arrays(folder, folder.name)
    draw_fisher_curves(folder, folder.name)
    draw_trajectory(folder)
    if range_test:
        draw_range_test(folder, range_test)
    draw_learning_curves(folder, folder.name)  # the last: where it is there, all are
