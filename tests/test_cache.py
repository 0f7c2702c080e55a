"""The cache as a file format: what is written comes back, and what does not fit is refused."""

import pickle
import subprocess
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.base.errors import UserError
from data.base.provenance import installed, packages, provenance
from data.cache import CLIP_FILE, ClipParts, FeatureCache, TextEntry, VideoEntry
from data.cache.hdf5 import read_arrays, write_arrays
from data.cache.listings import Listing, Listings
from data.cache.sources import Source
from data.exchange.options import ExportOptions
from data.sampling import choose_frames
from data.span import Span

SETTINGS: dict[str, Any] = {"weights": "w" * 64, "dimension": 8, "max_words": 16, "dtype": "float16"}
PARTS = ClipParts(
    {"positional_embedding": np.ones((5, 8), np.float32), "blocks.0.ln_1.weight": np.arange(8, dtype=np.float32)}, 14.5, 2, "GELU"
)
EVERYTHING = 10**9


def new_cache(path: Path, **changes: Any) -> FeatureCache:
    return FeatureCache.create(path, SETTINGS | changes, PARTS, {"made by": "a test"})


def video(rng: np.random.Generator, name: str, frames: int) -> VideoEntry:
    return VideoEntry(name, rng.normal(size=(frames, 8)).astype(np.float32), np.arange(frames, dtype=float), 10, 20)


def text(rng: np.random.Generator, words: str, tokens: int) -> TextEntry:
    return TextEntry(words, rng.normal(size=(tokens, 8)).astype(np.float32), rng.normal(size=8).astype(np.float32))


@pytest.mark.parametrize("budget", [EVERYTHING, 0])
def test_features_come_back_in_the_order_asked_for(tmp_path: Path, budget: int) -> None:
    """From several parts, from memory and from disk alike."""
    rng = np.random.default_rng(0)
    cache = new_cache(tmp_path)
    videos = [video(rng, f"v{i}", frames) for i, frames in enumerate([3, 1, 7, 2])]
    texts = [text(rng, f"words, \n'{i}' é", tokens) for i, tokens in enumerate([2, 9, 4])]
    cache.write_videos(videos[:2])
    cache.write_videos(videos[2:])
    cache.write_texts(texts)
    cache = FeatureCache(tmp_path)
    order = [2, 0, 3]
    read = cache.videos([f"v{i}" for i in order], budget)
    frames, lengths = read.frames.gather([0, 1, 2])
    assert lengths.tolist() == [7, 3, 2]
    for row, (i, found) in enumerate(zip(order, frames.split([7, 3, 2]), strict=True)):
        np.testing.assert_array_equal(found, videos[i].frames_TD.astype(np.float16))
        np.testing.assert_array_equal(read.seconds[row], videos[i].seconds_T)
    read_texts = cache.texts([texts[1].text, texts[0].text], budget)
    words, lengths = read_texts.words.gather([1, 0])
    assert lengths.tolist() == [2, 9]
    np.testing.assert_array_equal(words[2:], texts[1].words_TD.astype(np.float16))
    np.testing.assert_array_equal(read_texts.sentences.gather([0])[0][0], texts[1].sentence_D.astype(np.float16))


@pytest.mark.parametrize("budget", [EVERYTHING, 0])
def test_frames_are_thinned_by_the_rule_of_extraction(tmp_path: Path, budget: int) -> None:
    cache = new_cache(tmp_path)
    entry = video(np.random.default_rng(0), "v", 10)
    cache.write_videos([entry])
    thinned = cache.videos(["v"], budget, max_frames=4)
    expected = np.linspace(0, 9, num=4).astype(int)
    np.testing.assert_array_equal(thinned.frames.gather([0])[0], entry.frames_TD[expected].astype(np.float16))
    assert thinned.seconds[0].tolist() == expected.tolist()


@given(available=st.integers(1, 200), max_frames=st.integers(1, 100))
@settings(deadline=None)
def test_chosen_frames_are_spread_over_the_video(available: int, max_frames: int) -> None:
    chosen = choose_frames(available, max_frames)
    assert len(chosen) == min(available, max_frames)
    assert len(set(chosen.tolist())) == len(chosen)
    assert chosen[0] == 0
    assert chosen[-1] == (available - 1 if max_frames > 1 or available == 1 else 0)


def test_clip_parts_come_back(tmp_path: Path) -> None:
    parts = new_cache(tmp_path).clip_parts()
    assert (parts.logit_scale, parts.heads, parts.activation) == (14.5, 2, "GELU")
    assert parts.tensors.keys() == PARTS.tensors.keys()
    for name, value in PARTS.tensors.items():
        np.testing.assert_array_equal(parts.tensors[name], value)


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    new_cache(tmp_path)
    with pytest.raises(UserError, match="max_words is 16 there and 32 here") as refusal:
        new_cache(tmp_path, max_words=32)
    assert "\n" not in str(refusal.value)


def test_tables_are_no_part_of_the_identity(tmp_path: Path) -> None:
    cache = new_cache(tmp_path)
    frame = pd.DataFrame({"video_id": ["a"], "caption": ['NA, "quoted"\n'], "split": ["test"]})
    cache.write_table("one", frame)
    assert cache.table().equals(frame)
    cache.write_table("two", frame.assign(split="val"))
    with pytest.raises(UserError, match=r"--preset one\|two"):
        cache.table()
    assert cache.table("two")["split"].tolist() == ["val"]
    with pytest.raises(UserError, match="no captions for preset three"):
        cache.table("three")
    videos = cache.listings.videos("one")
    assert videos[["video_id", "split", "file"]].to_dict("records") == [{"video_id": "a", "split": "test", "file": "a"}]
    assert videos[["start", "end"]].isna().all(axis=None)
    with pytest.raises(UserError, match=r"videos-three\.parquet is missing: run extract again"):
        cache.listings.videos("three")
    assert FeatureCache(tmp_path).digest == cache.digest


