"""A job of a sweep in a process of its own: what kills it, kills it alone."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from .interrupt import SIGNALS


def isolated(work: Callable[[], int], hand_on: bool = True) -> int:
    """Call `work` in a copy of this process, and return its exit code; 128 + number where a signal ended it.

    What was imported need not be imported again. Should this process die, the copy gets SIGTERM. Where processes
    cannot be copied (Windows) the work is done in this one. Nothing on a GPU may have been computed before.

    Args:
        work: returns an exit code.
        hand_on: whether Ctrl-C and SIGTERM go to the copy, and have their usual effect here when it has ended.
    """
    if not hasattr(os, "fork"):
        return work()
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    with _handing_on() if hand_on else _no_signals() as begun:
        child = os.fork()
        if child == 0:
            os.close(writer)
            _be_the_copy(work, reader)
        os.close(reader)
        begun(child)
        status = os.waitpid(child, 0)[1]
    os.close(writer)
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


@contextmanager
def _handing_on() -> Iterator[Callable[[int], None]]:
    """While entered, hand signals on to a process, once it is named; then let them happen here."""
    caught: list[int] = []
    child = 0

    def begun(number: int) -> None:
        nonlocal child
        child = number
        for signal_number in caught:
            os.kill(child, signal_number)

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        caught.append(number)
        if child:
            os.kill(child, number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield begun
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if caught:
            os.kill(os.getpid(), caught[0])


@contextmanager
def _no_signals() -> Iterator[Callable[[int], None]]:
    """While entered, and after: Ctrl-C, which the terminal sends to all its processes, is none of this one's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield lambda child: None


def _be_the_copy(work: Callable[[], int], reader: int) -> None:
    """Do the work and end this process."""
    code = 1
    try:
        os.setpgid(0, 0)  # the terminal's Ctrl-C goes to the other process, which hands it on: it comes once
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=_watch, args=(reader,), daemon=True).start()
        code = work()
    except BaseException:  # noqa: BLE001 - nothing above this frame is ours to run
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watch(reader: int) -> None:
    """Wait until the process at the other end is gone."""
    os.read(reader, 1)
    os.kill(os.getpid(), signal.SIGTERM)
