"""Publishing a cache in a store: what is sent and removed, and what its readers see meanwhile."""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.sources import Source
from data.publish import PublishOptions, main
from data.store.manifest import MANIFEST, OBJECTS
from data.store.publishing import publish
from data.store.remote import Remote
from data.store.store import Store
from extract.plan.listing import prune
from tests.caches import rewritten
from tests.choice import long_but
from tests.shell import stage
from tests.stores import forget, part_of


@pytest.fixture
def own(cache: FeatureCache, tmp_path: Path) -> Path:
    """A cache of three videos."""
    made = rewritten(cache, tmp_path / "own", {f"video{i}": f"video{i}" for i in range(3)})
    add(made, cache, ["video0", "video1", "video2"])
    return made.path


def add(made: FeatureCache, cache: FeatureCache, listed: list[str]) -> None:
    """List these videos and their captions."""
    table = cache.table()
    made.write_table("demo", table[table["video_id"].isin(listed)].reset_index(drop=True))


def keys(address: str) -> set[str]:
    return {*Remote(address).sizes(OBJECTS)}


def test_only_what_is_new_is_sent_and_what_is_gone_is_removed(own: Path, cache: FeatureCache, address: str, blocks: Path) -> None:
    first = publish(own, address)
    assert (first.files, first.sent, first.removed) == (6, 6, 0)
    assert FeatureCache(address).names("videos") == FeatureCache(own).names("videos")
    assert publish(own, address) == replace(first, sent=0, bytes_sent=0)
    opened = FeatureCache(address)
    frames = opened.frames("video1").tobytes()
    # More videos: a part, and both tables and their checksums.
    rewritten(cache, own, {"video5": "video5", "video6": "video6"})
    add(FeatureCache(own), cache, ["video1", "video5", "video6"])
    more = publish(own, address)
    assert (more.files, more.sent, more.removed) == (7, 5, 4)
    grown = FeatureCache(address)
    assert sorted(grown.names("videos")) == ["video0", "video1", "video2", "video5", "video6"]
    assert grown.table().equals(FeatureCache(own).table())
    assert grown.frames("video5").tobytes() == cache.frames("video5").tobytes()
    # A reader that opened the cache before reads on, since its parts are still there.
    forget(opened, blocks)
    assert opened.frames("video1").tobytes() == frames
    prune(own)
    pruned = publish(own, address)
    assert pruned.removed >= 1
    assert sorted(FeatureCache(address).names("videos")) == ["video1", "video5", "video6"]
    assert keys(address) == {entry.key for entry in Store(address).manifest.files.values()}
    # Now they are gone, and no byte of the new ones is mixed with the old.
    forget(opened, blocks)
    with pytest.raises(UserError, match=r"was published anew since it was opened, or a file of it is gone .*: start again"):
        opened.frames("video1")


@pytest.mark.parametrize("stop_after", long_but([3], range(6)))
def test_what_was_stopped_goes_on(own: Path, cache: FeatureCache, address: str, monkeypatch: pytest.MonkeyPatch, stop_after: int) -> None:
    """Stopped at any file, it has changed nothing for readers; the next run sends the rest."""
    publish(own, address)
    before = Remote(address).whole(MANIFEST)
    rewritten(cache, own, {"video5": "video5", "video6": "video6"})
    add(FeatureCache(own), cache, ["video1", "video5", "video6"])
    put, done = Remote.put, list[str]()

    def stopping(self: Remote, key: str, content: Path | bytes) -> None:
        if len(done) == stop_after:
            raise KeyboardInterrupt
        put(self, key, content)
        done.append(key)

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "put", stopping)
        patch.setattr("data.store.publishing.UPLOADS", 1)
        with pytest.raises(KeyboardInterrupt):
            publish(own, address)
    assert Remote(address).whole(MANIFEST) == before
    assert sorted(FeatureCache(address).names("videos")) == ["video0", "video1", "video2"]
    assert publish(own, address).sent == 5 - stop_after
    assert len(FeatureCache(address).names("videos")) == 5
    assert keys(address) == {entry.key for entry in Store(address).manifest.files.values()}


