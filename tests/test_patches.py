"""Patch tokens: what a tower makes of one patch alone, which are kept, and how extraction brings them into a cache.

Shape suffixes: N images, P positions of a tower, M patch tokens of an image, K of them that are kept, W width of the tower, D joint
dimension, T frames.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from torch import Tensor

import extract
from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.layout import FAILURES_FILE, PatchSettings
from extract import ExtractOptions
from extract.decode.sample import Sampling, sample_frames
from extract.encode.clip import BATCH, Clip, load_clip
from extract.encode.image.patches import Patches, patch_tower
from extract.failures import read_failures
from tests.choice import long_but
from tests.small_towers import CPU, DIMENSION, KINDS, ROUNDING, VIT, Kind, noise, off_by
from tests.videos import convert, cut_video, pattern

TOWERS = {
    **{name: KINDS[name] for name in ("ViT", "ViT, mean of patches", "ViT, attention pooling", "timm ViT", "timm ViT, attention pooling")},
    "ViT, mean of normed patches": Kind(VIT | {"pool_type": "avg"}),
    "timm relative positions": KINDS["timm relative positions"],
    "timm EVA": KINDS["timm EVA"],
}
"""A small tower of each kind of pooling."""
MAPS = ("ResNet", "timm ConvNeXt", "timm FastViT")
LONG = ("timm EVA", "timm relative positions", "timm ConvNeXt", "timm FastViT")


def of_each(names: Sequence[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", long_but({*names} - {*LONG}, names))


def load(kind: Kind, folder: Path) -> Clip:
    """With biases and gains other than zeros and ones, so that one that is left out changes the result."""
    clip = load_clip(kind.folder(folder), "random", CPU, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in clip.model.visual.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return clip


@torch.no_grad()
def hidden_states(clip: Clip, image_NCHW: Tensor) -> Tensor:
    """What pooling sees [N, P, W]."""
    visual = clip.model.visual
    if hasattr(visual, "trunk"):
        hidden_NPW: Tensor = visual.trunk.forward_features(image_NCHW)
        return hidden_NPW
    return torch.as_tensor(visual.transformer(visual._embeds(image_NCHW)))


@torch.no_grad()
def pooled_by_the_tower(clip: Clip, hidden_NPW: Tensor) -> Tensor:
    """The features [N, D] that the tower makes of these hidden states."""
    visual = clip.model.visual
    if hasattr(visual, "trunk"):
        return torch.as_tensor(visual.head(visual.trunk.forward_head(hidden_NPW)))
    return torch.as_tensor(visual._pool(hidden_NPW)[0] @ visual.proj)


@of_each(list(TOWERS))
def test_a_patch_token_is_what_the_tower_gives_if_all_it_sees_is_that_patch(kind: str, tmp_path: Path) -> None:
    """And the frames' features keep their bits, and those of a patch token do not depend on the rest of the batch."""
    clip = load(TOWERS[kind], tmp_path)
    image_NCHW = noise(clip, 3)
    bare, encoded = clip.encode_images(image_NCHW), clip.encode_images(image_NCHW, Patches())
    assert bare.patch_NMD is None
    assert encoded.patch_NMD is not None
    np.testing.assert_array_equal(encoded.feature_ND, bare.feature_ND)
    hidden_NPW = hidden_states(clip, image_NCHW)
    assert off_by(pooled_by_the_tower(clip, hidden_NPW), bare.feature_ND) < ROUNDING
    positions, patches = hidden_NPW.shape[1], encoded.patch_NMD.shape[1]
    assert encoded.patch_NMD.shape == (3, patches, DIMENSION)
    for place in (0, 1, patches - 1):
        alone_NPW = hidden_NPW[:, positions - patches + place, None].expand(-1, positions, -1)
        assert off_by(encoded.patch_NMD[:, place], pooled_by_the_tower(clip, alone_NPW)) < ROUNDING
    alone = clip.encode_images(image_NCHW[2:], Patches()).patch_NMD
    full = clip.encode_images(image_NCHW.repeat(BATCH // 3, 1, 1, 1), Patches()).patch_NMD
    assert alone is not None
    assert full is not None
    for patch_MD in (encoded.patch_NMD[2], *full[2::3]):
        np.testing.assert_array_equal(patch_MD, alone[0])


@pytest.mark.parametrize("kind", ["ViT", "timm ViT"])
def test_the_class_token_projected_as_patches_are_is_the_feature_of_the_frame(kind: str, tmp_path: Path) -> None:
    clip = load(TOWERS[kind], tmp_path)
    tower = patch_tower(clip.model)
    assert tower is not None
    image_NCHW = noise(clip, 4)
    class_NW = hidden_states(clip, image_NCHW)[:, 0]
    with torch.no_grad():
        assert off_by(tower.project(class_NW), clip.encode_images(image_NCHW).feature_ND) < ROUNDING
        if kind == "ViT":
            # In the words of the paper of CLIP: ln_post(class token) @ proj.
            visual = clip.model.visual
            gain, bias = visual.ln_post.weight, visual.ln_post.bias
            centred_NW = class_NW - class_NW.mean(dim=1, keepdim=True)
            normed_NW = centred_NW / (centred_NW.square().mean(dim=1, keepdim=True) + visual.ln_post.eps).sqrt() * gain + bias
            assert off_by(tower.project(class_NW), normed_NW @ visual.proj) < ROUNDING


def test_towers_of_low_precision_have_patch_tokens_of_the_same_size(tmp_path: Path) -> None:
    model = KINDS["ViT"].folder(tmp_path)
    plain, low = (load_clip(model, "random", CPU, 1, precision, patches=Patches(2)) for precision in ("fp32", "bf16"))
    image_NCHW = noise(plain, 3)
    expected, found = (clip.encode_images(image_NCHW, Patches()).patch_NMD for clip in (plain, low))
    # A step of bfloat16 is 2^-8; a few of them in each of two blocks.
    assert off_by(found, expected) < 8 * torch.finfo(torch.bfloat16).eps


FEW = arrays.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 6), st.just(2)), elements=st.integers(-3, 3).map(float))