def test_a_part_of_another_cache_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    new_cache(tmp_path / "a").write_videos([video(rng, "v", 2)])
    new_cache(tmp_path / "b", max_words=9)
    part = next((tmp_path / "a").glob("videos-*"))
    part.rename(tmp_path / "b" / part.name)
    with pytest.raises(UserError, match="other settings"):
        FeatureCache(tmp_path / "b")


def test_an_entry_is_current_as_long_as_what_it_was_made_from(tmp_path: Path) -> None:
    """In a folder and in a merged file."""
    rng = np.random.default_rng(0)
    cache = new_cache(tmp_path / "cache")
    part = replace(video(rng, "part", 3), span=Span(2.5, 5.0), pixels=[b"1", b"22", b"333"])
    cache.write_videos([video(rng, "whole", 2), part])
    cache.merge(tmp_path / "out.h5")
    for found in (cache, FeatureCache(tmp_path / "cache"), FeatureCache(tmp_path / "out.h5")):
        assert found.is_current("whole", 10, 20)
        assert found.is_current("part", 10, 20, Span(2.5, 5.0))
        assert not any(found.is_current("part", 10, 20, span) for span in [Span(0, 5), Span(2.5, 4), Span(2.5), Span()])
        assert not found.is_current("part", 10, 21, Span(2.5, 5.0))
        assert not found.is_current("other", 10, 20)
        assert [found.images_of(name) for name in ("whole", "part", "other")] == [set(), {"pixels"}, set()]
        assert found.images("pixels", "part") == part.pixels
        assert found.images("pixels", "whole") == found.images("thumbnails", "part") == []


def test_features_too_large_for_the_format_are_refused(tmp_path: Path) -> None:
    entry = video(np.random.default_rng(0), "v", 2)
    huge = replace(entry, frames_TD=entry.frames_TD * 1e6)
    with np.errstate(over="ignore"), pytest.raises(UserError, match="--dtype float32"):
        new_cache(tmp_path / "half").write_videos([huge])
    cache = new_cache(tmp_path / "full", dtype="float32")
    cache.write_videos([huge])
    assert ("videos", "v") in cache


@pytest.mark.parametrize("damage", ["no folder", "no cache", "cut file"])
def test_what_is_no_cache_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "cache"
    if damage == "no cache":
        path.mkdir()
    elif damage == "cut file":
        new_cache(path)
        (path / CLIP_FILE).write_bytes((path / CLIP_FILE).read_bytes()[:100])
    with pytest.raises(UserError, match=str(path)) as refusal:
        FeatureCache(path)
    assert "\n" not in str(refusal.value)


def test_an_unfinished_part_is_not_read(tmp_path: Path) -> None:
    cache = new_cache(tmp_path)
    (tmp_path / ".videos-0123.h5.99.tmp").write_bytes(b"half")
    assert not FeatureCache(tmp_path).listings.sources()
    cache.write_videos([video(np.random.default_rng(0), "v", 2)])
    assert ("videos", "v") in FeatureCache(tmp_path)


def test_a_cache_is_pickled_for_the_processes_of_a_sweep(tmp_path: Path) -> None:
    cache = new_cache(tmp_path)
    cache.write_videos([video(np.random.default_rng(0), "v", 2)])
    assert pickle.loads(pickle.dumps(cache)).places("videos") == cache.places("videos")


def test_one_process_writes_the_tables_that_several_join(tmp_path: Path) -> None:
    captions = pd.DataFrame({"video_id": ["a", "b"], "caption": ["one", "two"], "split": "train"})
    videos = pd.DataFrame({"video_id": ["a", "b", "c", "d"], "split": "train", "file": ["a.npy", "b.npy", "c.npy", None]})
    videos = videos.astype({"file": object}).assign(start=np.nan, end=np.nan, failed=False)
    listing = Listing(Source("table", "/t.csv", "/videos"), captions, videos)
    written = []
    for world_size in (1, 2):
        folder = tmp_path / str(world_size)
        folder.mkdir()
        listings = Listings(folder)
        for rank in range(world_size):
            listings.begin("t", listing, (rank, world_size))
        assert listings.files() == sorted(
            f"{kind}-t.{i}-of-{world_size}.parquet" for kind in ("captions", "videos") for i in range(world_size)
        )
        for rank in range(world_size):
            listings.complete("t", listing, (rank, world_size))
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert len(written[0]) == 4


@settings(max_examples=20)
@given(texts=st.lists(st.sampled_from(["", "a", "bé"]), max_size=4))
def test_texts_are_read_back_empty_ones_too(texts: list[str]) -> None:
    with h5py.File("texts", "w", driver="core", backing_store=False) as file:
        write_arrays(file, {"texts": texts, "none": [""] * len(texts)})
        assert file["texts"].asstr()[()].tolist() == texts
        assert read_arrays(file)["none"].tolist() == [b""] * len(texts)


def test_the_provenance_records_versions_and_commit() -> None:
    """Against importlib.metadata, which parses the whole metadata, and two commands of git."""
    found = {name: metadata.version(name) for name in packages() if installed(name) is not None}
    assert len(found) > 5
    assert {name: installed(name) for name in found} == found
    assert installed("no-such-package") is None
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False).stdout.strip()
    expected = head.stdout.strip() + ("+changes" if changed else "") if head.returncode == 0 else "unknown"
    assert provenance(ExportOptions(Path("cache"), Path("out")))["commit"] == expected
