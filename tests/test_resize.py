"""--resize-on device: pixels near Pillow's, features that depend on nothing else, and an identity of its own."""

import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import extract
from data.base.errors import UserError
from data.cache import FeatureCache
from data.compute.device import find_device
from evaluate import EvaluateOptions
from evaluate import main as evaluate
from extract import ExtractOptions
from extract.decode.sample import Sampling, sample_frames
from extract.encode.clip import Clip, load_clip
from extract.encode.library import open_clip
from extract.encode.pictures.resize import LARGEST_SCALE, DeviceResize, ResizeOn, as_picture, as_tensor
from extract.encode.preprocessing import INTERPOLATIONS, RESIZE_MODES, Preprocessing
from extract.one_by_one import extract_one_by_one
from search.query.pictures import read_picture
from search.retrieval.queries import QueryEncoder
from tests.choice import long_but
from tests.conftest import DEMO_CLIP
from tests.videos import convert, pattern

CPU = torch.device("cpu")
DEVICE = find_device("auto")
"""CUDA where there is one, so that these tests hold its own arithmetic too."""
SIZES = ("90x160", "320x180", "37x53", "641x363")
ONE = "641x363.mp4"
MOST_APART = 2.0
"""Of 255 levels, on average over a picture."""
BUDGET = 10**9


@pytest.fixture(scope="module")
def clips() -> dict[ResizeOn, Clip]:
    return {on: load_clip(DEMO_CLIP, None, CPU, resize_on=on) for on in ("cpu", "device")}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of encoded videos, of which none has the size of another, of 3 to 6 s."""
    folder = tmp_path_factory.mktemp("sizes")
    for seconds, size in enumerate(SIZES, start=3):
        # A width or height that is odd needs colour of full resolution.
        convert(pattern(size=size, rate=4, duration=seconds).output(str(folder / f"{size}.mp4"), pix_fmt="yuv444p"))
    return folder


@pytest.fixture(scope="module")
def frames(videos: Path, demo_set: Path) -> list[Image.Image]:
    """A frame of each, and of a video of the demo set."""
    files = [*sorted(videos.iterdir()), demo_set / "videos" / "video7.mp4"]
    return [sample_frames(file, Sampling(max_frames=2), lambda image: image).pictures[1] for file in files]


@pytest.fixture
def options(videos: Path, tmp_path: Path) -> ExtractOptions:
    return ExtractOptions(
        videos=videos, cache=tmp_path / "cache", model=DEMO_CLIP, resize_on="device", max_frames=4, device="cpu", quiet=True
    )


def by_pillow(image: Image.Image, rules: Preprocessing, size: tuple[int, int]) -> Image.Image:
    """The picture as open_clip's own transform resizes and crops it."""
    transform = open_clip().transform.image_transform(
        size, is_train=False, resize_mode=rules.resize_mode, interpolation=rules.interpolation, fill_color=rules.fill_color
    )
    for step in transform.transforms[:-2]:
        image = step(image)
    return image


def apart(found_CHW: torch.Tensor, expected: Image.Image) -> NDArray[np.int64]:
    """How many levels each value differs by."""
    found_HWC = found_CHW.permute(1, 2, 0).cpu().numpy()
    assert found_CHW.dtype == torch.uint8
    assert found_HWC.shape == (expected.height, expected.width, 3)
    return np.abs(found_HWC.astype(np.int64) - np.asarray(expected, dtype=np.int64))


def features(cache: FeatureCache) -> dict[str, bytes]:
    names = sorted(cache.names("videos"))
    gathered = cache.videos(names, BUDGET).frames
    return {name: np.asarray(gathered.gather([i])[0]).tobytes() for i, name in enumerate(names)}


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("height", "width"), long_but([(64, 64), (96, 40)], [(64, 64), (96, 40), (224, 224), (40, 96), (33, 33)]))
def test_real_frames_are_within_two_levels_of_pillow(
    frames: list[Image.Image], height: int, width: int, interpolation: str, resize_mode: str
) -> None:
    """Made smaller and larger, with sides that no scale divides; 2 of 255 is the promise. What is cropped and padded is the same."""
    rules = Preprocessing(interpolation=interpolation, resize_mode=resize_mode, fill_color=99)
    resize = DeviceResize(rules, (height, width), DEVICE)
    for image in frames:
        assert apart(resize(image), by_pillow(image, rules, resize.size)).mean() <= MOST_APART


