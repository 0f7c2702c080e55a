"""Pictures kept beside the features: thumbnails of whole frames, and what the encoder saw."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import extract
from data.cache import FeatureCache, Images
from data.merge import MergeOptions, merge
from data.verify import VerifyOptions, verify
from extract import ExtractOptions
from extract.decode.pictures import THUMBNAIL_SIDE, pixels_file, small, thumbnail_file
from extract.decode.sample import Sampling, sample_frames
from extract.encode.clip import Clip, load_clip
from tests.conftest import DEMO_CLIP
from tests.videos import convert, frame_number, numbered_video, pattern

BUDGET = 10**9
REAL = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4", "h264_10bits.mp4", "nasa_13013.mp4")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(DEMO_CLIP, None, torch.device("cpu"))


@pytest.fixture
def options(tmp_path: Path) -> ExtractOptions:
    """A folder of a wide, a tall and a small video, of 6, 4 and 9 s."""
    (tmp_path / "videos").mkdir()
    for name, size, seconds in (("wide.mp4", "320x180", 6), ("tall.mp4", "90x240", 4)):
        convert(pattern(size=size, rate=5, duration=seconds).output(str(tmp_path / "videos" / name), pix_fmt="yuv420p"))
    numbered_video(tmp_path / "videos" / "small.mp4", 45, 5)
    return ExtractOptions(
        videos=tmp_path / "videos", cache=tmp_path / "cache", model=DEMO_CLIP, max_frames=5, device="cpu", quiet=True, json=True
    )


def run(options: ExtractOptions, capsys: pytest.CaptureFixture[str]) -> tuple[int, FeatureCache]:
    """Videos extracted, and the cache."""
    capsys.readouterr()
    path = extract.main(options)
    return json.loads(capsys.readouterr().out)["videos_extracted"], FeatureCache(path)


def opened(files: list[bytes]) -> list[Image.Image]:
    images = [Image.open(io.BytesIO(content)) for content in files]
    assert {image.format for image in images} == {"JPEG"}
    return [image.convert("RGB") for image in images]


def features(cache: FeatureCache, names: list[str]) -> list[NDArray[np.float32]]:
    frames = cache.videos(names, BUDGET).frames
    return [np.asarray(frames.gather([i])[0]) for i in range(len(names))]


@pytest.mark.parametrize("max_frames", [5, "all"])
def test_thumbnails_are_whole_frames_and_there_by_default(
    options: ExtractOptions, capsys: pytest.CaptureFixture[str], max_frames: int | Literal["all"]
) -> None:
    done, cache = run(replace(options, max_frames=max_frames), capsys)
    assert done == 3
    for name, frames, size in (("wide.mp4", 6, (112, 63)), ("tall.mp4", 4, (42, 112)), ("small.mp4", 9, (32, 32))):
        expected = [0, 2, 4, 6, 8] if name == "small.mp4" and max_frames == 5 else range(min(frames, 5) if max_frames == 5 else frames)
        images = opened(cache.images("thumbnails", name))
        assert [image.size for image in images] == [size] * len(expected)
        if name == "small.mp4":  # each with its frame
            assert [frame_number(image) for image in images] == [5 * i for i in expected]
        assert cache.images("pixels", name) == []


def test_thumbnails_can_be_left_out_and_made_later(options: ExtractOptions, capsys: pytest.CaptureFixture[str]) -> None:
    done, cache = run(replace(options, thumbnails=False), capsys)
    assert (done, cache.images("thumbnails", "wide.mp4")) == (3, [])
    before = features(cache, ["wide.mp4"])[0]
    assert run(replace(options, thumbnails=False), capsys)[0] == 0
    capsys.readouterr()
    extract.main(replace(options, quiet=False))
    said = capsys.readouterr()
    assert "3 cached videos lack the pictures asked for and are extracted again" in said.err
    cache = FeatureCache(options.cache)
    thumbnails = [cache.images("thumbnails", name) for name in cache.names("videos")]
    assert json.loads(said.out)["picture_bytes"] == sum(len(content) for files in thumbnails for content in files) > 0
    assert all(thumbnails)
    assert features(cache, ["wide.mp4"])[0].tobytes() == before.tobytes()


@pytest.mark.parametrize("max_frames", [5, "all"])
def test_pixels_are_what_the_encoder_saw(
    options: ExtractOptions, clip: Clip, capsys: pytest.CaptureFixture[str], max_frames: int | Literal["all"]
) -> None:
    _, cache = run(replace(options, store_pixels=True, max_frames=max_frames), capsys)
    for name in cache.names("videos"):
        sampling = Sampling(max_frames=None if max_frames == "all" else max_frames)
        seen = sample_frames(options.videos / name, sampling, clip.shrink).pictures
        kept = opened(cache.images("pixels", name))
        assert len(kept) == len(seen)
        for image, picture in zip(kept, seen, strict=True):
            assert image.size == picture.size
            difference = np.abs(np.asarray(image, dtype=int) - np.asarray(picture, dtype=int))
            assert difference.mean() < 3
        # Encoded again, as fine-tuning begins, they give nearly the features of the cache.
        image_NCHW = torch.stack([clip.to_tensor(image) for image in kept])
        again = clip.encode_images(image_NCHW).feature_ND
        cosine = torch.cosine_similarity(torch.from_numpy(again), torch.from_numpy(features(cache, [name])[0].astype(np.float32)))
        assert cosine.min() > 0.99


def test_pixels_are_completed_later_and_never_lost(options: ExtractOptions, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = ["wide.mp4", "tall.mp4", "small.mp4"]
    assert run(options, capsys)[0] == 3
    before = features(FeatureCache(options.cache), names)
    done, cache = run(replace(options, store_pixels=True), capsys)
    assert done == 3
    assert [found.tobytes() for found in features(cache, names)] == [found.tobytes() for found in before]
    kinds: tuple[Images, ...] = ("pixels", "thumbnails")
    pictures = {(kind, name): cache.images(kind, name) for kind in kinds for name in names}
    assert all(pictures.values())
    assert run(replace(options, store_pixels=True), capsys)[0] == 0
    # A later run that does not ask for them leaves them, also where a file has changed.
    numbered_video(options.videos / "small.mp4", 10, 5)
    done, cache = run(options, capsys)
    assert (done, len(cache.images("pixels", "small.mp4"))) == (1, 2)
    assert merge(MergeOptions(options.cache, tmp_path / "out.h5")) == 0
    merged = FeatureCache(tmp_path / "out.h5")
    for (kind, name), files in pictures.items():
        assert merged.images(kind, name) == (files if name != "small.mp4" else cache.images(kind, name))
        assert merged.images_of(name) == {"pixels", "thumbnails"}
    assert verify(VerifyOptions(tmp_path / "out.h5")) == verify(VerifyOptions(options.cache)) == 0


def test_real_pictures(shared_videos: Path, clip: Clip) -> None:
    """Preprocessing in two halves is open_clip's own; a thumbnail takes about 2 KB; pixels differ by a few levels."""
    sizes: list[float] = []
    for name in REAL:
        frames = sample_frames(shared_videos / name, Sampling(max_frames=4), lambda image: image).pictures
        std = torch.tensor(clip.image_settings()["image_std"])[:, None, None]
        for image in frames:
            own = clip.to_tensor(clip.shrink(image))
            assert float(((own - clip.transform(image)) * std).abs().max()) <= 1 / 255
            whole = opened([thumbnail_file(small(image))])[0]
            assert max(whole.size) == THUMBNAIL_SIDE
            assert whole.width / whole.height == pytest.approx(image.width / image.height, rel=0.02)
            seen = clip.shrink(image)
            difference = np.asarray(opened([pixels_file(seen)])[0], dtype=int) - np.asarray(seen, dtype=int)
            assert np.abs(difference).mean() < 3
            assert np.abs(difference).max() <= 24
        sizes.append(float(np.mean([len(thumbnail_file(small(image))) for image in frames])))
    assert 1500 < np.mean(sizes) < 2500
    assert max(sizes) < 3500
