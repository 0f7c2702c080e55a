"""A cache in an object store: what is read of it, that it is what was published, and what a store that fails costs."""

import importlib
import json
import pickle
import shutil
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
from data.base.errors import UserError
from data.cache import FeatureCache, TextEntry
from data.exchange.importing import import_features
from data.exchange.options import ImportOptions
from data.merge import MergeOptions, merge
from data.publish import PublishOptions
from data.sources import SourcesOptions, print_sources
from data.store.publishing import publish
from data.store.remote import Remote
from data.store.store import Store
from data.verify import VerifyOptions, verify
from evaluate import EvaluateOptions
from extract import ExtractOptions
from extract import main as extract
from search.options import RetrievalOptions
from search.searcher import Searcher
from search.serve.answering import Answering
from search.serve.app import make_app
from tests.caches import BUDGET, QUERY
from tests.choice import long_but
from tests.stores import S3, damage, key_of, part_of

Request = tuple[str, int, int]
"""Key, and bytes start:stop of it."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.store.remote.WAITS_S", (0.02, 0.02, 0.02))


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[list[Request]]:
    """The ranges that are asked for, those that are asked for together in one list."""
    seen: list[list[Request]] = []
    ask = Remote.ranges

    def ranges(self: Remote, wanted: Sequence[Request]) -> list[bytes]:
        seen.append(list(wanted))
        return ask(self, wanted)

    monkeypatch.setattr(Remote, "ranges", ranges)
    return seen


@pytest.fixture(scope="module")
def index(cache_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the demo set's cache."""
    folder = tmp_path_factory.mktemp("index")
    Searcher(with_candidates(cache_path, folder))
    return folder


def with_candidates(cache: Path | str, index: Path) -> RetrievalOptions:
    return RetrievalOptions(Path(cache), "zero-shot:glccl", candidates=12, index=index, device="cpu", quiet=True)


@pytest.mark.parametrize(("merged", "all_videos"), long_but([(True, False)], product((False, True), repeat=2)))
def test_a_search_finds_in_a_store_what_it_finds_in_the_folder(
    address: str, cache_path: Path, index: Path, tmp_path: Path, merged: bool, all_videos: bool
) -> None:
    """With the same index, with all videos, and in a merged cache, whose features are in chunks."""
    source = cache_path
    if merged:
        source = tmp_path / "merged.h5"
        FeatureCache(cache_path).merge(source)
    publish(source, address)
    options = with_candidates(cache_path, index)
    if all_videos:
        options = replace(options, candidates=None, index=None)
    expected = list(Searcher(options).search([QUERY, "a ring"]))
    assert list(Searcher(replace(options, cache=Path(address))).search([QUERY, "a ring"])) == expected


def test_everything_that_is_cached_is_read_the_same(address: str, patches_cache_path: Path) -> None:
    publish(patches_cache_path, address)
    here, there = FeatureCache(patches_cache_path), FeatureCache(address)
    ids, texts = here.names("videos"), here.names("texts")
    assert (ids, texts) == (there.names("videos"), there.names("texts"))
    assert str(there.path) == address
    for budget in (0, BUDGET):
        expected, found = (cache.videos(ids, budget, max_frames=5, patches=True) for cache in (here, there))
        assert expected.patches is not None
        assert found.patches is not None
        assert torch.equal(found.frames.gather([3, 0, 7])[0], expected.frames.gather([3, 0, 7])[0])
        assert torch.equal(found.patches.gather([3, 0, 7])[0], expected.patches.gather([3, 0, 7])[0])
        assert all(map(np.array_equal, found.seconds, expected.seconds))
        assert torch.equal(there.texts(texts, budget).words.gather([0, 2])[0], here.texts(texts, budget).words.gather([0, 2])[0])
    assert there.images("thumbnails", ids[0]) == here.images("thumbnails", ids[0])
    assert there.decoder(ids[0]) == here.decoder(ids[0])
    assert pickle.loads(pickle.dumps(there)).frames(ids[5]).tobytes() == here.frames(ids[5]).tobytes()


