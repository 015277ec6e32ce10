"""Sweeps on real clusters: an optimizer that counts its steps, and what becomes of the runs."""

import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from trainopt.runner.cluster.queue import read_table_with_queue

# Writes the number of every step that is made; `kind` says what becomes of the run.
COUNTED = """
import time
import torch

class SGD(torch.optim.SGD):
    def __init__(self, params, lr=0.01, kind=0, pause=0.25, start=0):
        time.sleep(start)
        super().__init__(params, lr=1e30 if kind == 5 else lr)
        self.kind, self.pause = kind, pause
        self.param_groups[0]["count"] = 0

    def step(self, closure=None):
        time.sleep(5 * self.pause if self.kind == 7 else self.pause)
        self.param_groups[0]["count"] += 1
        count = self.param_groups[0]["count"]
        if self.kind == 11 and count == 4:
            raise RuntimeError("the cause of helpers/clusters.py")
        result = super().step(closure)
        with open("steps.txt", "a") as file:
            file.write(f"{self.kind} {count}\\n")
        return result
"""


def trainopt(folder: Path, *arguments: str, code: int = 0) -> str:
    """Returns what a command prints that is typed in a folder, and ends with this exit code."""
    command = [str(Path(sys.executable).with_name("trainopt")), *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout


def use_programs(monkeypatch: pytest.MonkeyPatch, folder: Path, **lines: str) -> None:
    """Writes programs of sh into a folder, and lets this process and its children find them before all others."""
    folder.mkdir(exist_ok=True)
    for name, text in lines.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    if str(folder) not in os.environ["PATH"]:
        monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))


def type_commands(guide: str, folder: Path) -> list[tuple[str, str]]:
    """Types the commands of a guide in a folder, SWEEP being the newest sweep; returns each, and what it printed."""
    printed = []
    for command in [line.removeprefix("$ trainopt ") for line in guide.splitlines() if line.startswith("$ trainopt ")]:
        sweeps = sorted((folder / "outputs").glob("sweeps/*"), key=lambda path: path.stat().st_mtime)
        newest = str(sweeps[-1]) if sweeps else ""
        words = [newest if word.endswith("/SWEEP") else word for word in shlex.split(command)]
        printed.append((command, trainopt(folder, *words)))
    return printed


def table(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the job table by the kinds of the jobs, as `trainopt status` reads it.

    In this process: waiting for a state by the command would take more of the machine than the runs.
    """
    jobs = [asdict(job) for job in read_table_with_queue(sweep_of(folder))[0]]
    return {text.partition("=")[2]: job for job in jobs for text in job["overrides"] if "optimizer.kind" in text}


def sweep_of(folder: Path) -> Path:
    """Returns the only sweep below a folder."""
    (sweep,) = (folder / "outputs/sweeps").iterdir()
    return sweep


def printed_table(sweep: Path) -> list[dict[str, Any]]:
    """Returns what `trainopt status --json` prints."""
    return list(json.loads(trainopt(sweep, "status", str(sweep), "--json")))


def states(folder: Path) -> Counter[str]:
    """Returns the number of jobs in each state."""
    return Counter(str(job["state"]) for job in table(folder).values())


def repeated(folder: Path) -> dict[str, int]:
    """Returns how many steps were made more than once, by kind."""
    number = Counter((folder / "steps.txt").read_text().splitlines())
    return dict(Counter(line.split()[0] for line, times in number.items() if times > 1))
