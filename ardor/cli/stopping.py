"""Signals that end training after a saved step: those by which a machine is taken back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ardor.engine import distributed

SIGNALS = ("SIGTERM", "SIGUSR1")
"""Of a preemption: SLURM's end of a job, and its `signal=USR1`. Ctrl-C stops at once."""


class Stop:
    """The first signal of `SIGNALS`, as `ardor.epochs` asks for it. number: the signal, 0 for none."""

    number = 0

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self.number > 0

    def stop_command(self) -> None:
        """Send the signal to this process, as another process received it at least; without one, return."""
        if number := int(distributed.largest(self.number)):
            signal.raise_signal(number)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Keep the first of the signals for the loop; the same one again ends the process at once."""
    stop, before = Stop(), {}

    def keep(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.number = number

    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
            if callable(signal.getsignal(number)):  # that of `main`, which stops the command at once
                before[number] = signal.signal(number, keep)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
