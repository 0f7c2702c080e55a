"""Threads for the CPU's share of scoring, each doing whole jobs alone."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Barrier
from typing import TypeVar

import numpy as np
import torch

Job = TypeVar("Job")
State = TypeVar("State")


def parallel(threads: int, work: Callable[[Job, State], object], jobs: Sequence[Job], prepare: Callable[[], State]) -> None:
    """Do all jobs, without gradients, on so many threads; each has memory of its own from `prepare`. One is the calling thread itself."""
    waiting = iter(jobs)

    @torch.no_grad()
    @without_subnormals()
    def worker() -> None:
        state = prepare()
        for job in waiting:
            work(job, state)

    if threads == 1:
        worker()
        return
    for done in [_pool(threads).submit(worker) for _ in range(min(threads, len(jobs)))]:
        done.result()


@contextmanager
def without_subnormals() -> Iterator[None]:
    """Let this thread take numbers below 1e-38 for zero, where the processor can.

    The softmaxes of the method leave weights of 1e-30 and less, whose products are such numbers. Processors treat each of them apart, and
    a step of training took four times as long. What they would add is far below the rounding of what they are added to.
    """
    before = bool(np.float32(1e-39) * np.float32(1) == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: a new one would first fetch memory for its products again, at every call.

    Each multiplies alone: threads within a product would wait for each other between the products.
    """
    started, before = Barrier(threads + 1), torch.get_num_threads()

    def initialise() -> None:
        torch.set_num_threads(1)
        # torch gives a thread the number set last by any thread when it first asks: now, before the main thread sets its own again.
        torch.get_num_threads()
        started.wait()

    pool = ThreadPoolExecutor(threads, "scoring", initialise)
    for _ in range(threads):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(before)
    return pool
