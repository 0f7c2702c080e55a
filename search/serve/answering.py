"""Answers queries of many threads with one searcher, which is not thread-safe."""

from threading import Lock

from data.cache.features import TextFeatures
from search.answer import Answer, CaptionHit
from search.query.query import Query
from search.searcher import Searcher


class Answering:
    """One query at a time: each keeps every core busy."""

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self._captions: TextFeatures | None = None
        self._one_at_a_time = Lock()

    def answer(self, query: Query) -> Answer:
        """The answer to a query. Raises UserError."""
        with self._one_at_a_time:
            return next(self.searcher.search([query]))

    def captions(self, number: int) -> list[CaptionHit]:
        """The captions of the gallery that fit a video best. Raises UserError if there are none."""
        with self._one_at_a_time:
            if self._captions is None:
                self._captions = self.searcher.cached_captions()
            return self.searcher.captions(number, self._captions)
