"""A folder that is brought up to date a video at a time, while its cache is being read."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import extract
from data.base.errors import UserError
from data.cache import FeatureCache
from extract import ExtractOptions
from extract.failures import read_failures
from extract.one_by_one import Step, extract_one_by_one
from tests.conftest import DEMO_CLIP

pytestmark = pytest.mark.long


@pytest.fixture
def options(demo_set: Path, tmp_path: Path) -> ExtractOptions:
    """A folder of two videos, extracted."""
    made = ExtractOptions(tmp_path / "videos", tmp_path / "cache", model=DEMO_CLIP, device="cpu", quiet=True, workers=1)
    for number in (1, 2):
        add(made, demo_set, number)
    extract.main(made)
    return made


def add(options: ExtractOptions, demo_set: Path, number: int, name: str = "") -> Path:
    to = options.videos / (name or f"video{number}.mp4")
    to.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(demo_set / "videos" / f"video{number}.mp4", to))


def files(options: ExtractOptions) -> list[Path]:
    return [path for path in options.videos.rglob("*") if path.is_file()]


def searched(options: ExtractOptions) -> set[str]:
    """What a reader finds now: listed, not failed, and cached."""
    cache = FeatureCache(options.cache)
    return {video_id for video_id in cache.listings.gallery() if ("videos", video_id) in cache}


def test_each_video_is_there_before_the_next_is_read(options: ExtractOptions, demo_set: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (options.videos / "video1.mp4").unlink()
    add(options, demo_set, 3)
    add(options, demo_set, 4, "in/video4.mp4")
    (options.videos / "video5.mp4").write_bytes(b"no video")
    found: list[tuple[Step, set[str]]] = []
    extract_one_by_one(options, files(options), lambda step: found.append((step, searched(options))))
    assert [step.reading for step, _ in found] == ["video3.mp4", "video5.mp4", "in/video4.mp4", ""]
    assert [(step.number, step.count) for step, _ in found] == [(1, 3), (2, 3), (3, 3), (3, 3)]
    # What is gone leaves at once, and the first new video comes before the second is read.
    assert found[0][1] == {"video2.mp4"}
    assert found[1][1] == {"video2.mp4", "video3.mp4"}
    assert found[1][0].written == 1
    assert found[3][1] == {"video2.mp4", "video3.mp4", "in/video4.mp4"}
    assert [*read_failures(options.cache)] == ["video5.mp4"]
    assert "failed: " in capfd.readouterr().err


def test_features_and_listing_are_those_of_a_plain_extraction(options: ExtractOptions, demo_set: Path, tmp_path: Path) -> None:
    for number in (3, 4, 5):
        add(options, demo_set, number)
    extract_one_by_one(options, files(options), lambda step: None)
    plain = replace(options, cache=tmp_path / "plain")
    extract.main(plain)
    one, other = FeatureCache(options.cache), FeatureCache(plain.cache)
    assert one.listings.videos("videos").equals(other.listings.videos("videos"))
    assert sorted(one.names("videos")) == sorted(other.names("videos"))
    for video_id in other.names("videos"):
        # Batches of other sizes round differently.
        np.testing.assert_allclose(one.frames(video_id).astype(float), other.frames(video_id).astype(float), atol=2e-3)
        assert one.images("thumbnails", video_id) == other.images("thumbnails", video_id)


def test_only_the_files_that_are_named_are_taken(options: ExtractOptions, demo_set: Path) -> None:
    growing = add(options, demo_set, 3)
    growing.write_bytes(growing.read_bytes()[:1000])
    extract_one_by_one(options, [path for path in files(options) if path != growing], lambda step: None)
    assert searched(options) == {"video1.mp4", "video2.mp4"}
    assert read_failures(options.cache) == {}


def test_a_file_that_failed_is_not_read_again_until_it_changes(
    options: ExtractOptions, demo_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = options.videos / "video3.mp4"
    broken.write_bytes(b"no video")
    steps: list[Step] = []
    extract_one_by_one(options, files(options), lambda step: None)
    with monkeypatch.context() as patch:
        patch.setattr("extract.one_by_one.load_model", lambda *given: pytest.fail("CLIP was loaded for nothing"))
        extract_one_by_one(options, files(options), steps.append)
    assert steps == [Step("", 0, 0, 0)]
    assert [*read_failures(options.cache)] == ["video3.mp4"]
    add(options, demo_set, 3)
    extract_one_by_one(options, files(options), lambda step: None)
    assert searched(options) == {"video1.mp4", "video2.mp4", "video3.mp4"}
    assert read_failures(options.cache) == {}


def test_a_file_that_was_renamed_keeps_its_features(options: ExtractOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    before = FeatureCache(options.cache)
    (options.videos / "in").mkdir()
    (options.videos / "video1.mp4").rename(options.videos / "in" / "other.mp4")
    shutil.copyfile(options.videos / "video2.mp4", options.videos / "copy.mp4")
    with monkeypatch.context() as patch:
        patch.setattr("extract.one_by_one.load_model", lambda *given: pytest.fail("a video was extracted again"))
        extract_one_by_one(options, files(options), lambda step: None)
    assert searched(options) == {"in/other.mp4", "video2.mp4", "copy.mp4"}
    after = FeatureCache(options.cache)
    for old, new in (("video1.mp4", "in/other.mp4"), ("video2.mp4", "copy.mp4")):
        np.testing.assert_array_equal(after.frames(new), before.frames(old))
        np.testing.assert_array_equal(after.seconds(new), before.seconds(old))
        assert after.images("thumbnails", new) == before.images("thumbnails", old)
        assert after.decoder(new) == before.decoder(old)
        assert after.stamp(new)._replace(file_mtime_ns=0) == before.stamp(old)._replace(file_mtime_ns=0)
    # A file of the same length is another one.
    changed = options.videos / "copy.mp4"
    content = changed.read_bytes()
    changed.write_bytes(content[:-1000] + bytes(1000))
    steps: list[Step] = []
    extract_one_by_one(options, files(options), steps.append)
    assert steps[0].reading == "copy.mp4"
    # A plain extraction finds nothing left to do.
    extract.main(options)
    assert len(FeatureCache(options.cache).names("videos")) == 4


def test_a_video_that_was_replaced_by_a_broken_file_is_not_searched(options: ExtractOptions) -> None:
    (options.videos / "video1.mp4").write_bytes(b"no video")
    extract_one_by_one(options, files(options), lambda step: None)
    assert searched(options) == {"video2.mp4"}


def test_an_interrupt_keeps_what_is_encoded(options: ExtractOptions, demo_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.one_by_one.LONGEST_S", float("inf"))
    for number in (3, 4, 5):
        add(options, demo_set, number)

    def stop(step: Step) -> None:
        if step.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_one_by_one(options, files(options), stop)
    assert searched(options) == {f"video{number}.mp4" for number in (1, 2, 3, 4)}
    extract_one_by_one(options, files(options), lambda step: None)
    assert searched(options) == {f"video{number}.mp4" for number in (1, 2, 3, 4, 5)}


def test_a_cache_of_other_settings_is_refused_before_anything_is_read(options: ExtractOptions, demo_set: Path) -> None:
    add(options, demo_set, 3)
    with pytest.raises(UserError, match="fps"):
        extract_one_by_one(replace(options, fps=2.0), files(options), lambda step: None)
    assert ("videos", "video3.mp4") not in FeatureCache(options.cache)


def test_many_videos_make_a_few_parts(options: ExtractOptions, demo_set: Path) -> None:
    for number in range(3, 40):
        os.link(demo_set / "videos" / f"video{number}.mp4", options.videos / f"video{number}.mp4")
    extract_one_by_one(options, files(options), lambda step: None)
    assert len(searched(options)) == 39
    assert len([*options.cache.glob("videos-*.h5")]) < 12
