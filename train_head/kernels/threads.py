"""Threads for scoring on a CPU. Each thread does whole jobs."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from threading import Barrier, BrokenBarrierError
from typing import TypeVar

import numpy as np
import torch

Job = TypeVar("Job")
State = TypeVar("State")


def parallel(threads: int, work: Callable[[Job, State], object], jobs: Sequence[Job], prepare: Callable[[], State]) -> None:
    """Run `work(job, state)` for all jobs without gradients, on a pool of `threads` threads.

    Each thread makes one `state` with `prepare`, such as scratch memory. With a single thread, the calling thread does the work.
    """
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
    """Flush subnormal float32 numbers (below 1e-38) to zero in this thread, if the processor supports it.

    The method's softmaxes give weights of 1e-30 and less, and products of those are subnormal. Processors handle subnormals slowly: a
    training step took four times as long. The lost values are far below the rounding error of the sums they would join.
    """
    before = bool(np.float32(1e-39) * np.float32(1) == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """A pool that is kept between calls, because a new thread would allocate memory for its products anew.

    torch uses one thread inside each worker: several threads per product would wait for each other after every product.
    """
    started, before = Barrier(threads + 1), torch.get_num_threads()

    def initialise() -> None:
        torch.set_num_threads(1)
        # A thread takes torch's global setting at its first query. Query now, before the main thread restores the setting.
        torch.get_num_threads()
        with suppress(BrokenBarrierError):
            started.wait()

    pool = ThreadPoolExecutor(threads, "scoring", initialise)
    try:
        for _ in range(threads):
            pool.submit(int)
    except RuntimeError:
        # A thread could not start. Without this, those that did would wait for it, and the program could not end.
        started.abort()
        raise
    started.wait()
    torch.set_num_threads(before)
    return pool
