"""One process writes a run: the file `lock` in its folder says which, and gives signs of life."""

import json
import os
import platform
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import shown

NAME = "lock"
HEARTBEAT_SECONDS = 4.0  # between signs of life
SILENCE_SECONDS = 30.0  # without any, an owner on another machine is taken to be dead
SETTLE_SECONDS = 0.3  # after a dead owner's lock was replaced, whoever else did the same has done so by then


class Busy(UserError):
    """Another process that lives writes the run."""


class RunLock:
    """Held while entered; the file is removed at the end.

    The owner renews the time of the file every `HEARTBEAT_SECONDS`. A process of this machine (the same start of
    the same kernel, the same process numbers) that is gone is known to be dead at once. Of one on another machine
    that shares the file system only the signs of life are seen: it is watched until it gives one, or was silent
    for `SILENCE_SECONDS`. Nothing but creating, renaming and reading files is asked of the file system, and no
    clocks of two machines are compared.

    Args:
        folder: the run's; created if it is not there.

    Raises:
        Busy: another process holds the lock, and lives.
        OSError: the folder cannot be written.
    """

    name = NAME
    told = "is being written"  # who finds the folder locked is told so, and what to do
    advice = "wait for it, or give run.name=NAME for another folder"

    def __init__(self, folder: Path):
        self.path = folder / self.name
        owner = {**whoami(), "since": time.strftime("%Y-%m-%d %H:%M:%S"), "token": os.urandom(8).hex()}
        self._content = json.dumps(owner)
        self._end = threading.Event()
        self._beat = threading.Thread(target=self._give_signs, daemon=True)

    def __enter__(self) -> "RunLock":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._created():
            owner = read_owner(self.path)
            if owner is None:  # it was just released
                continue
            if not self._is_dead(owner):
                process = f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('since')}"
                raise Busy(f"{shown(self.path.parent)}: {self.told} by {process}; {self.advice}")
            if self._replaced(owner):
                break
        self._beat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._beat.join()
        if self._read() == self._content:
            self.path.unlink(missing_ok=True)

    def _created(self) -> bool:
        try:
            with open(self.path, "x") as file:
                file.write(self._content)
        except FileExistsError:
            return False
        return True

    def _is_dead(self, owner: dict[str, Any]) -> bool:
        dead = is_dead_here(owner)
        if dead is None:
            print(
                f"trainopt: watching the lock of process {owner.get('pid')} on {owner.get('host')}"
                f" for a sign of life, up to {SILENCE_SECONDS:.0f} s",
                file=sys.stderr,
            )
            dead = not moving([self.path], SILENCE_SECONDS)
        return dead

    def _replaced(self, dead: dict[str, Any]) -> bool:
        """Puts our lock in a dead owner's place; say whether it stands.

        Of two processes that do this, the later may take away the lock that the other has just made: so who did
        it looks again a little later.
        """
        if read_owner(self.path) == dead:
            aside = self.path.with_name(f"{self.name}.{os.urandom(4).hex()}")
            with suppress(FileNotFoundError):
                os.rename(self.path, aside)
                aside.unlink()
        if not self._created():
            return False
        time.sleep(SETTLE_SECONDS)
        return self._read() == self._content

    def _read(self) -> str | None:
        """Returns what the file holds now; empty where there is none, None where that cannot be said."""
        try:
            return self.path.read_text()
        except FileNotFoundError:
            return ""
        except OSError:
            return None

    def _give_signs(self) -> None:
        while not self._end.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                found = self._read()
                if found == self._content:
                    os.utime(self.path)
                elif found == "":
                    self._created()
                elif found is not None:
                    print(
                        f"trainopt: {shown(self.path.parent)}: another process has taken over; stopping",
                        file=sys.stderr,
                    )
                    os._exit(1)  # what this process would still write belongs to nobody


def whoami() -> dict[str, Any]:
    """Returns what tells this process from all others, as far as the system says."""
    pid = os.getpid()
    return {"host": platform.node(), "pid": pid, "started": _stat(pid)[1], "place": _place()}


def read_owner(path: Path) -> dict[str, Any] | None:
    """Returns who holds a lock: {} where the file says nothing (yet), None where there is no file."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_dead_here(owner: dict[str, Any]) -> bool | None:
    """Returns whether a lock's owner is a process of this machine that is gone; None where that cannot be known."""
    pid = owner.get("pid")
    if owner.get("place") != _place() or not isinstance(pid, int):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    state, started = _stat(pid)
    if state in ("Z", "X"):
        return True
    if None in (started, owner.get("started")):
        return None
    return started != owner["started"]


def living(folders: list[Path]) -> set[Path]:
    """Returns those of the runs' folders that a living process writes.

    Owners on other machines are watched for two heartbeats, all at once.
    """
    alive, unknown = set(), []
    for folder in folders:
        owner = read_owner(folder / NAME)
        dead = None if owner is None else is_dead_here(owner)
        if dead is False:
            alive.add(folder)
        elif owner is not None and dead is None:
            unknown.append(folder / NAME)
    return alive | {path.parent for path in moving(unknown, 2 * HEARTBEAT_SECONDS)}


def is_written(folder: Path) -> bool:
    """Returns whether a living process writes a run; one on another machine is watched for `SILENCE_SECONDS`."""
    owner = read_owner(folder / NAME)
    dead = None if owner is None else is_dead_here(owner)
    if owner is not None and dead is None:
        return bool(moving([folder / NAME], SILENCE_SECONDS))
    return dead is False


def moving(paths: list[Path], seconds: float) -> list[Path]:
    """Watches files for so long; returns those whose time changed."""
    first = {path: _time(path) for path in paths}
    until = time.monotonic() + seconds
    moved: list[Path] = []
    while len(moved) < len(first) and time.monotonic() < until:
        time.sleep(min(0.5, seconds / 10))
        now = {path: _time(path) for path in paths}
        moved = [path for path in paths if now[path] not in (first[path], None)]
        if all(path in moved or now[path] is None for path in paths):
            break
    return moved


def _time(path: Path) -> int | None:
    """Returns when a file was last changed, None where there is none; opening it, a shared system looks anew."""
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def _place() -> str:
    """Returns what processes share among which a process number says which one is meant."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _stat(pid: int) -> tuple[str | None, int | None]:
    """Returns a process's state and when it began, in the kernel's ticks; None where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None, None
    return fields[0], int(fields[19])
