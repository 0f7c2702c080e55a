"""Patch tokens in the cache: kept beside the frames, and verified, merged, pruned, exported and imported as the rest.

Shape suffixes: T frames of a video, M patch tokens of a frame, D joint dimension.
"""

import json
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from data.base.errors import UserError
from data.cache import FeatureCache, VideoEntry
from data.cache.features import Ragged
from data.cache.index import video_ids_in
from data.cache.layout import PatchSettings
from data.cache.mapped import map_videos
from data.cache.prune import unlisted
from data.exchange.options import ExportOptions, ImportOptions
from data.export_features import main as export
from data.import_features import main as import_main
from data.merge import MergeOptions, merge
from data.span import Span
from data.verify import VerifyOptions, verify
from extract import ExtractOptions
from extract import main as extract
from extract.plan.listing import prune
from tests import feature_files as files
from tests.caches import OLD
from tests.videos import numbered_video

D = 8
SETTINGS: dict[str, Any] = {"weights": "w" * 64, "dimension": D, "max_words": 16, "dtype": "float16"}
EVERYTHING = 10**9
Arrays = dict[str, NDArray[Any]]


def entry(name: str, frames: int = 3, count: int = 2, seed: int = 0, **changes: Any) -> VideoEntry:
    """A video of a known file; its arrays are drawn from its name and the seed."""
    random = np.random.default_rng([seed, *name.encode()])
    frames_TD, patch_TMD = (random.normal(size=shape).astype(np.float32) for shape in ((frames, D), (frames, count, D)))
    whole = VideoEntry(name, frames_TD, np.arange(frames, dtype=float), 10, 20, "digest", patch_TMD=patch_TMD)
    return replace(whole, **changes)


def new_cache(path: Path, entries: Sequence[VideoEntry] = (), kept: int | None = None, **changes: Any) -> FeatureCache:
    cache = FeatureCache.create(path, SETTINGS | changes)
    cache.write_videos(entries)
    cache.write_patches(entries, kept)
    return FeatureCache(path)


def rows_of(patches: Ragged, video: int = 0) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = patches.gather([video])[0].numpy()
    return rows


def stored(video: VideoEntry) -> NDArray[np.float32]:
    """The patch tokens of a video as a float16 cache gives them."""
    assert video.patch_TMD is not None
    return video.patch_TMD.astype(np.float16).astype(np.float32)


def parts(cache: Path, kind: str = "patches") -> list[Path]:
    return sorted(cache.glob(f"{kind}-*.h5"))


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    count=st.integers(1, 5),
    in_first=st.integers(0, 6),
    thinned=st.none() | st.integers(1, 4),
    merged=st.booleans(),
    seed=st.integers(0, 999),
)
@settings(deadline=None, max_examples=8)
def test_patch_tokens_come_back_in_the_order_asked_for(
    lengths: list[int], count: int, in_first: int, thinned: int | None, merged: bool, seed: int
) -> None:
    """From several parts or a merged file, from memory and from disk alike, and of the same frames as the frames."""
    entries = [entry(f"v{i}", frames, count, seed) for i, frames in enumerate(lengths)]
    order = np.random.default_rng(seed).permutation(len(entries))
    with TemporaryDirectory() as folder:
        cache = new_cache(Path(folder, "cache"), entries[:in_first])
        cache.write_videos(entries[in_first:])
        cache.write_patches(entries[in_first:], None)
        path = Path(folder, "cache")
        if merged:
            cache.merge(Path(folder, "out.h5"))
            path = Path(folder, "out.h5")
        cache = FeatureCache(path)
        assert cache.patch_settings == PatchSettings(None, count)
        for budget in (EVERYTHING, 0):
            videos = cache.videos([f"v{i}" for i in order], budget, thinned, patches=True)
            assert videos.patches is not None
            assert videos.patches.row_shape == (count, D)
            assert videos.patches.dtype == np.dtype("float16")
            for place, i in enumerate(order):
                frames = lengths[i]
                taken = range(frames) if thinned is None else np.linspace(0, frames - 1, min(frames, thinned)).astype(int)
                np.testing.assert_array_equal(rows_of(videos.patches, place), stored(entries[i])[list(taken)])
                np.testing.assert_array_equal(rows_of(videos.frames, place), entries[i].frames_TD.astype(np.float16)[list(taken)])
            assert videos.bytes_held == (0 if budget == 0 else int(videos.frames.length_N.sum()) * D * 2 * (1 + count))


