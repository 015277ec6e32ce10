"""What several tests share."""

import random
import socket
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def free_port() -> int:
    """Returns the number of a TCP port that nobody listens at.

    It is drawn below those that systems give to connections: one of these may be taken before somebody listens.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("", port))
            return port