def test_an_evaluation_measures_the_same(published: str, cache_path: Path, tmp_path: Path) -> None:
    measured = []
    for cache in (cache_path, published):
        options = EvaluateOptions(Path(cache), "zero-shot:mean", out=tmp_path / "out", device="cpu", report=False, quiet=True)
        evaluate.main(options)
        measured.append(json.loads((tmp_path / "out" / "metrics.json").read_text())["text_to_video"])
        shutil.rmtree(tmp_path / "out")
    assert measured[0] == measured[1]


def test_candidates_are_read_at_once_and_nothing_else(
    address: str, cache_path: Path, index: Path, small_blocks: int, requests: list[list[Request]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening reads no features; the query then asks once for those of its candidates, in whole blocks."""
    publish(cache_path, address)
    searcher = Searcher(replace(with_candidates(address, index), top=12))
    opened = sum(stop - start for asked in requests for _, start, stop in asked)
    assert opened < 0.2 * sum(entry.size for entry in Store(address).manifest.files.values())
    requests.clear()
    # Without the random texts that the answer is compared with, which have candidates of their own.
    monkeypatch.setattr("search.searcher.CHANCE_FLOPS", 0)
    (answer,) = searcher.search([QUERY])
    (asked,) = requests
    assert {key for key, _, _ in asked} == {key_of(address, part_of(searcher.cache))}
    places = searcher.cache.places("videos")
    of_candidates = sum(places[hit.video_id].stop - places[hit.video_id].start for hit in answer.hits) * 2 * searcher.cache.dimension
    read = sum(stop - start for _, start, stop in asked)
    assert of_candidates <= read <= of_candidates + 2 * small_blocks * len(answer.hits)
    requests.clear()
    assert list(searcher.search([QUERY])) == [answer]
    assert not requests


def test_a_damaged_part_is_named_and_mended(published: str, cache_path: Path, blocks: Path) -> None:
    cache = FeatureCache(cache_path)
    part = part_of(cache)
    place = cache.places("videos")[cache.names("videos")[0]]
    content, frames = (cache_path / part).read_bytes(), cache.frames(cache.names("videos")[0]).tobytes()
    assert place.start == 0
    damage(published, part, content.index(frames))
    shutil.rmtree(blocks, ignore_errors=True)

    def read() -> bytes:
        return FeatureCache(published).frames(cache.names("videos")[0]).tobytes()

    mend = rf"is damaged: upload it anew with python -m data\.publish --cache DIR --to {published} --check$"
    with pytest.raises(UserError, match=mend) as said:
        read()
    assert key_of(published, part) in str(said.value)
    assert publish(cache_path, published).sent == 0
    assert publish(cache_path, published, check=True).sent == 1
    assert read() == frames
    # A file that is cut short, and one that is gone.
    remote, key = Remote(published), key_of(published, part)
    remote.put(key, content[:5000])
    shutil.rmtree(blocks)
    with pytest.raises(UserError, match="is damaged"):
        read()
    remote.remove(key)
    with pytest.raises(UserError, match=r"a file of it is gone .*: start again; if that does not help, publish the cache again"):
        read()
    assert publish(cache_path, published).sent == 1
    assert read() == frames


def test_a_store_that_goes_away_fails_queries_and_not_the_server(
    address: str, cache_path: Path, index: Path, s3: S3, small_blocks: int
) -> None:
    publish(cache_path, address)
    searcher = Searcher(with_candidates(address, index))
    client = make_app(Answering(searcher), None, "run", "127.0.0.1").test_client()
    s3.stop()
    try:
        answer = client.get("/results?q=a+ring")
        assert answer.status_code == 503
        assert "cannot be reached" in answer.text
        with pytest.raises(UserError, match=r"s3://.* cannot be reached .*: check the network and the store, then run again"):
            FeatureCache(address)
    finally:
        s3.start()
    assert client.get("/results?q=a+ring").status_code == 200


def test_a_store_that_comes_back_is_not_noticed(
    address: str, cache_path: Path, s3: S3, small_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(cache_path, address)
    there = FeatureCache(address)
    s3.stop()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            s3.start()

    monkeypatch.setattr("time.sleep", wait)
    name = there.names("videos")[-1]
    assert there.frames(name).tobytes() == FeatureCache(cache_path).frames(name).tobytes()
    assert waits == [0.02, 0.02]


@pytest.mark.long
def test_a_store_that_hangs_is_given_up(s3: S3, blocks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request is one connection, which is never answered."""
    monkeypatch.setattr("data.store.remote.READ_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match="cannot be reached"):
            FeatureCache("s3://bucket/prefix")
        silent.settimeout(0.1)
        connections = 0
        with suppress(TimeoutError):
            while True:
                silent.accept()[0].close()
                connections += 1
    assert connections == 4


def test_what_writes_refuses_a_store(published: str, extract_options: ExtractOptions, tmp_path: Path) -> None:
    cache = Path(published)
    rows_TD = np.ones((3, FeatureCache(published).dimension), np.float32)
    for refused in (
        lambda: extract(replace(extract_options, cache=cache)),
        lambda: import_features(ImportOptions(cache=cache, frames=tmp_path)),
        lambda: merge(MergeOptions(cache, tmp_path / "merged.h5")),
        lambda: verify(VerifyOptions(cache)),
        lambda: print_sources(SourcesOptions(cache, drop="demo")),
        lambda: FeatureCache(published).write_texts([TextEntry("a text", rows_TD, rows_TD[0])]),
    ):
        with pytest.raises(UserError, match=r"s3://.* is in a store, and this needs the cache itself: name the folder that"):
            refused()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://no-bucket/prefix", "there is no published cache at s3://no-bucket/prefix: publish one with python -m data.publish"),
        ("s3://bucket/nothing", "there is no published cache at s3://bucket/nothing: publish one with python -m data.publish"),
        ("memory://nothing", "there is no published cache at memory://nothing: publish one with"),
        ("odd://nothing", r"odd://nothing is no address of a store \(.*\): name one such as s3://bucket/prefix"),
        ("reference://nothing", r"reference://nothing is no address of a store \(.*\): name one such as s3://bucket/prefix"),
        ("ftp://127.0.0.1/nothing", r"ftp://127\.0\.0\.1/nothing cannot be reached \(.*refused\): check the network"),
        ("gs://bucket", r"gs://bucket needs a package that is not installed \(.*gcsfs.*\): install the package"),
    ],
)
def test_addresses_without_a_cache(s3: S3, blocks: Path, address: str, said: str) -> None:
    for given in (address, Path(address)):
        with pytest.raises(UserError, match=f"^{said}"):
            FeatureCache(given)


def test_nobody_publishes_to_a_bucket_that_is_not_there(s3: S3, cache_path: Path) -> None:
    with pytest.raises(UserError, match=r"s3://no-bucket/prefix is not there .*: make the bucket or folder first"):
        publish(cache_path, "s3://no-bucket/prefix")


def test_publishing_needs_a_folder_and_an_address(cache_path: Path, published: str) -> None:
    from data.publish import main

    with pytest.raises(UserError, match="--to runs/store must be the address of a store, such as s3://bucket/prefix"):
        main(PublishOptions(cache_path, "runs/store"))
    for nowhere in ("s3://", "file:///"):
        with pytest.raises(UserError, match=f"--to {nowhere} must be the address of a store"):
            main(PublishOptions(cache_path, nowhere))
    with pytest.raises(UserError, match="--to memory://name would end with this command: name a store such as"):
        main(PublishOptions(cache_path, "memory://name"))
    with pytest.raises(UserError, match=r"--cache s3://.* is in a store"):
        main(PublishOptions(Path(published), "s3://bucket/other"))


def test_the_missing_package_is_named(blocks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As where it was never imported.
    monkeypatch.delitem(vars(importlib.import_module("fsspec.registry"))["_registry"], "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"needs a package that is not installed .*: pip install -r requirements-s3\.txt$"):
        FeatureCache("s3://bucket/prefix")