def test_nobody_reads_tokens_who_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their parts are opened for their names when they are asked for, and their rows are read when they are asked for."""
    path = new_cache(tmp_path, [entry("a"), entry("b", 4)]).path
    read: list[str] = []
    opened: list[str] = []
    get, init = h5py.Dataset.__getitem__, h5py.File.__init__

    def noting_rows(self: h5py.Dataset, *args: Any, **named: Any) -> Any:
        read.append(self.name)
        return get(self, *args, **named)

    def noting_files(self: h5py.File, name: Any, *args: Any, **named: Any) -> None:
        opened.append(Path(str(name)).name.partition("-")[0])
        init(self, name, *args, **named)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", noting_rows)
    monkeypatch.setattr(h5py.File, "__init__", noting_files)
    cache = FeatureCache(path)
    cache.videos(["a", "b"])
    assert "patches" not in opened
    assert cache.has_patches("a")
    assert cache.patch_settings is not None
    assert "patches" in opened
    assert "/patches" not in read
    cache.patches(["a"])
    assert "/patches" in read


def test_other_settings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    cache = new_cache(tmp_path, [entry("a")], kept=2)
    before = sorted(tmp_path.iterdir())
    cache.require_patch_settings(2)
    for kept in (None, 3):
        for refused in (lambda kept=kept: cache.require_patch_settings(kept), lambda kept=kept: cache.write_patches([entry("b")], kept)):
            with pytest.raises(UserError, match=r"holds --tokens patches:2: use it, or remove .*patches-\*\.h5 first") as refusal:
                refused()
            assert "\n" not in str(refusal.value)
    assert sorted(tmp_path.iterdir()) == before
    for part in parts(tmp_path):
        part.unlink()
    again = FeatureCache(tmp_path)
    again.require_patch_settings(None)
    again.write_patches([entry("a", count=5)], None)
    assert FeatureCache(tmp_path).patch_settings == PatchSettings(None, 5)


@pytest.mark.parametrize(
    ("wrong", "kept", "message"),
    [
        ({"patch_TMD": None}, None, "'b' has no patch tokens: give patch_TMD"),
        ({"patch_TMD": np.zeros((3, 4, D))}, None, r"\[3, 4, 8\]: expected \[3, 2, 8\]"),
        ({"patch_TMD": np.zeros((2, 2, D))}, None, r"\[2, 2, 8\]: expected \[3, 2, 8\]"),
        ({"patch_TMD": np.zeros((3, 2, D + 1))}, None, r"\[3, 2, 9\]: expected \[3, 2, 8\]"),
        ({"patch_TMD": np.zeros((3, D))}, None, r"\[3, 8\]: expected \[3, 2, 8\]"),
        ({"patch_TMD": np.full((3, 2, D), np.nan)}, None, "not finite as float16"),
        ({"patch_TMD": np.full((3, 2, D), 1e6)}, None, "not finite as float16"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(wrong: dict[str, Any], kept: int | None, message: str, tmp_path: Path) -> None:
    cache = new_cache(tmp_path, [entry("a")])
    with pytest.raises(UserError, match=message):
        cache.write_patches([entry("b", **wrong)], kept)
    assert len(parts(tmp_path)) == 1


def test_k_is_the_number_of_tokens(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\[3, 2, 8\]: expected \[3, 4, 8\]"):
        new_cache(tmp_path, [entry("a", count=2)], kept=4)


def test_parts_of_two_settings_are_named(tmp_path: Path) -> None:
    """As when a part of another cache is copied here. Readers of frames take no notice."""
    new_cache(tmp_path / "a", [entry("a")])
    new_cache(tmp_path / "b", [entry("b", count=3)])
    part = parts(tmp_path / "b")[0].rename(tmp_path / "a" / parts(tmp_path / "b")[0].name)
    cache = FeatureCache(tmp_path / "a")
    assert cache.videos(["a"]).frames.length_N.tolist() == [3]
    with pytest.raises(UserError, match=r"holds --tokens patches \(\d a frame\), but patches-\w+\.h5 .*: remove one of the two") as refusal:
        cache.patches(["a"])
    assert part.name in str(refusal.value)
    part.unlink()
    assert FeatureCache(tmp_path / "a").patch_settings == PatchSettings(None, 2)


def test_more_parts_than_may_be_open_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From disk, in any order. A large data set has thousands of parts."""
    monkeypatch.setattr("data.cache.reading.OPEN_PARTS", 3)
    entries = [entry(f"v{i}", 1 + i % 3) for i in range(8)]
    for video in entries:
        new_cache(tmp_path, [video])
    assert len(parts(tmp_path)) == 8
    videos = FeatureCache(tmp_path).videos([video.video_id for video in entries], 0, patches=True)
    assert videos.patches is not None
    for order in np.random.default_rng(0).integers(0, 8, (6, 12)):
        rows_RMD, length_N = videos.patches.gather(order)
        assert length_N.tolist() == [1 + i % 3 for i in order]
        np.testing.assert_array_equal(rows_RMD, np.concatenate([stored(entries[i]) for i in order]))
        opened = [Path(f"/proc/self/fd/{number}").resolve().name for number in os.listdir("/proc/self/fd")]
        assert 0 < sum(name.startswith("patches-") for name in opened) <= 3