def test_a_damaged_cache_is_not_published(own: Path, address: str) -> None:
    publish(own, address)
    part = own / part_of(FeatureCache(own))
    content = part.read_bytes()
    shutil.copy(part, own / "copy")
    (own / "copy").rename(own / f"videos-{'0' * 16}.h5")
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    damaged[100] = ord("0") if damaged[100] != ord("0") else ord("1")
    (own / f"videos-{'0' * 16}.h5").write_bytes(damaged)
    with pytest.raises(UserError, match=r"videos-0+\.h5 is damaged: run extract again, which repairs the cache, then publish it"):
        publish(own, address)


def test_a_manifest_that_is_damaged_is_named_and_replaced(own: Path, address: str) -> None:
    publish(own, address)
    content = Remote(address).whole(MANIFEST) or b""
    for wrong, said in (
        (content.replace(b'"size": ', b'"size": 1', 1), r"manifest\.json is damaged \(.*\): publish the cache again"),
        (content[:-9], r"manifest\.json is damaged"),
        (b"[]", r"manifest\.json is damaged"),
        (content.replace(b'"format": 1', b'"format": 2'), "was published in format 2, this program reads 1: publish it again"),
    ):
        Remote(address).put(MANIFEST, wrong)
        with pytest.raises(UserError, match=said):
            FeatureCache(address)
    assert publish(own, address).sent == 0
    FeatureCache(address)


def test_a_folder_can_be_the_store(own: Path, tmp_path: Path, blocks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands, from whichever folder the address is read."""
    address = f"file://{tmp_path}/store"
    assert main(PublishOptions(own, address, json=True, quiet=True)) == 0
    assert json.loads(capsys.readouterr().out)["sent"] == 6
    assert main(PublishOptions(own, address, quiet=True)) == 0
    assert capsys.readouterr().out == f"{address}: 6 files, 0 of them sent now (0.0 MiB)\n"
    assert FeatureCache(address).table().equals(FeatureCache(own).table())
    assert FeatureCache(Path(address)).listings.sources() == {"demo": Source("demo")}


@pytest.mark.long
def test_a_damaged_part_ends_a_command_with_one_line(own: Path, address: str) -> None:
    publish(own, address)
    remote = Remote(address)
    key = next(key for key in keys(address) if key.startswith("videos-") and key.endswith(".h5"))
    remote.put(f"{OBJECTS}/{key}", bytes(10) + (remote.whole(f"{OBJECTS}/{key}") or b"")[10:])
    done = stage("data.sources", address)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{address}/{OBJECTS}/{key} is damaged: upload it anew with python -m data.publish" in line


def test_a_prefix_is_no_pattern_and_holds_other_files_too(own: Path, tmp_path: Path, blocks: Path) -> None:
    """Publishing removes what was published, or left by a run that was stopped, and nothing else."""
    address = f"file://{tmp_path}/a store é[1]*"
    Remote(address).put(f"{OBJECTS}/somebody's.h5", b"precious")
    Remote(address).put(f"{OBJECTS}/videos-1.{'0' * 32}.h5.part", b"half")
    assert publish(own, address).removed == 1
    assert keys(address) == {"somebody's.h5", *(entry.key for entry in Store(address).manifest.files.values())}
    assert FeatureCache(address).table().equals(FeatureCache(own).table())


def test_a_disk_without_room_keeps_what_was_published(
    own: Path, cache: FeatureCache, tmp_path: Path, blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"file://{tmp_path}/store"
    publish(own, address)
    rewritten(cache, own, {"video5": "video5"})
    monkeypatch.setattr("data.store.remote.WAITS_S", ())
    for send in (lambda: publish(own, address), lambda: Remote(address).put(MANIFEST, bytes(9000))):
        with file_size_limit(2000), pytest.raises(UserError, match=r"store has no room \(.*\): make room there, then run again"):
            send()
        assert sorted(FeatureCache(address).names("videos")) == ["video0", "video1", "video2"]
    publish(own, address)
    assert len(FeatureCache(address).names("videos")) == 4


@contextmanager
def file_size_limit(most: int) -> Iterator[None]:
    """As on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
