"""The job table of a sweep, printed."""

import json
import shlex
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..records.job_table import ENDED, JobStatus, count_states, exit_code, read_job_table
from ..system.display import duration_text, figure
from ..system.files import shown

SETTLE_SECONDS = 30.0  # that jobs which were told to stop are waited for
COLOURS = {"done": "green", "running": "cyan", "diverged": "yellow", "failed": "red", "outdated": "magenta"}
PLAIN_WIDTH = 160  # where the output is no terminal


def show(entries: list[JobStatus]) -> None:
    """Prints the job table."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("job", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("step", "progress", "time", "left", "top-1", "loss"):
        table.add_column(name, justify="right", no_wrap=True)
    roles = any(entry.role for entry in entries)
    if roles:
        table.add_column("role")
    for label, entry in zip(labels(entries), entries, strict=True):
        colour = COLOURS.get(entry.state, "")
        table.add_row(
            label,
            f"[{colour}]{entry.state}[/]" if colour else entry.state,
            "" if entry.step is None else str(entry.step),
            "" if entry.share is None else f"{entry.share:.0%}",
            "" if entry.wall_seconds is None else duration_text(entry.wall_seconds),
            "" if entry.seconds_left is None else duration_text(entry.seconds_left),
            "" if entry.top1 is None else figure(entry.top1, ".2f", " %"),
            "" if entry.loss is None else figure(entry.loss, ".4f", ""),
            *([entry.role or ""] if roles else []),
        )
    console.print(table)
    for entry in entries:
        if entry.error:
            console.print(f"{entry.name}: {entry.error}", markup=False, soft_wrap=True)
    console.print(count_states(entries))


def labels(entries: list[JobStatus]) -> list[str]:
    """Returns what tells the jobs apart: the overrides that not all of a role have, or else the folder's name."""
    roles = Counter(e.role for e in entries)
    number = Counter((e.role, text) for e in entries for text in set(e.overrides))
    found = [" ".join(t for t in e.overrides if number[e.role, t] < roles[e.role]) or e.name for e in entries]
    return [text.replace("[", r"\[") for text in found]


def as_json(entries: list[JobStatus]) -> str:
    """Returns the job table as a JSON list."""
    return json.dumps([asdict(e) for e in entries], indent=2)


def show_end(sweep: Path, command: list[str], stopped: bool) -> int:
    """Prints what became of a sweep, and how to go on; returns its exit code.

    Args:
        sweep: its folder.
        command: what was typed.
        stopped: whether it was cut short; jobs that still write their checkpoints are waited for then.
    """
    until = time.monotonic() + (SETTLE_SECONDS if stopped else 0.0)
    entries = read_job_table(sweep)
    while any(e.state == "running" for e in entries) and time.monotonic() < until:
        time.sleep(0.2)
        entries = read_job_table(sweep)
    show(entries)
    if any(e.state not in (*ENDED, "outdated", "running") for e in entries):
        print(f"the same command goes on with it: {shlex.join(command)}")
    print(f"job table: trainopt status {shlex.quote(shown(sweep))}")
    sys.stdout.flush()
    return exit_code(entries)
