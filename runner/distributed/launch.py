"""The processes that torchrun started, which join for one run."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..system.environment import launched_size
from .ranks import ALONE, Ranks


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Joins the processes that torchrun started while entered; yields their group, `ALONE` without torchrun.

    Args:
        device: the configuration's.

    Raises:
        UserError: there is no device for each of them.
    """
    if launched_size() == 1:
        yield ALONE
        return
    from .group import Group  # imports torch

    with Group.joined(device) as group:
        yield group