def test_clips_of_the_field_are_within_two_levels_of_pillow(shared_videos: Path) -> None:
    resize = DeviceResize(Preprocessing(), (224, 224), DEVICE)
    for name in ("bikes.mp4", "bigbuckbunny.mp4"):
        for image in sample_frames(shared_videos / name, Sampling(max_frames=2), lambda image: image).pictures:
            assert apart(resize(image), by_pillow(image, resize.preprocessing, resize.size)).mean() <= MOST_APART


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    size=st.tuples(st.integers(1, 80), st.integers(1, 80)) | st.integers(1, 80).map(lambda side: (side, side)),
    mode=st.sampled_from(RESIZE_MODES),
)
def test_every_size_is_cropped_where_open_clip_crops(width: int, height: int, size: tuple[int, int], mode: str) -> None:
    """A slope, on which a shift by one pixel shows as much as one of its steps."""
    rules = Preprocessing(interpolation="bilinear", resize_mode=mode, fill_color=7)
    ratios = [height / size[0], width / size[1]]
    if mode == "longest" and min(round(side / max(ratios)) for side in (height, width)) < 1:
        return  # nothing is left of the shorter side, and Pillow refuses that
    slope_HW = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width)).astype(np.uint8)
    image = Image.fromarray(np.stack([slope_HW] * 3, axis=-1))
    assert apart(DeviceResize(rules, size, CPU)(image), by_pillow(image, rules, size)).max() <= 3


def test_a_picture_that_is_too_large_for_cuda_is_resized_too() -> None:
    wide = Image.new("RGB", (64 * LARGEST_SCALE + 1, 70), (200, 100, 50))
    resized_CHW = DeviceResize(Preprocessing(resize_mode="squash"), (64, 64), DEVICE)(wide)
    assert resized_CHW.device.type == DEVICE.type
    assert resized_CHW.flatten(1).unique(dim=1).tolist() == [[200], [100], [50]]


def test_every_value_is_normalised_to_the_bits_of_open_clip(clips: dict[ResizeOn, Clip]) -> None:
    """So features of the CPU's pictures are what they were before pieces were normalised as a whole."""
    clip = replace(clips["cpu"], device=DEVICE)
    every_HWC = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    picture = Image.fromarray(every_HWC)
    assert torch.equal(clip.normalised(as_tensor(picture)[None]).cpu()[0], clip.to_tensor(picture))
    assert np.array_equal(np.asarray(as_picture(as_tensor(picture))), every_HWC)


def test_a_crop_has_the_values_of_the_shrunk_picture(clips: dict[ResizeOn, Clip], frames: list[Image.Image]) -> None:
    for clip in clips.values():
        for image in frames:
            shrunk = clip.shrink(image)
            assert torch.equal(clip.crop(image), as_tensor(shrunk))
            # A server shrinks the picture of a query once, and it is prepared again for every search.
            assert torch.equal(clip.crop(shrunk), as_tensor(shrunk))


@pytest.fixture
def one_video(options: ExtractOptions, tmp_path: Path) -> ExtractOptions:
    """The same for the last video alone."""
    (tmp_path / "one").mkdir()
    shutil.copy(options.videos / ONE, tmp_path / "one")
    return replace(options, videos=tmp_path / "one", cache=tmp_path / "one-cache")


def test_features_depend_on_neither_workers_nor_other_videos(options: ExtractOptions, one_video: ExtractOptions, tmp_path: Path) -> None:
    """Bit for bit: of one worker, of three, and of each video extracted alone."""
    together = [features(FeatureCache(extract.main(replace(options, cache=tmp_path / str(n), workers=n)))) for n in (1, 3)]
    assert len(together[0]) == len(SIZES)
    assert together[0] == together[1]
    assert features(FeatureCache(extract.main(one_video))) == {ONE: together[0][ONE]}
    # What a server that watches the folder adds, which follows the cache.
    added = Path(shutil.copy(options.videos / "37x53.mp4", one_video.videos))
    extract_one_by_one(replace(one_video, resize_on=None), [one_video.videos / ONE, added], lambda step: None)
    assert features(FeatureCache(one_video.cache)) == {name: together[0][name] for name in (ONE, added.name)}