@given(patch_NMD=FEW, kept=st.integers(1, 6))
@settings(deadline=None)
def test_the_largest_patch_tokens_are_kept_in_the_order_of_their_places(patch_NMD: NDArray[np.float32], kept: int) -> None:
    kept = min(kept, patch_NMD.shape[1])
    found_NKD = Patches(kept).choose(torch.from_numpy(patch_NMD)).numpy()
    for found_KD, patch_MD in zip(found_NKD, patch_NMD, strict=True):
        # The largest first; of equals, the first.
        ranked = sorted(range(len(patch_MD)), key=lambda m: (-float((patch_MD[m] ** 2).sum()), m))
        np.testing.assert_array_equal(found_KD, patch_MD[sorted(ranked[:kept])])


@pytest.mark.parametrize("option", ["patch", "patches:", "patches:0", "patches:-1", "patches:4.0", "patches:4 ", "patches: 4", "patches:٤"])
def test_other_values_are_refused(option: str) -> None:
    with pytest.raises(UserError, match=r"^--tokens .*: must be patches, or patches:K with a whole number K above 0, such as patches:4$"):
        Patches.of(option)


@of_each(MAPS)
def test_towers_without_patch_tokens_are_refused_before_weights_are_loaded(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = KINDS[kind].folder(tmp_path)
    monkeypatch.setattr("extract.encode.models.Model.weights", lambda _: pytest.fail("weights are loaded"))
    with pytest.raises(UserError, match=r"--tokens patches:4: local-dir:.* has no patch tokens: use a model with a vision transformer"):
        load_clip(model, "random", CPU, patches=Patches(4))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ViT of 48 x 48 pictures in 3 x 3 patches."""
    return KINDS["ViT"].folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def clip(model: str) -> Clip:
    return load_clip(model, "random", CPU)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 2 to 5 sampled frames."""
    folder = tmp_path_factory.mktemp("videos")
    for seconds in (2, 3, 5):
        convert(pattern(size="64x48", rate=5, duration=seconds).output(str(folder / f"{seconds}.mp4"), pix_fmt="yuv420p"))
    return folder


@pytest.fixture
def options(model: str, videos: Path, tmp_path: Path) -> ExtractOptions:
    return ExtractOptions(
        videos=videos, cache=tmp_path / "cache", model=model, pretrained="random", device="cpu", tokens="patches", workers=2, quiet=True,
        json=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made_without(model: str, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache without patch tokens."""
    cache = tmp_path_factory.mktemp("made") / "cache"
    return extract.main(ExtractOptions(videos=videos, cache=cache, model=model, pretrained="random", device="cpu", workers=2, quiet=True))


@pytest.fixture(scope="module")
def made_with(made_without: Path, model: str, videos: Path) -> Path:
    """A cache with all patch tokens."""
    cache = made_without.with_name("with")
    return extract.main(
        ExtractOptions(
            videos=videos, cache=cache, model=model, pretrained="random", device="cpu", tokens="patches", workers=2, quiet=True
        )
    )  # fmt: skip


NAMES = ["2.mp4", "3.mp4", "5.mp4"]


def run(options: ExtractOptions, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], FeatureCache, str]:
    """The summary, the cache, and what was printed beside."""
    capsys.readouterr()
    path = extract.main(options)
    said = capsys.readouterr()
    return json.loads(said.out), FeatureCache(path), said.err


def tokens(cache: FeatureCache, name: str) -> NDArray[Any]:
    """The patch tokens of a video [T, M, D]."""
    return np.asarray(cache.patches([name]).gather([0])[0])


def frames(cache: FeatureCache) -> list[bytes]:
    return [cache.frames(name).tobytes() for name in NAMES]


def parts(cache: FeatureCache) -> dict[str, bytes]:
    return {part.name: part.read_bytes() for part in cache.path.glob("videos-*.h5")}


def test_extraction_keeps_the_patch_tokens_of_every_frame(
    options: ExtractOptions, made_without: Path, made_with: Path, clip: Clip, capsys: pytest.CaptureFixture[str]
) -> None:
    bare, cache = FeatureCache(made_without), FeatureCache(made_with)
    assert cache.digest == bare.digest
    assert frames(cache) == frames(bare)
    assert bare.patch_settings is None
    assert cache.patch_settings == PatchSettings(None, 9)
    said, some, _ = run(replace(options, tokens="patches:2"), capsys)
    assert said["videos_extracted"] == 3
    assert (said["videos_given_tokens"], said["videos_without_tokens"]) == (0, 0)
    assert said["token_bytes"] == 10 * 2 * DIMENSION * 2
    assert some.patch_settings == PatchSettings(2, 2)
    assert frames(some) == frames(bare)
    for name in NAMES:
        pictures = sample_frames(options.videos / name, Sampling(), clip.shrink).pictures
        patch_TMD = clip.encode_images(torch.stack([clip.to_tensor(picture) for picture in pictures]), Patches()).patch_NMD
        assert patch_TMD is not None
        np.testing.assert_array_equal(tokens(cache, name), patch_TMD.astype(np.float16))
        norm_TM = np.linalg.norm(patch_TMD, axis=2)
        for chosen_KD, patch_MD, norm_M in zip(tokens(some, name), patch_TMD, norm_TM, strict=True):
            np.testing.assert_array_equal(chosen_KD, patch_MD[np.sort(np.argsort(-norm_M)[:2])].astype(np.float16))


def test_cached_videos_are_decoded_once_more_and_their_frames_are_not_written_again(
    options: ExtractOptions, made_without: Path, made_with: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made_without, options.cache)
    before = parts(FeatureCache(options.cache))
    said, cache, err = run(replace(options, quiet=False), capsys)
    assert "3 cached videos lack patch tokens: 0 get them from their stored pixels" in err
    assert (said["videos_extracted"], said["videos_given_tokens"], said["videos_given_tokens_from_pixels"]) == (0, 3, 0)
    assert parts(cache) == before
    for name in NAMES:
        np.testing.assert_array_equal(tokens(cache, name), tokens(FeatureCache(made_with), name))
    # Once more, there is nothing to do.
    said, _, _ = run(options, capsys)
    assert (said["videos_extracted"], said["videos_given_tokens"], said["frames"]) == (0, 0, 0)


def test_stored_pixels_give_patch_tokens_without_the_decoder(
    options: ExtractOptions, made_with: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = parts(run(replace(options, tokens=None, store_pixels=True), capsys)[1])
    monkeypatch.setattr("extract.encode.videos.sample_frames", lambda *_: pytest.fail("a file is decoded"))
    said, cache, err = run(replace(options, quiet=False), capsys)
    assert "3 get them from their stored pixels, which JPEG changes slightly; 0 are decoded once more" in err
    assert (said["videos_given_tokens"], said["videos_given_tokens_from_pixels"], said["videos_failed"]) == (3, 3, 0)
    assert parts(cache) == before
    for name in NAMES:
        ours, theirs = (torch.from_numpy(tokens(one, name).astype(np.float32)) for one in (cache, FeatureCache(made_with)))
        assert torch.cosine_similarity(ours, theirs, dim=-1).min() > 0.98


def test_new_videos_of_a_cache_with_patch_tokens_get_theirs(
    options: ExtractOptions, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "some").mkdir()
    for name in NAMES:
        (tmp_path / "some" / name).symlink_to(options.videos / name)
    (tmp_path / "some" / "5.mp4").rename(tmp_path / "5.mp4")
    given = replace(options, videos=tmp_path / "some", tokens="patches:2", follow_links=True)
    assert run(given, capsys)[0]["videos_extracted"] == 2
    (tmp_path / "5.mp4").rename(tmp_path / "some" / "5.mp4")
    said, cache, err = run(replace(given, tokens=None, quiet=False), capsys)
    assert f"{options.cache} holds patch tokens: the videos get theirs too (--tokens patches:2)" in err
    assert (said["videos_extracted"], said["videos_given_tokens"], said["videos_without_tokens"]) == (1, 0, 0)
    assert tokens(cache, "5.mp4").shape == (5, 2, DIMENSION)
    with pytest.raises(UserError, match="holds --tokens patches:2"):
        extract.main(replace(given, tokens="patches:3"))
    with pytest.raises(UserError, match=r"--tokens patches:10: must be at most 9, the patch tokens of local-dir"):
        extract.main(replace(given, tokens="patches:10", cache=tmp_path / "other"))
    assert not (tmp_path / "other").exists()


@pytest.mark.long
def test_a_lost_part_is_made_again_and_shares_add_up(
    options: ExtractOptions, made_without: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made_without, options.cache)
    for shard in ("0/2", "1/2"):
        said, cache, err = run(replace(options, shard=shard), capsys)
        assert said["videos_without_tokens"] == (1 if shard == "0/2" else 0)
        assert "have no patch tokens" not in err
    expected = [tokens(cache, name) for name in NAMES]
    lost, damaged = sorted(options.cache.glob("patches-*.h5"))
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1])
    said, cache, err = run(options, capsys)
    assert f"{damaged} is damaged: its contents are extracted again" in err
    assert (said["videos_extracted"], said["videos_given_tokens"]) == (0, 3)
    # A kill between the parts of patch tokens and of frames leaves the former alone.
    for part in options.cache.glob("videos-*.h5"):
        part.unlink()
    said, cache, _ = run(options, capsys)
    assert (said["videos_extracted"], said["videos_given_tokens"], said["videos_without_tokens"]) == (3, 0, 0)
    for name, expected_TMD in zip(NAMES, expected, strict=True):
        np.testing.assert_array_equal(tokens(cache, name), expected_TMD)


def test_a_file_that_decodes_to_other_frames_is_listed_as_failed(
    options: ExtractOptions, made_without: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another version of ffmpeg may do."""
    shutil.copytree(made_without, options.cache)
    sample = sample_frames

    def late(path: Path, *rest: Any) -> Any:
        sampled = sample(path, *rest)
        return replace(sampled, seconds=[second + (0.2 if path.name == "3.mp4" else 0.0) for second in sampled.seconds])

    monkeypatch.setattr("extract.encode.videos.sample_frames", late)
    said, cache, _ = run(options, capsys)
    assert (said["videos_given_tokens"], said["videos_failed"], said["videos_without_tokens"]) == (2, 1, 1)
    assert not cache.has_patches("3.mp4")
    assert cache.has_patches("5.mp4")
    failure = read_failures(options.cache)["3.mp4"]
    assert failure.reason.startswith("it decodes to 3 frames here, but the cache holds 3 frames at other times")
    assert (options.cache / FAILURES_FILE).is_file()
    # Its features are those of the file as it is, so search still finds it.
    assert sorted(cache.listings.gallery()) == NAMES
    assert sorted(run(replace(options, retry_failed=True), capsys)[1].listings.gallery()) == NAMES


def test_a_video_that_was_cut_short_gets_patch_tokens_of_the_frames_that_are_cached(
    options: ExtractOptions, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """--allow-partial need not be repeated, as it need not be for the frames."""
    (tmp_path / "cut").mkdir()
    cut_video(tmp_path / "cut" / "v.mkv")
    bare = replace(options, videos=tmp_path / "cut", tokens=None)
    assert run(bare, capsys)[0]["videos_failed"] == 1
    frames_there = len(run(replace(bare, allow_partial=True), capsys)[1].frames("v.mkv"))
    said, cache, _ = run(replace(bare, tokens="patches"), capsys)
    assert (said["videos_given_tokens"], said["videos_failed"], said["videos_without_tokens"]) == (1, 0, 0)
    assert tokens(cache, "v.mkv").shape == (frames_there, 9, DIMENSION)
    assert cache.listings.gallery() == {"v.mkv": "v.mkv"}


def test_the_dry_run_counts_patch_tokens_on_their_own(
    options: ExtractOptions, made_without: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def planned(**given: Any) -> dict[str, Any]:
        extract.main(replace(options, dry_run=True, **given))
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    without, some = planned(tokens=None), planned(tokens="patches:2")
    assert [plan["token_bytes"] for plan in (without, some)] == [0, 10 * 2 * DIMENSION * 2]
    assert some["disk_bytes"] - without["disk_bytes"] == some["token_bytes"]
    later = planned(cache=made_without)
    assert (later["videos_to_do"], later["videos_without_tokens"]) == (3, 3)
    assert later["disk_bytes"] == later["token_bytes"] == 10 * 9 * DIMENSION * 2
    extract.main(replace(options, cache=made_without, dry_run=True, json=False))
    lines = capsys.readouterr().out.splitlines()
    assert "patch tokens alone: 3 of these videos, whose frames are cached" in lines
    assert any("0.0 MiB patch tokens" in line for line in lines)


@pytest.mark.long
def test_segments_have_patch_tokens(options: ExtractOptions, made_with: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(replace(options, segment=2.0, tokens=None), capsys)
    said, cache, _ = run(replace(options, segment=2.0, tokens="patches:1"), capsys)
    names = cache.names("videos")
    assert "5.mp4#t=0,2" in names
    assert said["videos_given_tokens"] == len(names)
    assert [len(tokens(cache, name)) for name in names] == [len(cache.frames(name)) for name in names]
    whole = FeatureCache(made_with)
    first_KD = tokens(cache, "5.mp4#t=0,2")[0]
    assert (first_KD == tokens(whole, "5.mp4")[0]).all(axis=1).any()
