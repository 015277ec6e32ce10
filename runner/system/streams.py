"""Standard output and standard error for which no run fails: a reader that has gone, characters that they lack."""

import errno
import io
import os
import sys

GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET)  # nobody reads a pipe, a terminal, a socket any more


class Outlet(io.FileIO):
    """A file descriptor to write to; when its reader has gone, what is written goes nowhere, in silence."""

    def write(self, content) -> int | None:  # type: ignore[override]
        """Writes bytes; returns how many were taken."""
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in GONE:
                raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # also for processes that begin later, and for libraries in C
        os.close(nowhere)
        return memoryview(content).nbytes


def silence_streams() -> None:
    """Lets what Python prints go nowhere, as that of all processes of a run but the first."""
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until this process ends


def protect_streams() -> None:
    """Makes `sys.stdout` and `sys.stderr` go on without a reader, and show ? in place of what they cannot encode.

    Where they are not those of the process, as in a notebook, they are left as they are.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    while nowhere <= 2:  # one of the three was closed; a file of a run must not get its number
        nowhere = os.dup(nowhere)
    os.close(nowhere)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or io.TextIOWrapper(io.FileIO(descriptor, "w", closefd=False), encoding="utf-8")
        buffer = getattr(stream, "buffer", None)
        raw = getattr(buffer, "raw", buffer)
        if not isinstance(raw, io.FileIO) or raw.fileno() != descriptor:
            continue
        stream.flush()
        outlet = Outlet(descriptor, "w", closefd=False)
        protected = io.TextIOWrapper(
            outlet if stream.write_through else io.BufferedWriter(outlet),
            encoding=stream.encoding,
            errors="replace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, protected)
