"""One process writes a run: the file `lock` in its folder names it, and its time is the process's heartbeat."""

import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from .errors import UserError
from .files import append_whole, shown

LOCK_FILE = "lock"
HEARTBEAT_SECONDS = 4.0  # between two heartbeats
SILENCE_SECONDS = 30.0  # without a heartbeat, after which an owner on another machine counts as dead
SHORT_POLL_SECONDS = 0.01  # between two looks at a lock that is held for a moment
EMPTY_LOOKS = 20  # at a lock without an owner, before it counts as damaged
SETTLE_SECONDS = 0.3  # after a dead owner's lock was replaced; another process that did the same has finished then


class Busy(UserError):
    """A living process writes the run."""


class RunLock:
    """The lock of a run's folder: held while entered, removed at the end.

    The owner renews the time of the file every `HEARTBEAT_SECONDS`. An owner on this machine (the same boot and the
    same process numbers) is known to be dead as soon as its process is gone. Of an owner on another machine that
    shares the file system only the heartbeat is seen: the file is watched until there is one, or for
    `SILENCE_SECONDS`. The file system must create, rename and read files only, and clocks of two machines are never
    compared.

    Args:
        folder: the run's; created where it is missing.

    Raises:
        Busy: a living process holds the lock.
        OSError: the folder cannot be written.
    """

    name = LOCK_FILE
    busy = "is being written"  # the message of `Busy`, with the advice
    advice = "wait for it, or give run.name=NAME for another folder"

    def __init__(self, folder: Path):
        self.path = folder / self.name
        owner = {**this_process(), "since": time.strftime("%Y-%m-%d %H:%M:%S"), "token": os.urandom(8).hex()}
        self._content = json.dumps(owner)
        self._end = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "RunLock":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        looks = 0  # at an empty file
        while not self._created():
            owner = read_owner(self.path)
            if owner is None:  # it was just released
                continue
            if not owner and looks < EMPTY_LOOKS:  # it was just created, and its owner writes into it next
                looks += 1
                time.sleep(SHORT_POLL_SECONDS)
                continue
            if not self._is_dead(owner):
                since = f" since {owner['since']}" if "since" in owner else ""
                raise Busy(f"{shown(self.path.parent)}: {self.busy} by {name_of(owner)}{since}; {self.advice}")
            if self._replaced(owner):
                break
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._heart.join()
        if self._read() == self._content:
            self.path.unlink(missing_ok=True)

    def _created(self) -> bool:
        try:
            with open(self.path, "xb", buffering=0) as file:
                try:
                    append_whole(file, self._content.encode())
                except OSError:  # the empty file would count as a lock
                    self.path.unlink()
                    raise
        except FileExistsError:
            return False
        return True

    def _is_dead(self, owner: dict[str, Any]) -> bool:
        dead = is_dead_here(owner)
        if dead is None:
            print(
                f"trainopt: watching the lock of {name_of(owner)} for a heartbeat, up to {SILENCE_SECONDS:.0f} s",
                file=sys.stderr,
            )
            dead = not changing_files([self.path], SILENCE_SECONDS)
        return dead

    def _replaced(self, dead: dict[str, Any]) -> bool:
        """Replaces a dead owner's lock by ours; returns whether ours stands.

        Of two processes that do this, the later one may remove the lock that the other has just created, so each
        looks again after `SETTLE_SECONDS`.
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
        """Returns the content of the file; empty where it is missing, None where it cannot be read."""
        try:
            return self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        except OSError:
            return None

    def _beat(self) -> None:
        while not self._end.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                content = self._read()
                if content == self._content:
                    os.utime(self.path)
                elif content == "":
                    self._created()
                elif content is not None:
                    print(
                        f"trainopt: {shown(self.path.parent)}: another process has taken over; stopping",
                        file=sys.stderr,
                    )
                    os._exit(1)  # nothing that this process would still write is of use


Entered = TypeVar("Entered")


@contextmanager
def waited_for(
    make: Callable[[], AbstractContextManager[Entered]], poll_seconds: float = SHORT_POLL_SECONDS
) -> Iterator[Entered]:
    """Enters what `make` returns, as soon as no other process holds its lock.

    Args:
        make: returns a lock, or what holds one; entering it raises Busy while another process holds that.
        poll_seconds: between two attempts.
    """
    while True:
        manager = make()
        try:
            entered = manager.__enter__()
            break
        except Busy:
            time.sleep(poll_seconds)
    try:
        yield entered
    finally:
        manager.__exit__(None, None, None)


def this_process() -> dict[str, Any]:
    """Returns what identifies this process, as far as the system says: host, process number, start, PID namespace."""
    pid = os.getpid()
    return {"host": platform.node(), "pid": pid, "started": _stat(pid)[1], "place": _pid_namespace()}


def read_owner(path: Path) -> dict[str, Any] | None:
    """Returns the owner in a lock file: {} where the file is empty or damaged, None where it is missing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def name_of(owner: dict[str, Any]) -> str:
    """Returns what messages call the owner of a lock; one that was killed before it wrote its lock is not known."""
    return f"process {owner['pid']} on {owner.get('host')}" if "pid" in owner else "an unknown process"


def is_dead_here(owner: dict[str, Any]) -> bool | None:
    """Returns whether a lock's owner is a dead process of this machine; None where that is unknown."""
    pid = owner.get("pid")
    if owner.get("place") != _pid_namespace() or not isinstance(pid, int):
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


def folders_being_written(folders: list[Path]) -> set[Path]:
    """Returns those of some run folders that a living process writes, as `living_locks` finds them."""
    return {lock.parent for lock in living_locks([folder / LOCK_FILE for folder in folders])}


def living_locks(locks: list[Path]) -> set[Path]:
    """Returns those of some locks whose owner lives.

    Locks of other machines are watched for two heartbeats, all at once.
    """
    alive, unknown = set(), []
    for lock in locks:
        owner = read_owner(lock)
        dead = None if owner is None else is_dead_here(owner)
        if dead is False:
            alive.add(lock)
        elif owner is not None and dead is None and silence(lock) < SILENCE_SECONDS:
            unknown.append(lock)
    return alive | set(changing_files(unknown, 2 * HEARTBEAT_SECONDS))


def is_being_written(folder: Path) -> bool:
    """Returns whether a living process writes a run; a lock of another machine is watched for `SILENCE_SECONDS`."""
    owner = read_owner(folder / LOCK_FILE)
    dead = None if owner is None else is_dead_here(owner)
    if owner is not None and dead is None:
        return bool(changing_files([folder / LOCK_FILE], SILENCE_SECONDS))
    return dead is False


def silence(path: Path) -> float:
    """Returns the seconds since the last heartbeat of a lock, by the clock of its file system; 0 where it is unknown.

    The time of a new file in the same folder is that clock's: no clocks of two machines are compared.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(b".")
            file.flush()
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_mtime - path.stat().st_mtime
    except OSError:  # as in a folder that can only be read
        return 0.0


def changing_files(paths: list[Path], seconds: float) -> list[Path]:
    """Watches files for a number of seconds; returns those whose time changed."""
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
    """Returns when a file was last changed, None where it is missing; opened, so that no cached time is returned."""
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def _pid_namespace() -> str:
    """Returns what all processes share among which a process number is unique: boot and PID namespace."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _stat(pid: int) -> tuple[str | None, int | None]:
    """Returns the state of a process and its start in the kernel's ticks; None where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None, None
    return fields[0], int(fields[19])
