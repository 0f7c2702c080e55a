"""Answers the queries of many threads with one searcher: those that wait are answered together."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Condition, Thread
from time import monotonic
from typing import Any

import flask

from data.base.errors import Unavailable, UserError
from data.cache.features import TextFeatures
from search.answer import Answer, CaptionHit
from search.query.query import Query
from search.searcher import Searcher
from search.serve.options import ServeOptions

LONGEST_WAIT_S = 30.0
"""A request that has waited for longer is dropped: whoever asked has given up or asked again."""

USUAL_WORDS = range(1, 15)
"""Words of the queries that people type."""


@dataclass(frozen=True, eq=False)
class _Request:
    """What one thread waits for: the answer to a query, or the captions of the video of this id."""

    asked: Query | str
    gone: Callable[[], bool]
    """Whether the client has closed its connection."""
    since: float = field(default_factory=monotonic)
    answer: "Future[Any]" = field(default_factory=Future)


class Answering:
    """A queue in front of a searcher, which is not thread-safe, and the thread that empties it.

    The thread takes all queries that wait, up to `at_once`, and scores them in one pass over the gallery on all cores. It is always the
    same thread, so that torch keeps one team of threads and one set of buffers, however many requests there are.
    """

    def __init__(self, searcher: Searcher, queue: int = ServeOptions.queue, at_once: int = ServeOptions.queries_at_once) -> None:
        """Start the thread. The searcher is closed with this object. `queue`: the number of requests that may wait while others are
        answered."""
        self._searcher, self._queue, self._at_once = searcher, queue, at_once
        self._replaced = 0
        self._captions: TextFeatures | None = None
        self._requests: deque[_Request] = deque()
        self._changed = Condition()
        self._closed = False
        self._next: Searcher | None = None
        self._prepares = False
        self._lengths: deque[int] = deque()
        self._thread = Thread(target=self._run, name="answering", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Answering":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def searcher(self) -> Searcher:
        """The current searcher. Another thread may call only what does not compute: ids, thumbnails and the like."""
        return self._searcher

    @property
    def replaced(self) -> int:
        """How often another searcher has taken over."""
        return self._replaced

    @property
    def waiting(self) -> int:
        """The number of requests in the queue."""
        return len(self._requests)

    def answer(self, query: Query) -> tuple[Answer, Searcher]:
        """The answer to a query, and the searcher that gave it, which may have taken over while the query waited. Raises UserError, and
        Unavailable if too many requests wait, or if this one waited for too long."""
        if query.picture is not None:
            # The whole picture may have 240 MB, and many may wait.
            query = replace(query, picture=self._searcher.encoder.shrunk(query.picture))
        found: tuple[Answer, Searcher] = self._enqueue(query).result()
        return found

    def captions(self, video_id: str) -> list[CaptionHit]:
        """The captions of the gallery that fit a video best. Raises UserError if there are none or no such video, and Unavailable like
        `answer`."""
        found: list[CaptionHit] = self._enqueue(video_id).result()
        return found

    def prepare(self) -> None:
        """Ask this searcher, and any later one, a query of every usual length while nobody waits: the first of a length is compared with
        random words (see `search.retrieval.chance`), which takes several times as long as the next."""
        with self._changed:
            self._prepares = True
            self._lengths.extend(USUAL_WORDS)
            self._changed.notify_all()

    def replace(self, searcher: Searcher) -> None:
        """Answer everything that waits, and all later requests, with another searcher. Returns when the old one is closed. Only one thread
        may call this."""
        with self._changed:
            if self._closed:
                searcher.close()
                return
            assert self._next is None
            self._next = searcher
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._next is None)

    def close(self) -> None:
        """End the thread, and close the searcher. What still waits is refused."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._searcher.close()

    def _enqueue(self, asked: Query | str) -> "Future[Any]":
        request = _Request(asked, _gone())
        with self._changed:
            if self._closed:
                raise Unavailable("the server is stopping: ask again when it has started")
            if len(self._requests) >= self._queue:
                raise Unavailable(f"{self._queue:,} requests are waiting already: try again in a few seconds")
            self._requests.append(request)
            self._changed.notify_all()
        return request.answer

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._requests or self._lengths or self._next is not None or self._closed)
                if self._next is not None:
                    self._take_over(self._next)
                if self._closed:
                    break
                batch = self._next_batch()
            if batch:
                self._compute(batch)
            elif self._lengths:
                self._ask_random_words(self._lengths.popleft())
        for request in self._requests:
            request.answer.set_exception(Unavailable("the server is stopping: ask again when it has started"))

    def _take_over(self, searcher: Searcher) -> None:
        self._searcher.close()
        self._searcher, self._next, self._captions = searcher, None, None
        self._replaced += 1
        self._lengths = deque(USUAL_WORDS if self._prepares else ())
        self._changed.notify_all()

    def _ask_random_words(self, length: int) -> None:
        # Who asks later is told what is wrong.
        with suppress(UserError):
            list(self._searcher.search([self._searcher.encoder.tokenizer.random_words(length, seed=0)]))

    def _next_batch(self) -> list[_Request]:
        """The first request that waits, and if it is a query, all queries next to it."""
        batch: list[_Request] = []
        while self._requests and len(batch) < self._at_once:
            alone = isinstance(self._requests[0].asked, str)
            if alone and batch:
                break
            request = self._requests.popleft()
            if request.gone() or monotonic() - request.since > LONGEST_WAIT_S:
                request.answer.set_exception(Unavailable("the server is too busy to answer now: try again in a minute"))
                continue
            batch.append(request)
            if alone:
                break
        return batch

    def _compute(self, batch: Sequence[_Request]) -> None:
        queries = [request.asked for request in batch if isinstance(request.asked, Query)]
        try:
            if queries:
                for request, answer in zip(batch, list(self._searcher.search(queries, in_batches=True)), strict=True):
                    request.answer.set_result((answer, self._searcher))
            else:
                (request,) = batch
                request.answer.set_result(self._captions_of(request.asked))
        except Exception as error:
            # A store that does not answer one query does not answer its neighbours either, each after a wait of its own.
            if len(batch) == 1 or isinstance(error, Unavailable):
                for request in batch:
                    request.answer.set_exception(error)
                return
            # Find the query at fault in halves, so that its neighbours get their answers.
            self._compute(batch[: len(batch) // 2])
            self._compute(batch[len(batch) // 2 :])

    def _captions_of(self, video_id: object) -> list[CaptionHit]:
        assert isinstance(video_id, str)
        number = self._searcher.number(video_id)
        if self._captions is None:
            self._captions = self._searcher.cached_captions()
        return self._searcher.captions(number, self._captions)


def _gone() -> Callable[[], bool]:
    """A function that says whether the client of the current HTTP request has closed its connection."""
    found: Callable[[], bool] | None = flask.request.environ.get("waitress.client_disconnected") if flask.has_request_context() else None
    return found or (lambda: False)
