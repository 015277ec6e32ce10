"""The git repository that holds files."""

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def git(folder: Path, *arguments: str) -> str | None:
    """Returns what a git command prints, run in a folder; None where it fails, or git is not there."""
    try:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def commit_of(folder: Path, files: Iterable[str]) -> dict[str, Any]:
    """Returns `commit` of the repository that holds files, and `dirty`: whether any of them differs from that commit.

    Files that git does not track, or ignores, are none of the commit's. Both are None outside a repository.

    Args:
        folder: that the files lie in.
        files: their paths below it.
    """
    paths = [f":(literal){file}" for file in files]
    state = git(folder, "status", "--porcelain=v2", "--branch", "--ignored", "--untracked-files=all", "--", *paths)
    if state is None:
        return {"commit": None, "dirty": None}
    lines = state.splitlines()
    commits = [line.split()[2] for line in lines if line.startswith("# branch.oid ")]
    commit = commits[0] if commits and commits[0] != "(initial)" else None
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}
