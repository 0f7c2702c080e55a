"""Processes of Python that this program starts, and that end quietly with it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess

from data.base.interrupts import interrupt_on


def start(process: SpawnProcess) -> None:
    """Start a process that Control-C, which reaches every process of the terminal, does not interrupt: this program ends it."""
    # A spawned process inherits this thread's mask. The first one is preceded by Python's resource tracker, whose start clears the mask.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def until_terminated() -> Iterator[None]:
    """For the work of such a process: SIGTERM interrupts it, and the process ends without a traceback."""
    interrupt_on(signal.SIGTERM)
    with suppress(KeyboardInterrupt):
        try:
            yield
        finally:
            # From here on the process only ends, where Python waits for threads and would report an interrupt.
            for late in (signal.SIGTERM, signal.SIGALRM):
                signal.signal(late, signal.SIG_IGN)


def ignore_interrupts() -> None:
    """For the processes of a pool, as its `initializer`: this program handles Control-C and ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