def test_a_cache_keeps_to_its_resizing(one_video: ExtractOptions, tmp_path: Path) -> None:
    """The setting is there only for `device`; runs that do not say follow the cache; any other value is refused before the work."""
    on_device = FeatureCache(extract.main(replace(one_video, max_frames=1)))
    assert on_device.settings["resize_on"] == "device"
    unsaid = replace(one_video, max_frames=None, resize_on=None, model=None)
    assert FeatureCache(extract.main(unsaid)).settings == on_device.settings
    on_cpu = FeatureCache(extract.main(replace(one_video, max_frames=1, resize_on=None, cache=tmp_path / "cpu")))
    assert on_cpu.settings == {name: value for name, value in on_device.settings.items() if name != "resize_on"}
    explicit = replace(one_video, max_frames=1, resize_on="cpu", cache=on_cpu.path)
    assert FeatureCache(extract.main(explicit)).settings == on_cpu.settings
    for cache, asked, said in (
        (on_cpu, "device", "resize_on is cpu there and device here"),
        (on_device, "cpu", "resize_on is device there and cpu here"),
    ):
        with pytest.raises(UserError, match=rf"was made with other settings \({said}\): use them, or another --cache$") as refusal:
            extract.main(replace(explicit, cache=cache.path, resize_on=asked))  # type: ignore[arg-type]
        assert "\n" not in str(refusal.value)


def test_pixels_are_those_of_the_device(options: ExtractOptions, clips: dict[ResizeOn, Clip]) -> None:
    """Fine-tuning begins with what the encoder saw, and patch tokens can be made of it."""
    cache = FeatureCache(extract.main(replace(options, store_pixels=True)))
    for name in ("320x180.mp4", "37x53.mp4"):
        seen = sample_frames(options.videos / name, Sampling(max_frames=4, pictures="display"), clips["device"].crop).pictures
        kept = [Image.open(io.BytesIO(file)) for file in cache.images("pixels", name)]
        assert len(kept) == len(seen) > 0
        assert all(apart(crop_CHW, image.convert("RGB")).mean() < 3 for crop_CHW, image in zip(seen, kept, strict=True))
        assert len(cache.images("thumbnails", name)) == len(seen)


def test_from_videos_to_metrics_and_the_picture_of_a_query(
    extract_options: ExtractOptions, cache: FeatureCache, demo_set: Path, tmp_path: Path
) -> None:
    """As good as with Pillow's pictures; and a frame as a picture has the feature of that frame."""
    captions = cache.table().query("split == 'test'").rename(columns={"video_id": "video"})
    captions.assign(video=captions["video"] + ".mp4")[["video", "caption", "split"]].to_csv(tmp_path / "table.csv", index=False)
    asked = replace(extract_options, dataset="table", annotations=tmp_path / "table.csv", cache=tmp_path / "cache", resize_on="device")
    made = FeatureCache(extract.main(replace(asked, pictures="stored", max_frames=12, max_words=cache.settings["max_words"])))
    recall = []
    for number, one in enumerate((cache, made)):
        evaluation = EvaluateOptions(one.path, "zero-shot:mean", out=tmp_path / f"{number}", device="cpu", quiet=True, report=False)
        recall.append(json.loads((evaluate(evaluation) / "metrics.json").read_text())["text_to_video"]["R@5"])
    assert recall[1] == pytest.approx(recall[0], abs=10)
    encoder = QueryEncoder(made, None, None, CPU, None)
    # As ffmpeg writes it, without loss.
    file, seconds = tmp_path / "frame.png", float(made.seconds("video60.mp4")[2])
    video = demo_set / "videos" / "video60.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-ss", str(seconds), "-i", str(video), "-frames:v", "1", str(file)]
    subprocess.run(command, check=True)
    query_D = encoder.encode_picture(read_picture(file, "--image"))
    np.testing.assert_array_equal(query_D, made.frames("video60.mp4")[2].astype(np.float32))