def test_tokens_of_a_sweep_are_mapped_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its processes share them, written in several pieces, and after pickling."""
    monkeypatch.setattr("data.cache.mapped.BYTES_AT_ONCE", 300)
    entries = [entry(name, frames) for name, frames in zip("abcd", (1, 4, 2, 3), strict=True)]
    videos = new_cache(tmp_path / "cache", entries).videos(list("abcd"), patches=True)
    (tmp_path / "mapped").mkdir()
    mapped = pickle.loads(pickle.dumps(map_videos(videos, tmp_path / "mapped")))
    for i, video in enumerate(entries):
        np.testing.assert_array_equal(rows_of(mapped.patches, i), stored(video))
        np.testing.assert_array_equal(rows_of(mapped.frames, i), video.frames_TD.astype(np.float16))


def test_what_a_cache_lacks_is_said(tmp_path: Path) -> None:
    written = new_cache(tmp_path / "python")
    written.write_videos([entry("a")])
    with pytest.raises(UserError, match=r"no patch tokens of 1 of 1 videos, such as 'a': .* FeatureCache\.write_patches"):
        written.patches(["a"])
    extracted = new_cache(tmp_path / "extracted", fps=1.0)
    with pytest.raises(UserError, match="no patch tokens: run extract again with --tokens patches or patches:K"):
        extracted.patches([])
    extracted.write_videos([entry("a"), entry("b")])
    extracted.write_patches([entry("a")], 2)
    with pytest.raises(UserError, match=r"of 1 of 2 videos, such as 'b': run extract again with --tokens patches:2"):
        extracted.videos(["a", "b"], patches=True)
    with pytest.raises(UserError, match=r"no video 'aa': did you mean 'a'"):
        extracted.patches(["aa"])


@pytest.mark.parametrize(
    ("changes", "current"),
    [
        ({}, True),
        ({"file_mtime_ns": 21}, True),  # touched or copied
        ({"file_mtime_ns": 21, "file_digest": "other"}, False),
        ({"file_size": 11}, False),
        ({"span": Span(0.0, 2.0)}, False),
        ({"frames_TD": np.ones((4, D)), "seconds_T": np.arange(4.0)}, False),
    ],
)
def test_tokens_belong_to_the_frames_of_one_file(changes: dict[str, Any], current: bool, tmp_path: Path) -> None:
    """Here, merged, and pruned."""
    cache = new_cache(tmp_path / "cache", [entry("a"), entry("b")])
    cache.write_videos([entry("a", **changes)])
    cache = FeatureCache(cache.path)
    assert (cache.has_patches("a"), cache.has_patches("b")) == (current, True)
    cache.merge(tmp_path / "out.h5")
    merged = FeatureCache(tmp_path / "out.h5")
    assert merged.names("patches") == (["a", "b"] if current else ["b"])
    assert all(map(merged.has_patches, merged.names("patches")))
    assert unlisted(cache, {"a", "b"}, set())["patches"] == (set() if current else {"a"})


def test_tokens_of_an_unknown_file_are_not_older_than_their_frames(tmp_path: Path) -> None:
    unknown: dict[str, Any] = {"file_size": 0, "file_mtime_ns": 0, "file_digest": ""}
    cache = new_cache(tmp_path / "cache", [entry("a", **unknown), entry("b", **unknown)])
    assert cache.has_patches("a")
    cache.write_videos([entry("a", seed=1, **unknown)])
    assert (cache.has_patches("a"), cache.has_patches("b")) == (False, True)
    cache.merge(tmp_path / "out.h5")
    merged = FeatureCache(tmp_path / "out.h5")
    assert merged.names("patches") == ["b"]
    assert merged.has_patches("b")


def test_damaged_parts_are_found_and_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [entry("a"), entry("b"), entry("c")]
    cache = new_cache(tmp_path, entries[:1])
    cache.write_videos(entries[1:])
    cache.write_patches(entries[1:2], None)
    assert verify(VerifyOptions(tmp_path)) == 0
    sound, damaged = (Path(str(FeatureCache(tmp_path).places("patches")[name].part.path)) for name in "ab")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    capsys.readouterr()
    assert verify(VerifyOptions(tmp_path, json=True)) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["damaged"], found["videos_to_extract"], found["patches_to_extract"]) == ([str(damaged)], [], ["b", "c"])
    assert verify(VerifyOptions(tmp_path)) == 3
    assert "patch tokens to extract again: b" in capsys.readouterr().out
    reported: list[Path] = []
    cache = FeatureCache.create(tmp_path, SETTINGS, on_damaged=reported.append)
    assert (reported, parts(tmp_path)) == ([damaged], [sound])
    assert [cache.has_patches(name) for name in "abc"] == [True, False, False]
    cache.write_patches(entries[1:2], None)
    assert damaged in parts(tmp_path)
    assert verify(VerifyOptions(tmp_path)) == 0


def test_a_damaged_part_stops_nobody_who_needs_no_tokens(tmp_path: Path) -> None:
    new_cache(tmp_path, [entry("a")])
    parts(tmp_path)[0].write_bytes(b"no HDF5")
    cache = FeatureCache(tmp_path)
    assert cache.videos(["a"]).frames.length_N.tolist() == [3]
    with pytest.raises(UserError, match=r"is damaged .*: run extract again, which repairs the cache"):
        cache.patches(["a"])


def test_what_is_pruned_leaves_the_rest_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Videos that nobody lists go with their tokens. Outdated tokens go alone. Tokens whose frames are still to come stay."""
    entries = [entry(name, frames, 2) for name, frames in (("gone", 2), ("kept", 3), ("changed", 1), ("last", 4))]
    cache = new_cache(tmp_path, entries, kept=2)
    cache.write_patches([entry("to come")], 2)
    cache.write_videos([entry("changed", 1, file_size=99)])
    listed = ["kept", "changed", "last", "to come"]
    cache.write_table("table", pd.DataFrame({"video_id": listed, "caption": "a ring", "split": "test"}))
    cache = FeatureCache(tmp_path)
    done = prune(tmp_path)
    assert done.pop("bytes") > 0
    assert done == {"videos": 1, "texts": 0, "patches": 2}
    assert capsys.readouterr().err == "dropped patch tokens of 2 videos that are not listed or have other frames now\n"
    pruned = FeatureCache(tmp_path)
    assert set(pruned.names("videos")) == {"kept", "changed", "last"}
    assert set(pruned.names("patches")) == {"kept", "last", "to come"}
    assert pruned.patch_settings == PatchSettings(2, 2)
    for video in (entries[1], entries[3]):
        np.testing.assert_array_equal(rows_of(pruned.patches([video.video_id])), stored(video))
    assert {name: pruned.fingerprint([name], patches=True) for name in ("kept", "last")} == {
        name: cache.fingerprint([name], patches=True) for name in ("kept", "last")
    }
    assert prune(tmp_path) == {"videos": 0, "texts": 0, "patches": 0, "bytes": 0}
    assert verify(VerifyOptions(tmp_path)) == 0


