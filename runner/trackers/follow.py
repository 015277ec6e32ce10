"""`python -m trainopt.runner.trackers.follow`: sends a run's records to a tracker while the run is trained."""

import contextlib
import json
import os
import select
import signal
import sys
from importlib import import_module
from pathlib import Path

from ..system.environment import add_working_directory
from ..system.errors import UserError, reason
from ..system.lock import waited_for
from .delivery import Delivery, TrackerError
from .process import REPORTED, sent_later

POLL_SECONDS = 1.0  # between two looks for new records


def main(request: str) -> int:
    """Sends records until the run's process closes our input or is gone; returns the exit code.

    Args:
        request: JSON: the tracker's class, its arguments, the run's folder.
    """
    target, settings, folder = json.loads(request)
    parent = os.getppid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the run ends this process
        signal.signal(number, signal.SIG_IGN)
    reports = os.dup(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # what libraries print
        os.dup2(silence, descriptor)

    def report(line: str) -> None:
        with contextlib.suppress(OSError):  # the run is gone
            os.write(reports, f"{line}\n".encode())

    add_working_directory()
    name = target
    try:
        module, _, cls = target.rpartition(".")
        tracker = getattr(import_module(module), cls)(**settings)
        name = tracker.name
        with waited_for(lambda: Delivery(Path(folder), tracker, pid=parent), POLL_SECONDS) as delivery:
            report(delivery.open())
            ended = False
            while not ended:
                ended = bool(select.select([sys.stdin], [], [], POLL_SECONDS)[0]) or os.getppid() != parent
                delivery.send()
            delivery.finish()
    except (TrackerError, UserError) as error:
        report(f"{error}{sent_later(name, Path(folder))}")
        return REPORTED
    except Exception as error:  # noqa: BLE001 - of our own code, or a file that is damaged; the run goes on
        report(f"{reason(error)}{sent_later(name, Path(folder))}")
        return REPORTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
