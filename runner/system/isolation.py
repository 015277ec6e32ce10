"""Runs a function in a forked process: whatever kills that process leaves this one alive."""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import util
from types import FrameType
from typing import Any

from .interrupt import stop_signals


def run_isolated(work: Callable[[], int], is_worker: bool = False) -> int:
    """Calls `work` in a fork of this process; returns its exit code, or 128 + number where a signal ended it.

    The fork need not import modules again. Signals to stop are forwarded to it, and take their usual effect here
    when it has ended; if this process dies, the fork gets SIGTERM. Where the system cannot fork (Windows), `work` is
    called in this process. Nothing may have been computed on a GPU before.

    Args:
        work: returns an exit code.
        is_worker: this process serves another one, as joblib's workers do. It then ignores Ctrl-C and SIGHUP, now and
            later, because the terminal sends them to the other one as well; after a SIGTERM it returns to that one.
    """
    if not hasattr(os, "fork"):
        return work()
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    if is_worker:
        for number in {*stop_signals()} - {signal.SIGTERM}:
            signal.signal(number, signal.SIG_IGN)
    with _forwarding((signal.SIGTERM,) if is_worker else stop_signals()) as (set_target, caught):
        child = os.fork()
        if child == 0:
            os.close(writer)
            if is_worker:  # the start method that joblib sets there is for its own classes of processes only
                multiprocessing.set_start_method(None, force=True)
            _run_child(work, reader)
        os.close(reader)
        set_target(child)
        status = os.waitpid(child, 0)[1]
    os.close(writer)
    if caught and not is_worker:
        os.kill(os.getpid(), caught[0])
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


@contextmanager
def _forwarding(numbers: tuple[int, ...]) -> Iterator[tuple[Callable[[int], None], list[int]]]:
    """Forwards signals to a process while entered.

    Yields:
        A function that takes the number of the process, and the list of the signals that came.
    """
    caught: list[int] = []
    child = 0

    def send(number: int) -> None:
        with suppress(ProcessLookupError):  # it has ended, and its end was read
            os.kill(child, number)

    def set_target(pid: int) -> None:
        nonlocal child
        child = pid
        for number in caught:
            send(number)

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        caught.append(number)
        if child:
            send(number)

    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield set_target, caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_child(work: Callable[[], int], reader: int) -> None:
    """Calls `work` and ends this process."""
    atexit._clear()  # what the parent does at its end is not done here
    inherited = _executor()
    code = 1
    try:
        os.setpgid(0, 0)  # the terminal's Ctrl-C reaches the parent only, which forwards it: it comes once
        for number in stop_signals():
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        threading.Thread(target=_end_with_parent, args=(reader,), daemon=True).start()
        code = work()
    except BaseException:  # noqa: BLE001 - the frames above belong to the parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with suppress(Exception):
            end_workers()
            if _executor() is not inherited:  # joblib warns of what its workers left, also those that ended long before
                util._run_finalizers()  # type: ignore[attr-defined]
                atexit._run_exitfuncs()
        os._exit(code)


def end_workers() -> None:
    """Ends the workers of joblib that this process has started, and removes the files that they share.

    A process that ends by os._exit has to do so: otherwise workers wait for ever, and joblib warns of leaked files.
    """
    executor = _executor()
    if executor is not None and any(w._parent_pid == os.getpid() for w in list(executor._processes.values())):
        executor.terminate(kill_workers=True)
        util._run_finalizers()  # type: ignore[attr-defined]


def _executor() -> Any:
    """Returns joblib's current pool of workers, or None."""
    loky: Any = sys.modules.get("joblib.externals.loky.reusable_executor")
    return None if loky is None else loky._executor


def _end_with_parent(reader: int) -> None:
    """Waits until the parent, at the other end of a pipe, is gone; then ends this process."""
    os.read(reader, 1)
    os.kill(os.getpid(), signal.SIGTERM)
