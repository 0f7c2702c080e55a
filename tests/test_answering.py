"""Many queries at once: what waits is answered together, and nobody spoils or blocks the answers of others."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event

import flask
import numpy as np
import pytest
import torch
from PIL import Image

from data.base.errors import Unavailable, UserError
from data.cache import FeatureCache
from search.answer import Answer
from search.query.query import Picture, Query, Shown
from search.retrieval.queries import QueryEncoder
from search.searcher import QUERIES_AT_ONCE, Searcher
from search.serve import ServeOptions
from search.serve.answering import Answering
from search.serve.app import make_app
from tests.waiting import wait_until

COLOURS = ("red", "blue", "green", "white", "yellow")
QUERIES = [Query(f"a {colour} {shape}") for colour in COLOURS for shape in ("cross", "star", "heart")]


class Observed(Searcher):
    """A searcher that waits until it is let go, and notes the queries that it is given."""

    def __init__(self, options: ServeOptions) -> None:
        super().__init__(options)
        self.go, self.entered, self.closed = Event(), Event(), False
        self.batches: list[list[str]] = []

    def search(self, queries: Sequence[str | Query], in_batches: bool = False) -> Iterator[Answer]:
        self.entered.set()
        assert self.go.wait(60)
        assert not self.closed
        self.batches.append([str(query) for query in queries])
        for query in queries:
            if "unlucky" in str(query):
                raise UserError("a query that fails: leave it out")
            if "broken" in str(query):
                raise RuntimeError("a defect")
            if "store" in str(query):
                raise Unavailable("the store does not answer: try again later")
        yield from super().search(queries, in_batches)

    def close(self) -> None:
        self.closed = True
        super().close()


@pytest.fixture(scope="module")
def options(cache_path: Path) -> ServeOptions:
    return ServeOptions(cache=cache_path, run="zero-shot:glccl", device="cpu", quiet=True, top=3)


@pytest.fixture
def searcher(options: ServeOptions) -> Iterator[Observed]:
    made = Observed(options)
    yield made
    made.go.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as made:
        yield made


def at_least(answers: Answering, count: int) -> bool:
    return answers.waiting >= count


def answer_of(answers: Answering, query: Query) -> Answer:
    return answers.answer(query)[0]


def ask(answers: Answering, pool: ThreadPoolExecutor, queries: Sequence[Query]) -> list["Future[Answer]"]:
    """Ask one query after another, each in a thread of its own; return when all of them wait, the first at the searcher."""
    asked = []
    for i, query in enumerate(queries):
        asked.append(pool.submit(answer_of, answers, query))
        wait_until(partial(at_least, answers, i), "the requests are in the queue")
        if i == 0:
            searcher = answers.searcher
            assert isinstance(searcher, Observed)
            assert searcher.entered.wait(60)
    return asked


def shown(answer: Answer) -> list[tuple[str, float]]:
    return [(hit.video_id, hit.score) for hit in answer.hits]


def test_queries_that_wait_are_scored_together_and_answered_as_alone(searcher: Observed, pool: ThreadPoolExecutor) -> None:
    with Answering(searcher) as answers:
        found = ask(answers, pool, [*QUERIES, *QUERIES])
        searcher.go.set()
        together = [one.result() for one in found]
        assert [len(batch) for batch in searcher.batches] == [1, QUERIES_AT_ONCE, 2 * len(QUERIES) - 1 - QUERIES_AT_ONCE]
        assert searcher.batches[1] == [query.text for query in [*QUERIES, *QUERIES][1 : 1 + QUERIES_AT_ONCE]]
        for query, answer in zip([*QUERIES, *QUERIES], together, strict=True):
            assert answer.asked is query
            alone = answer_of(answers, query)
            assert [name for name, _ in shown(answer)] == [name for name, _ in shown(alone)]
            assert [score for _, score in shown(answer)] == pytest.approx([score for _, score in shown(alone)], rel=2**-9)


def test_each_query_is_shown_as_it_asked(searcher: Observed, pool: ThreadPoolExecutor) -> None:
    asked = [Query("a red cross", shown=Shown(top=top)) for top in (1, 2, 4)]
    with Answering(searcher) as answers:
        found = ask(answers, pool, asked)
        searcher.go.set()
        assert [len(one.result().hits) for one in found] == [1, 2, 4]


@pytest.mark.parametrize(("word", "error"), [("unlucky", UserError), ("broken", RuntimeError)])
def test_a_query_that_fails_does_not_spoil_its_neighbours(
    searcher: Observed, pool: ThreadPoolExecutor, word: str, error: type[Exception]
) -> None:
    queries = [*QUERIES[:4], Query(f"an {word} star"), *QUERIES[4:9]]
    with Answering(searcher) as answers:
        found = ask(answers, pool, queries)
        searcher.go.set()
        for query, one in zip(queries, found, strict=True):
            if word in query.text:
                with pytest.raises(error):
                    one.result()
            else:
                assert one.result().query == query.text
        assert answer_of(answers, QUERIES[0]).hits


def test_a_store_that_does_not_answer_is_asked_once_for_the_whole_batch(searcher: Observed, pool: ThreadPoolExecutor) -> None:
    with Answering(searcher) as answers:
        found = ask(answers, pool, [QUERIES[0], *QUERIES[:3], Query("a store")])
        searcher.go.set()
        assert found[0].result().hits
        for one in found[1:]:
            with pytest.raises(Unavailable, match="the store does not answer"):
                one.result()
        assert len(searcher.batches) == 2


def test_a_full_queue_refuses_and_goes_on(searcher: Observed, pool: ThreadPoolExecutor) -> None:
    with Answering(searcher, queue=3) as answers:
        found = ask(answers, pool, QUERIES[:4])
        with pytest.raises(Unavailable, match="3 requests are waiting already: try again in a few seconds"):
            answers.answer(QUERIES[4])
        searcher.go.set()
        assert [one.result().query for one in found] == [query.text for query in QUERIES[:4]]
        assert answer_of(answers, QUERIES[4]).hits
        assert answers.waiting == 0


def test_who_is_gone_or_waited_too_long_costs_no_work(
    searcher: Observed, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_as_client(query: Query) -> Answer:
        with flask.Flask("a client that leaves").test_request_context(environ_base={"waitress.client_disconnected": lambda: True}):
            return answer_of(answers, query)

    with Answering(searcher) as answers:
        ask(answers, pool, QUERIES[:1])
        left = pool.submit(ask_as_client, QUERIES[1])
        wait_until(lambda: answers.waiting >= 1, "1 requests in the queue")
        searcher.go.set()
        with pytest.raises(Unavailable):
            left.result()
        assert searcher.batches == [[QUERIES[0].text]]

        searcher.go.clear()
        searcher.entered.clear()
        first, late = ask(answers, pool, QUERIES[2:4])
        monkeypatch.setattr("search.serve.answering.LONGEST_WAIT_S", -1)
        searcher.go.set()
        assert first.result().hits
        with pytest.raises(Unavailable, match="too busy to answer now: try again"):
            late.result()
        assert searcher.batches[1:] == [[QUERIES[2].text]]


def test_captions_wait_in_the_same_queue(searcher: Observed, pool: ThreadPoolExecutor) -> None:
    with Answering(searcher) as answers:
        found = ask(answers, pool, QUERIES[:3])
        captions = pool.submit(answers.captions, searcher.gallery.ids[4])
        wait_until(lambda: answers.waiting >= 3, "3 requests in the queue")
        after = pool.submit(answer_of, answers, QUERIES[3])
        searcher.go.set()
        assert [hit.caption for hit in captions.result()] == [hit.caption for hit in searcher.captions(4, searcher.cached_captions())]
        assert [one.result().query for one in [*found, after]] == [query.text for query in QUERIES[:4]]


def test_another_searcher_takes_over_between_batches(searcher: Observed, options: ServeOptions, pool: ThreadPoolExecutor) -> None:
    with Answering(searcher) as answers:
        found = ask(answers, pool, QUERIES[:2])
        follower = Observed(options)
        follower.go.set()
        replaced = pool.submit(answers.replace, follower)
        assert not replaced.done()
        assert answers.searcher is searcher
        searcher.go.set()
        replaced.result()
        assert answers.searcher is follower
        assert searcher.closed
        assert [one.result().query for one in found] == [query.text for query in QUERIES[:2]]
        assert searcher.batches[0] == [QUERIES[0].text]
        assert answers.captions(follower.gallery.ids[0]) == follower.captions(0, follower.cached_captions())
        assert answers.answer(QUERIES[2])[1] is follower
        assert follower.batches[-1] == [QUERIES[2].text]
    assert follower.closed


def test_queries_of_every_usual_length_are_asked_while_nobody_waits(
    searcher: Observed, options: ServeOptions, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.serve.answering.USUAL_WORDS", (2, 5))

    def wait_for_lengths(of: Searcher) -> None:
        wait_until(lambda: expected <= of._chance._levels.keys(), f"lengths {expected}")

    expected = {words + searcher.encoder.tokenizer.empty_length for words in (2, 5)}
    with Answering(searcher) as answers:
        answers.prepare()
        assert searcher.entered.wait(60)
        waits = pool.submit(answer_of, answers, QUERIES[0])
        wait_until(lambda: answers.waiting >= 1, "1 requests in the queue")
        searcher.go.set()
        assert waits.result().hits
        assert searcher.batches[1] == [QUERIES[0].text]
        wait_for_lengths(searcher)
        follower = Observed(options)
        follower.go.set()
        answers.replace(follower)
        wait_for_lengths(follower)


def test_a_server_that_stops_refuses_what_waits(searcher: Observed, pool: ThreadPoolExecutor) -> None:
    answers = Answering(searcher)
    first, waits = ask(answers, pool, QUERIES[:2])
    stopping = pool.submit(answers.close)
    wait_until(lambda: answers._closed, "the server begins to stop")
    searcher.go.set()
    stopping.result()
    assert first.result().hits
    with pytest.raises(Unavailable, match="the server is stopping"):
        waits.result()
    with pytest.raises(Unavailable, match="the server is stopping"):
        answers.answer(QUERIES[0])


def test_texts_encoded_together_are_those_encoded_alone(options: ServeOptions) -> None:
    """Texts of every length, so that some share a batch and are padded, against the encoder's own, one at a time."""
    encoder = QueryEncoder(FeatureCache(options.cache), None, None, torch.device("cpu"), None)
    texts = [encoder.tokenizer.random_words(words, seed) for words in (1, 2, 3, 5, 8, 13, 25, 60) for seed in range(3)]
    together, alone = encoder.encode_together(texts[::-1]), encoder.encode(texts[::-1])
    assert together.texts == texts[::-1]
    for found, expected in ((together.words, alone.words), (together.sentences, alone.sentences)):
        (found_RD, found_N), (expected_RD, expected_N) = (ragged.gather(range(len(texts))) for ragged in (found, expected))
        assert found_N.tolist() == expected_N.tolist()
        # Float32 may round either way to one of two neighbours in float16.
        torch.testing.assert_close(found_RD.float(), expected_RD.float(), rtol=2**-10, atol=2**-14)