def test_a_merged_file_has_tokens_only_if_there_are_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_cache(tmp_path / "with", [entry("a"), entry("b")], kept=2)
    assert merge(MergeOptions(tmp_path / "with", tmp_path / "with.h5", json=True)) == 0
    assert json.loads(capsys.readouterr().out)["patches"] == 2
    merge(MergeOptions(tmp_path / "with", tmp_path / "again.h5"))
    assert "2 videos and 0 texts, patch tokens of 2 videos" in capsys.readouterr().out
    assert FeatureCache(tmp_path / "with.h5").patch_settings == PatchSettings(2, 2)
    assert verify(VerifyOptions(tmp_path / "with.h5")) == 0
    without = new_cache(tmp_path / "without")
    without.write_videos([entry("a")])
    without.merge(tmp_path / "without.h5")
    with h5py.File(tmp_path / "without.h5") as file:
        assert set(file) == {"videos", "texts", "tables"}
    merged = FeatureCache(tmp_path / "without.h5")
    assert (merged.patch_settings, merged.names("patches")) == (None, [])


def test_the_fingerprint_notices_other_tokens_if_they_are_read(tmp_path: Path) -> None:
    cache = new_cache(tmp_path, [entry("a"), entry("b")])
    before = [cache.fingerprint(["a"], patches) for patches in (False, True)]
    cache.write_patches([entry("a", seed=1)], None)
    after = [FeatureCache(tmp_path).fingerprint(["a"], patches) for patches in (False, True)]
    assert before[0] == after[0]
    assert len({*before, *after}) == 3


