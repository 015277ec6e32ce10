"""Errors of the user in one line, exit codes, and the nearest word to a misspelt one."""

import errno
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from .files import shown

FAILED, USER_ERROR, DIVERGED = 1, 2, 3  # exit codes; the last with --strict only
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)  # errors of writing, which name no file


class UserError(Exception):
    """An error that the user can correct; its text is one line that says what would be right.

    Several errors of another program have a line each. The command line prints them without a traceback and ends with
    exit code 2.
    """


class MissingModule(UserError):
    """A class or function is of a module that is not there.

    Attributes:
        package: the first part of the module's name.
    """

    def __init__(self, text: str, package: str) -> None:
        super().__init__(text)
        self.package = package


def report_error(error: UserError, debug: bool) -> int:
    """Prints an error, with `debug` after its traceback; returns the exit code."""
    if debug:
        traceback.print_exception(error)
    print(*(f"trainopt: {line}" for line in str(error).splitlines()), sep="\n", file=sys.stderr)
    return USER_ERROR


def exit_code_of(work: Callable[[], int], debug: bool) -> int:
    """Returns the exit code that `work` returns, or that of an error of the user, which is printed in one line.

    Args:
        work: a command.
        debug: whether the traceback of an error is shown.
    """
    try:
        return work()
    except UserError as error:
        return report_error(error, debug)
    except KeyboardInterrupt as stop:
        print("trainopt: interrupted", file=sys.stderr)
        return interrupted_code(stop)


def interrupted_code(stop: KeyboardInterrupt) -> int:
    """Returns the exit code after a signal: 128 + its number, which `Interrupt` hands over, and Python does not."""
    return 128 + (stop.args or (signal.SIGINT,))[0]


def nearest(word: str, choices: Iterable[str]) -> str:
    """Returns `; did you mean X?` for the choice nearest to `word`, or an empty string.

    Of dotted keys the last parts are compared.

    >>> nearest("resnet5", ["resnet50", "mlp"])
    '; did you mean resnet50?'
    >>> nearest("xyz", ["resnet50", "mlp"])
    ''
    """
    tails = {choice.rpartition(".")[2]: choice for choice in reversed(list(choices))}
    matches = get_close_matches(word.rpartition(".")[2], tails, n=1, cutoff=0.6)
    return f"; did you mean {tails[matches[0]]}?" if matches else ""


def continued(message: object, more: str) -> str:
    """Returns a message with one more part; no semicolon follows a question.

    >>> continued("no module mine", "it is in src"), continued("no module mne; did you mean mine?", "it is in src")
    ('no module mine; it is in src', 'no module mne; did you mean mine? it is in src')
    """
    return f"{message}{'' if str(message).endswith('?') else ';'} {more}"


def one_line(text: object) -> str:
    """Folds a message to one line.

    >>> one_line("a\\n  b")
    'a b'
    """
    return " ".join(str(text).split())


def cannot_write(error: OSError, path: Path | None = None) -> str:
    """Returns the message that the files of a run or a sweep cannot be written, and what would be right.

    Args:
        error: of writing.
        path: where, unless the error says it.
    """
    where = Path(error.filename) if error.filename else path
    place = f"{shown(where)}: " if where is not None else ""
    advice = "hydra.run.dir=DIR or (a sweep) hydra.sweep.dir=DIR puts it elsewhere"
    return f"{place}cannot be written ({error.strerror}); {advice}"


@contextmanager
def refuse_unwritable(folder: Path) -> Iterator[None]:
    """Turns an error of writing the first files of a run, or of a sweep, into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(cannot_write(error, folder)) from error


def reason(error: Exception) -> str:
    """Returns an error that ended a run in one line.

    >>> reason(OSError(28, "No space left on device", "a/last.pt")), reason(ValueError("no"))
    ('a/last.pt: No space left on device', 'ValueError: no')
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{shown(Path(error.filename))}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {one_line(error)}"