@pytest.mark.parametrize("size", [(300, 200), (57, 400), (16, 16), (1, 1)])
def test_a_picture_waits_in_the_size_that_clip_sees(options: ServeOptions, size: tuple[int, int]) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    searcher = Searcher(options)
    query = Query(picture=Picture("noise.png", noise))
    expected = next(searcher.search([query]))
    assert query.picture is not None
    small = searcher.encoder.shrunk(query.picture)
    assert max(small.image.size) <= 64
    np.testing.assert_array_equal(searcher.encoder.encode_picture(small), searcher.encoder.encode_picture(query.picture))
    with Answering(searcher) as answers:
        assert shown(answer_of(answers, query)) == shown(expected)


def test_an_answer_of_a_new_gallery_is_shown_with_the_new_gallery(
    searcher: Observed, page_options: ServeOptions, pool: ThreadPoolExecutor
) -> None:
    """A query that waits while the galleries change may find videos that the earlier one does not have."""
    follower = Observed(page_options)
    follower.go.set()
    with Answering(searcher) as answers:
        client = make_app(answers, None, "run", "127.0.0.1").test_client()
        ask(answers, pool, QUERIES[:1])
        asked = [pool.submit(client.get, path) for path in ("/results?q=a+cross", "/api/search?q=a+cross")]
        wait_until(partial(at_least, answers, 2), "two requests in the queue")
        gone = pool.submit(client.get, f"/results?captions={searcher.gallery.ids[0]}")
        wait_until(partial(at_least, answers, 3), "three requests in the queue")
        replaced = pool.submit(answers.replace, follower)
        wait_until(lambda: answers._next is not None, "another searcher")
        searcher.go.set()
        replaced.result()
        page, record = [one.result() for one in asked]
        assert (page.status_code, record.status_code) == (200, 200)
        assert page.text.count("/thumbnail/two/") > 1
        assert record.get_json()["gallery"] == len(follower.gallery.ids)
        assert "gallery has no video" in gone.result().text
