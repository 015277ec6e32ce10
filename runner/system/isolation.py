"""A job of a sweep in a process of its own: what kills it, kills it alone."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from .interrupt import SIGNALS


def isolated(work: Callable[[], int], is_worker: bool = False) -> int:
    """Calls `work` in a copy of this process, and returns its exit code; 128 + number where a signal ended it.

    What was imported need not be imported again. Ctrl-C and SIGTERM are handed on to the copy, and have their
    usual effect here when it has ended; should this process die, the copy gets SIGTERM. Where processes cannot be
    copied (Windows) the work is done in this one. Nothing on a GPU may have been computed before.

    Args:
        work: returns an exit code.
        is_worker: this process does what another asks of it: Ctrl-C, which the terminal sends to both, is the
            other's business, now and later; and after a SIGTERM it returns to that one.
    """
    if not hasattr(os, "fork"):
        return work()
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    if is_worker:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _handing_on((signal.SIGTERM,) if is_worker else SIGNALS) as (begun, caught):
        child = os.fork()
        if child == 0:
            os.close(writer)
            _be_the_copy(work, reader)
        os.close(reader)
        begun(child)
        status = os.waitpid(child, 0)[1]
    os.close(writer)
    if caught and not is_worker:
        os.kill(os.getpid(), caught[0])
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


@contextmanager
def _handing_on(numbers: tuple[int, ...]) -> Iterator[tuple[Callable[[int], None], list[int]]]:
    """While entered, hand signals on to a process, once it is named; yields what names it, and those that came."""
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

    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield begun, caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _be_the_copy(work: Callable[[], int], reader: int) -> None:
    """Does the work and end this process."""
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
        with suppress(Exception):
            end_workers()
        os._exit(code)


def end_workers() -> None:
    """Ends the workers of joblib that this process has started, and remove what they share.

    A process that ends by os._exit has to: workers would wait for ever, and joblib complain of what they left.
    """
    loky: Any = sys.modules.get("joblib.externals.loky.reusable_executor")
    executor = None if loky is None else loky._executor
    if executor is not None and any(w._parent_pid == os.getpid() for w in list(executor._processes.values())):
        from multiprocessing import util

        executor.terminate(kill_workers=True)
        util._run_finalizers()  # type: ignore[attr-defined]


def _watch(reader: int) -> None:
    """Waits until the process at the other end is gone."""
    os.read(reader, 1)
    os.kill(os.getpid(), signal.SIGTERM)
