"""Prefetch: threads produce items into a bounded queue, in no particular order."""

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
    """The consumer has left; raised in the threads to end them."""


class Prefetcher(Generic[Job, Item]):
    """Threads that turn jobs into items; iterate over the items. A job yields any number of them.

        with Prefetcher(paths, load, workers=4, depth=8, stop=lambda: None) as items:
            for item in items: ...

    The threads call `run(job, put)`, and `run` hands over each item with `put`, which blocks while `depth` items are queued. An exception
    in a thread is raised again by the iteration. At the end of the context `stop` is called, to unblock whatever the threads wait for, and
    the threads are joined. `waited_s` is the time in seconds that the consumer has waited for items.
    """

    def __init__(
        self, jobs: Iterable[Job], run: Callable[[Job, Callable[[Item], None]], None], workers: int, depth: int, stop: Callable[[], None]
    ) -> None:
        self.waited_s = 0.0
        self._jobs, self._run, self._stop = iter(jobs), run, stop
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._queue: Queue[Item | BaseException | None] = Queue(depth)
        self._threads = [threading.Thread(target=self._loop) for _ in range(workers)]

    def __enter__(self) -> Self:
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError:
            # Python calls no __exit__ for this, and the threads that did start would keep the program from ending.
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        self._stop()
        for thread in self._threads:
            if thread.ident is not None:  # it was started
                thread.join()

    def __iter__(self) -> Iterator[Item]:
        running = len(self._threads)
        while running:
            begin = time.perf_counter()
            item = self._queue.get()
            self.waited_s += time.perf_counter() - begin
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item

    def _loop(self) -> None:
        try:
            while not self._stopped.is_set():
                with self._lock:
                    job = next(self._jobs, None)
                if job is None:
                    break
                self._run(job, self._put)
            self._put(None)
        except _Stopped:
            pass
        except BaseException as error:  # raised again in the thread that iterates
            self._put_error(error)

    def _put(self, item: Item | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except Full:
                continue
        raise _Stopped

    def _put_error(self, error: BaseException) -> None:
        with suppress(_Stopped):
            self._put(error)
