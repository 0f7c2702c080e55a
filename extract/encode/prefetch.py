"""Todo done ahead by threads, in no order, and no further ahead than a queue is long."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import Full, Queue
from types import TracebackType
from typing import Generic, Self, TypeVar

Job = TypeVar("Job")
Item = TypeVar("Item")


class _Stopped(Exception):
    """Nobody wants what is being made."""


class Prefetcher(Generic[Job, Item]):
    """Threads that work on jobs from the moment they are there, each job giving any number of items. Iterate over the items.

    `work(job, give)` hands over an item by `give`, which waits where `depth` items are waiting already. What a thread raises is raised to
    who iterates. Use as a context manager: at its end `stop` is called, to end what the threads wait for, and they are joined. `waited_s`
    counts the seconds in which an item was wanted and none was there.
    """

    def __init__(
        self, jobs: Iterable[Job], work: Callable[[Job, Callable[[Item], None]], None], workers: int, depth: int, stop: Callable[[], None]
    ) -> None:
        self.waited_s = 0.0
        self._jobs, self._work, self._stop = iter(jobs), work, stop
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._queue: Queue[Item | BaseException | None] = Queue(depth)
        self._threads = [threading.Thread(target=self._run) for _ in range(workers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        self._stop()
        for thread in self._threads:
            thread.join()

    def __iter__(self) -> Iterator[Item]:
        at_work = len(self._threads)
        while at_work:
            begin = time.perf_counter()
            item = self._queue.get()
            self.waited_s += time.perf_counter() - begin
            if item is None:
                at_work -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                with self._lock:
                    job = next(self._jobs, None)
                if job is None:
                    break
                self._work(job, self._give)
            self._give(None)
        except _Stopped:
            pass
        except BaseException as error:  # it goes on in the thread that iterates
            self._give_error(error)

    def _give(self, item: Item | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except Full:
                continue
        raise _Stopped

    def _give_error(self, error: BaseException) -> None:
        with suppress(_Stopped):
            self._give(error)