def test_an_old_cache_is_what_it_was() -> None:
    """Digest and fingerprint of the recorded cache, computed by the code before patch tokens."""
    cache = FeatureCache(OLD / "cache")
    assert cache.digest == "060236c62ba9ccab0ef795ce332c6be45207ed1304db6a158df95dda9dbd32a1"
    assert cache.fingerprint(sorted(cache.names("videos"))) == "93a8b4143d1f9e78b287fb53a1280b8dbb8401fe670d4d42ea1c5697f13fd5a5"
    assert cache.patch_settings is None
    assert not any(map(cache.has_patches, cache.names("videos")))


ODD = ["plain", "dog.mp4", "deep/er.mp4", "ünï", "line\nbreak", "x" * 240, "end."]


@pytest.mark.parametrize("form", ["safetensors", "npz", "parquet"])
def test_an_import_of_the_export_gives_the_same_bits(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several files. Tokens of other frames than those in the cache are left out."""
    monkeypatch.setattr("data.exchange.exporting.SHARD_BYTES", 1000)
    entries = [entry(name, 2 + i, 3) for i, name in enumerate(ODD)]
    cache = new_cache(tmp_path / "cache", entries)
    cache.write_videos([entry("stale")])
    cache.write_patches([entry("stale", file_size=99, count=3)], None)
    out = tmp_path / "out"
    export(ExportOptions(cache.path, out, form=form, quiet=True))  # type: ignore[arg-type]
    assert len([*(out / "patches").iterdir()]) > 1
    about = out / "about.json"
    options = ImportOptions(tmp_path / "again", frames=out / "videos", patches=out / "patches", about=about, quiet=True)
    with pytest.raises(UserError, match="1 of 8 videos have frames and no patch tokens, such as 'stale': add them to --patches"):
        import_main(options)
    again = FeatureCache(import_main(replace(options, allow_missing=True)))
    assert again.settings["dtype"] == "float16"
    for video in entries:
        rows_TMD = rows_of(again.patches([video.video_id]))
        np.testing.assert_array_equal(rows_TMD, stored(video))
        np.testing.assert_array_equal(again.frames(video.video_id), cache.frames(video.video_id))
    assert not again.has_patches("stale")


def _patches(count: int = 3, videos: int = 4) -> Arrays:
    random = np.random.default_rng(5)
    return {name: random.standard_normal((len(frames), count, files.D)).astype("float16") for name, frames in files.videos(videos).items()}


def _parquet(path: Path, arrays: Arrays) -> Path:
    path = path.with_suffix(".parquet")
    kind = pa.list_(pa.list_(pa.list_(pa.float16())))
    rows = pa.array([[[list(token) for token in frame] for frame in array] for array in arrays.values()], kind)
    pq.write_table(pa.table({"video_id": list(arrays), "patches": rows}), path)
    return path


def _packed(path: Path, arrays: Arrays) -> Path:
    path = path.with_suffix(".h5")
    with h5py.File(path, "w") as file:
        file["video_id"], file["patches"] = list(arrays), np.concatenate(list(arrays.values()))
        file["offsets"] = np.cumsum([0, *map(len, arrays.values())])
    return path


def _safetensors(path: Path, arrays: Arrays) -> Path:
    path = path.with_suffix(".safetensors")
    save_file({f"{name}/patches": array for name, array in arrays.items()}, path)
    return path


FORMS: dict[str, Callable[[Path, Arrays], Path]] = {
    "npy": files.npy,
    "npz with seconds": lambda path, arrays: files.npz(path, "patches", arrays, "seconds", files.seconds(arrays)),
    "hdf5": lambda path, arrays: files.hdf5_groups(path.with_suffix(".h5"), "patches", arrays, "seconds", files.seconds(arrays)),
    "hdf5 packed": _packed,
    "safetensors": _safetensors,
    "parquet": _parquet,
}


@pytest.mark.parametrize("form", FORMS)
def test_tokens_of_every_form_are_cached_bit_for_bit(form: str, tmp_path: Path) -> None:
    """Into a cache that has the frames already. Names are matched with the table as those of frames; what it does not list is left."""
    frames, captions = files.videos(4), files.texts(6)
    patches = _patches()
    table = files.table(tmp_path / "table.csv", captions)
    options = ImportOptions(tmp_path / "cache", files.npy(tmp_path / "frames", frames), table=table, quiet=True)
    import_main(options)
    options = replace(options, patches=FORMS[form](tmp_path / "patches", patches), quiet=True)
    before = parts(options.cache, "videos")
    cache = FeatureCache(import_main(options))
    assert parts(options.cache, "videos") == before
    assert set(cache.names("patches")) == {"video0.mp4", "video1.mp4", "video2.mp4"}
    for name in ("video0", "video1", "video2"):
        np.testing.assert_array_equal(rows_of(cache.patches([f"{name}.mp4"])), patches[name])
    assert cache.patch_settings == PatchSettings(None, 3)
    written = parts(options.cache)
    import_main(options)
    assert parts(options.cache) == written


def test_one_file_or_folder_may_hold_frames_and_tokens(tmp_path: Path) -> None:
    """A merged cache, and `.npz` files with both."""
    entries = [entry("a"), entry("b", 4)]
    new_cache(tmp_path / "cache", entries).merge(tmp_path / "both.h5")
    (tmp_path / "both").mkdir()
    for video in entries:
        tokens = np.asarray(video.patch_TMD, dtype=np.float16)
        np.savez(tmp_path / "both" / video.video_id, frames=video.frames_TD, patches=tokens, seconds=video.seconds_T)
    for number, both in enumerate([tmp_path / "both.h5", tmp_path / "both"]):
        options = ImportOptions(tmp_path / f"again {number}", both, patches=both, dtype="float16", quiet=True)
        cache = FeatureCache(import_main(options))
        for video in entries:
            np.testing.assert_array_equal(rows_of(cache.patches([video.video_id])), stored(video))
            np.testing.assert_array_equal(cache.frames(video.video_id), video.frames_TD.astype(np.float16))


def _without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {key: array for key, array in arrays.items() if key != name}


BAD: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "other M": (lambda a: a | {"video1": a["video1"][:, :2]}, "2 patch tokens of each frame, the others have 3: every frame must"),
    "frames without tokens": (_without("video1"), "1 of 4 videos have frames and no patch tokens, such as 'video1': add them"),
    "tokens without frames": (lambda a: a | {"video9": a["video1"]}, "--frames has no video 'video9': add its frames, or"),
    "other frames": (lambda a: a | {"video1": a["video1"][1:]}, "patch tokens of 3 frames, and the video has 4: save those of the same"),
    "NaN": (lambda a: a | {"video1": a["video1"] * np.float16(np.nan)}, "patch tokens hold NaN or infinity, first in row 0: compute"),
    "padding": (lambda a: a | {"video1": a["video1"] * np.arange(4)[::-1, None, None].astype("float16")}, "the last 1 of 4 patch tokens"),
    "width": (lambda a: {key: array[..., :-1] for key, array in a.items()}, "15 wide, the others 16"),
    "flat": (lambda a: {key: array[:, 0] for key, array in a.items()}, r"expected \[frames, tokens, dimension\]"),
    "integers": (lambda a: {key: array.astype("int32") for key, array in a.items()}, "patch tokens are int32, not features"),
}


# The columns that `_parquet` writes are of one depth and type.
@pytest.mark.parametrize(("name", "form"), [*((name, "npy") for name in BAD), *((name, "parquet") for name in [*BAD][:-2])])
def test_bad_tokens_are_refused_in_one_line(name: str, form: str, tmp_path: Path) -> None:
    """Also where no header tells their shape, so that parts with frames, and with tokens of videos before, are written."""
    spoil, message = BAD[name]
    frames = files.npy(tmp_path / "frames", files.videos(4))
    options = ImportOptions(tmp_path / "cache", frames, patches=FORMS[form](tmp_path / "patches", spoil(_patches())), quiet=True)
    with pytest.raises(UserError, match=message) as refusal:
        import_main(options)
    assert "\n" not in str(refusal.value)
    if form == "npy" and name not in ("NaN", "padding"):
        assert not options.cache.exists()


def test_tokens_need_frames_and_agree_with_the_cache(tmp_path: Path) -> None:
    frames = files.npy(tmp_path / "frames", files.videos(4))
    options = ImportOptions(tmp_path / "cache", frames, patches=files.npy(tmp_path / "patches", _patches()), quiet=True)
    with pytest.raises(UserError, match="--patches names patch tokens of frames: add --frames"):
        import_main(replace(options, frames=None))
    import_main(options)
    for form in ("npy", "parquet"):
        other = replace(options, patches=FORMS[form](tmp_path / f"other {form}", _patches(2)), replace=True)
        with pytest.raises(UserError, match=r"2 patch tokens of each frame, and the cache holds 3: import into another --cache, or remove"):
            import_main(other)
    for part in parts(options.cache):
        part.unlink()
    assert FeatureCache(import_main(other)).patch_settings == PatchSettings(None, 2)


def test_tokens_are_imported_again_with_frames_that_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames, patches = files.videos(4), _patches()
    folders = files.npy(tmp_path / "frames", frames), files.npy(tmp_path / "patches", patches)
    options = ImportOptions(tmp_path / "cache", folders[0], patches=folders[1], json=True, quiet=True)
    import_main(options)
    assert json.loads(capsys.readouterr().out)["patches"] == 4
    np.save(folders[0] / "video1.npy", frames["video1"][:2])
    import_main(replace(options, patches=None))
    stale = FeatureCache(options.cache)
    assert [stale.has_patches(name) for name in patches] == [True, False, True, True]
    with pytest.raises(UserError, match="patch tokens of 4 frames, and the video has 2"):
        import_main(options)
    np.save(folders[1] / "video1.npy", patches["video1"][:2] * 2)
    capsys.readouterr()
    cache = FeatureCache(import_main(replace(options, prune=True)))
    said = json.loads(capsys.readouterr().out)
    assert (said["patches"], said["patches_there"], said["pruned"]["patches"]) == (1, 3, 0)
    np.testing.assert_array_equal(rows_of(cache.patches(["video1"])), patches["video1"][:2] * 2)


@pytest.mark.long
def test_an_extraction_makes_damaged_and_outdated_tokens_again(family_model: Callable[[str], str], tmp_path: Path) -> None:
    """Frames and other tokens stay. The result equals one extraction of the same files, to the bit."""
    folder = tmp_path / "videos"
    for i in range(3):
        numbered_video(folder / f"v{i}.mp4", 10 + 5 * i, 5)
    options = ExtractOptions(
        videos=folder, cache=tmp_path / "cache", model=family_model("CLIP"), device="cpu", tokens="patches:2", quiet=True
    )
    extract(options)
    frames, tokens = parts(options.cache, "videos"), parts(options.cache)
    before = {name: rows_of(FeatureCache(options.cache).patches([name])) for name in FeatureCache(options.cache).names("patches")}
    tokens[0].write_bytes(tokens[0].read_bytes()[:-1])
    assert verify(VerifyOptions(options.cache)) == 3
    with pytest.raises(UserError, match="is damaged, as is every part with patch tokens: name the --tokens that they were made with"):
        extract(replace(options, tokens=None))
    assert parts(options.cache) == tokens
    extract(options)
    assert parts(options.cache, "videos") == frames
    repaired = FeatureCache(options.cache)
    assert repaired.patch_settings == PatchSettings(2, 2)
    assert sorted(before) == sorted(repaired.names("patches"))
    for name, rows_TMD in before.items():
        np.testing.assert_array_equal(rows_of(repaired.patches([name])), rows_TMD)

    numbered_video(folder / "v1.mp4", 30, 5)
    extract(replace(options, prune=True))
    once = replace(options, cache=tmp_path / "once")
    extract(once)
    cache, expected = FeatureCache(options.cache), FeatureCache(once.cache)
    for name in ("v0.mp4", "v1.mp4", "v2.mp4"):
        np.testing.assert_array_equal(rows_of(cache.patches([name])), rows_of(expected.patches([name])))
    with_v1 = [part for part in parts(options.cache) if "v1.mp4" in video_ids_in(part)]
    assert len(with_v1) == 1 == len(parts(options.cache)) - 1
    with pytest.raises(UserError, match=r"holds --tokens patches:2: use it, or remove .*patches-\*\.h5 first"):
        extract(replace(options, tokens="patches:3"))
