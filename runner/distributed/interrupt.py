"""Signals that come to one process of a run, or to all, at different moments: the run stops at one step."""

import signal

import torch

from ..system.interrupt import Interrupt, stop_signals
from .ranks import Ranks


class AgreedInterrupt(Interrupt):
    """An interrupt of all processes: `signal` is another after `agree` only, and then the same in all of them.

    Args:
        interrupt: of this process, entered.
        ranks: the processes.
    """

    def __init__(self, interrupt: Interrupt, ranks: Ranks):
        self._interrupt, self._ranks = interrupt, ranks
        super().__init__()
        self._signals = sorted({signal.SIGINT, signal.SIGTERM, *stop_signals()})

    @property
    def patient(self) -> bool:
        """Whether who entered looks at `signal` by itself."""
        return self._interrupt.patient

    @patient.setter
    def patient(self, value: bool) -> None:
        self._interrupt.patient = value

    def agree(self) -> None:
        """Takes a signal that any process has had; called by all processes, in one order."""
        flags = torch.tensor([float(number == self._interrupt.signal) for number in self._signals])
        self._ranks.sum_([flags])
        self.signal = self.signal or next(
            (int(n) for n, flag in zip(self._signals, flags.tolist(), strict=True) if flag), 0
        )
