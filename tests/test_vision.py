"""Token shift and token clusters inside the vision tower: golden numbers, and plain readings of the functions and of whole towers.

Shape suffixes: N frames, B videos, T frames of a video, F frames of a segment, L tokens of a frame, M patches of a frame, P points, K
medoids, S segments, W width of the tower, D joint dimension, C channels, H and W sides of pictures.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data.base.errors import UserError
from data.cache import FeatureCache
from data.datasets.adapters.table import FOLDER
from data.exchange.options import ExportOptions, ImportOptions
from data.export_features import main as export
from data.import_features import main as import_features
from extract import ExtractOptions, main
from extract.encode.clip import Clip, load_clip
from extract.encode.image.batches import EncodedVideo, video_encoder
from extract.encode.image.clusters import assign, cluster, cluster_segment, distances, first_medoids, middle, segment_bounds
from extract.encode.image.inside import UNCHANGED, Clusters, Inside
from extract.encode.image.patches import Patches
from extract.encode.image.shift import Neighbours, shift_tokens, shifted_patches
from extract.plan.following import with_defaults
from tests.caches import BUDGET
from tests.choice import long_but
from tests.conftest import DEMO_CLIP
from tests.tiny_encoders import LAYERS, SIDE_32, VIT, Family
from tests.videos import numbered_video
from train_head.training.pixels import require_pixels

GOLDEN = Path(__file__).parent / "golden"
CPU = torch.device("cpu")
ALIKE = 1e-5
"""Share by which float32 features may differ. A sum of up to 100 products in another order is off by about 10 * 6e-8 of its size, which
a few layers carry on."""
TEXT = LAYERS | {"context_length": 24}
SMALL = {"img_size": 32, "patch_size": 8, "depth": 4, "num_heads": 2}
ROTARY = SMALL | {"embed_dim": 32, "ref_feat_shape": [4, 4]}
MAP = {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"}
MIXED = {"timm_model_name": "vit_small_patch16_rope_mixed_224"}
TOWERS = {
    "CLIP": Family("ViT-B-32-quickgelu", text=TEXT, vision=VIT | {"patch_size": 8, "layers": 4}),
    "SigLIP": Family("EVA02-B-16", text=TEXT, vision=SIDE_32 | MAP, timm=SMALL | {"embed_dim": 48}),
    "EVA": Family("EVA02-B-16", text=TEXT, vision=SIDE_32, timm=ROTARY),
    "PE-Core": Family("PE-Core-T-16-384", text=LAYERS, vision=SIDE_32, timm=ROTARY | {"attn_pool_num_heads": 2}),
    "mixed": Family("EVA02-B-16", text=TEXT, vision=SIDE_32 | MIXED, timm=SMALL | {"embed_dim": 32}),
}
"""Towers of four blocks and 4 x 4 patches: with a class token; without one; and three whose attention rotates each patch by its place,
"mixed" in another way in each block and head."""
QUICK = ("CLIP", "SigLIP", "PE-Core")
REFUSED = {
    "norms behind the attention": Family("EVA02-E-14", text=TEXT, vision=SIDE_32, timm=ROTARY),
    "4 patches": Family("ViT-B-32-quickgelu", text=TEXT, vision=VIT),
}
SHIFT, CLUSTERS = Inside(shift=True), Inside(clusters=Clusters(segments=3, medoids=5, block=2))


def test_the_shift_is_ts2_nets() -> None:
    golden = np.load(GOLDEN / "ts2_token_shift.npz")
    token_BTLW = torch.from_numpy(golden["tokens"])
    videos, frames = token_BTLW.shape[:2]
    shifted_NLW = shift_tokens(token_BTLW.flatten(0, 1), Neighbours.of([frames] * videos), prefix=1)
    assert shifted_NLW.equal(torch.from_numpy(golden["shifted"]).flatten(0, 1))


def test_the_clusters_are_centerclips() -> None:
    golden = np.load(GOLDEN / "centerclip_cluster.npz")
    token_BTLW = torch.from_numpy(golden["tokens"])
    medoids = int(golden["clusters"])
    for video, token_TLW in enumerate(token_BTLW):
        bounds = segment_bounds(len(token_TLW), int(golden["segments"]))
        for segment, (first, end) in enumerate(bounds):
            here = (video, segment)
            token_FLW = token_TLW[first:end]
            point_PW = token_FLW[:, 1:].flatten(0, 1)
            distance_PP = distances(point_PW)
            assert first_medoids(point_PW, distance_PP, medoids).tolist() == golden["first_medoids"][here].tolist()
            medoid_K = cluster(point_PW, medoids)
            assert medoid_K.tolist() == golden["medoid_indices"][here].tolist()
            assert assign(distance_PP, medoid_K).tolist() == golden["assignment"][here].tolist()
            found_LW, patch_K = cluster_segment(token_FLW, medoids, prefix=1)
            np.testing.assert_allclose(found_LW[0], golden["class_token_averages"][here], rtol=0, atol=1e-6)
            np.testing.assert_allclose(found_LW, golden["output"][here], rtol=0, atol=1e-6)
            assert patch_K.tolist() == [index % 49 for index in golden["medoid_indices"][here]]


def plain_shift(token_TLW: Tensor, prefix: int) -> Tensor:
    """The shift of one video, token by token. Positions count one class token in front of the patches, however many tokens there are."""
    shifted_TLW = token_TLW.clone()
    frames, patches = len(token_TLW), token_TLW.shape[1] - prefix
    step = (1 + patches) // 7
    for frame in range(frames):
        for position in range(1, patches + 1):
            token = position - 1 + prefix
            if (position - 1) % step == 0:
                shifted_TLW[frame, token] = token_TLW[max(frame - 1, 0), token]
            elif (position - 1) % step == step // 2:
                shifted_TLW[frame, token] = token_TLW[min(frame + 1, frames - 1), token]
    return shifted_TLW


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(13, 200), st.integers(0, 5))
def test_the_shift_of_any_tower(lengths: list[int], patches: int, prefix: int) -> None:
    """Other numbers of patches, registers, and no class token; nothing crosses videos."""
    token_NLW = torch.arange(sum(lengths) * (prefix + patches)).reshape(sum(lengths), -1, 1)
    expected_NLW = torch.cat([plain_shift(token_TLW, prefix) for token_TLW in token_NLW.split(lengths)])
    assert shift_tokens(token_NLW, Neighbours.of(lengths), prefix).equal(expected_NLW)


def test_no_patch_comes_from_both_sides() -> None:
    for patches in range(13, 1500):
        before, after = (set(range(patches)[chosen]) for chosen in shifted_patches(patches))
        assert min(len(before), len(after)) >= 6
        assert not before & after


def plain_medoids(point_PW: np.ndarray, medoids: int) -> list[int]:
    """The medoids by loops over points."""
    points = [list(map(float, point)) for point in point_PW]

    def apart(one: int, other: int) -> float:
        return -1.0 if one == other else sum((a - b) ** 2 for a, b in zip(points[one], points[other], strict=True)) ** 0.5

    def first_of(values: list[float], best: float) -> int:
        return values.index(best)

    norms = [sum(a**2 for a in point) for point in points]
    chosen = [first_of(norms, max(norms))]
    while len(chosen) < medoids:
        nearest = [min(apart(point, other) for other in chosen) for point in range(len(points))]
        chosen.append(first_of(nearest, max(nearest)))
    while True:
        clusters: list[list[int]] = [[] for _ in chosen]
        for point in range(len(points)):
            to_chosen = [apart(point, other) for other in chosen]
            clusters[first_of(to_chosen, min(to_chosen))].append(point)
        sums = [[sum(max(apart(member, other), 0) for other in members) for member in members] for members in clusters]
        moved = [members[first_of(costs, min(costs))] for members, costs in zip(clusters, sums, strict=True)]
        if sum(max(apart(old, new), 0) for old, new in zip(chosen, moved, strict=True)) < 1e-6:
            return sorted(moved)
        chosen = moved


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.data(), st.integers(0, 2**32 - 1))
def test_the_medoids_against_loops(points: int, data: st.DataObject, seed: int) -> None:
    """Points at random, where only equal points tie; in half of the cases some are equal."""
    noise = np.random.default_rng(seed)
    point_PW = noise.normal(size=(points, 3)).astype(np.float32)
    point_PW = point_PW[noise.integers(0, points, size=points)] if data.draw(st.booleans()) else point_PW
    medoids = data.draw(st.integers(1, points))
    medoid_K = cluster(torch.from_numpy(point_PW), medoids)
    assert len(set(medoid_K.tolist())) == medoids
    assert medoid_K.tolist() == plain_medoids(point_PW, medoids)


def test_clusters_of_equal_points_end() -> None:
    """Frames of one colour: as many medoids as asked for, none of them twice."""
    assert cluster(torch.ones(6, 4), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("frames", range(1, 14))
@pytest.mark.parametrize("segments", range(1, 8))
def test_segments_are_numpys(frames: int, segments: int) -> None:
    parts = np.array_split(np.arange(frames), min(frames, segments))
    bounds = segment_bounds(frames, segments)
    assert bounds == [(int(part[0]), int(part[-1]) + 1) for part in parts]
    assert [middle(*segment) for segment in bounds] == [int(part[(len(part) - 1) // 2]) for part in parts]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The `--model` of one of TOWERS or REFUSED; each is made once."""
    base = tmp_path_factory.mktemp("towers")
    made: dict[str, str] = {}

    def write(name: str) -> str:
        if name not in made:
            made[name] = (TOWERS | REFUSED)[name].write(base / name)
        return made[name]

    return write


@pytest.fixture(scope="module")
def tower(model: Callable[[str], str]) -> Callable[[str], Clip]:
    """One of TOWERS as we load it; each is loaded once."""
    loaded: dict[str, Clip] = {}

    def load(name: str) -> Clip:
        if name not in loaded:
            loaded[name] = load_clip(model(name), None, CPU)
        return loaded[name]

    return load


def pictures(*lengths: int) -> list[Tensor]:
    """Videos of these lengths, as the tower takes them."""
    noise = torch.Generator().manual_seed(len(lengths))
    return [torch.randn(length, 3, 32, 32, generator=noise) for length in lengths]


def encoded(clip: Clip, inside: Inside, videos: list[Tensor], patches: Patches | None = None, piece: int = 7) -> list[EncodedVideo]:
    """The videos in their order, put in pieces that take turns."""
    encoder = video_encoder(clip, inside, patches, "float32")
    found: dict[str, EncodedVideo] = {}
    pieces = [(n, at) for at in range(0, max(map(len, videos)), piece) for n, video in enumerate(videos) if at < len(video)]
    for number, at in pieces:
        name, video = str(number), videos[number]
        found |= {done.video_id: done for done in encoder.put(name, video[at : at + piece])}
        if at + piece >= len(video):
            found |= {done.video_id: done for done in encoder.end(name)}
    found |= {done.video_id: done for done in encoder.flush()}
    return [found[str(number)] for number in range(len(videos))]


def embedded(visual: Any, image_NCHW: Tensor) -> tuple[Tensor, Tensor | None, list[Any]]:
    """The tokens in front of the first block, the rotations of the patches, and the blocks."""
    if hasattr(visual, "conv1"):
        patch_NMW = visual.conv1(image_NCHW).flatten(2).transpose(1, 2)
        class_N1W = visual.class_embedding.expand(len(image_NCHW), 1, -1)
        return (
            visual.ln_pre(torch.cat([class_N1W, patch_NMW], dim=1) + visual.positional_embedding),
            None,
            list(visual.transformer.resblocks),
        )
    trunk = visual.trunk
    patch_NMW = trunk.patch_embed(image_NCHW)
    if trunk.cls_token is not None:
        patch_NMW = torch.cat([trunk.cls_token.expand(len(image_NCHW), -1, -1), patch_NMW], dim=1)
    rope = None if getattr(trunk, "rope", None) is None else trunk.rope.get_embed()
    placed_NLW = patch_NMW if trunk.pos_embed is None else patch_NMW + trunk.pos_embed
    return trunk.norm_pre(placed_NLW), rope, list(trunk.blocks)


def features(visual: Any, token_NLW: Tensor) -> Tensor:
    """The features of the tokens behind the last block."""
    if hasattr(visual, "conv1"):
        feature_ND: Tensor = visual.ln_post(token_NLW[:, 0]) @ visual.proj
    else:
        feature_ND = visual.head(visual.trunk.forward_head(visual.trunk.norm(token_NLW)))
    return feature_ND


def through(block: Any, token_NLW: Tensor, rope: Tensor | None, shift: Callable[[Tensor], Tensor] = lambda token: token) -> Tensor:
    """One block, written out: x + attention(norm(x)), then x + mlp(norm(x)), each scaled by channel if the block has scales."""
    if hasattr(block, "ln_1"):
        normed_NLW = shift(block.ln_1(token_NLW))
        token_NLW = token_NLW + block.attn(normed_NLW, normed_NLW, normed_NLW, need_weights=False)[0]
        moved_NLW: Tensor = token_NLW + block.mlp(block.ln_2(token_NLW))
    else:
        given = {} if rope is None else {"rope": rope}
        scales = [1.0 if getattr(block, name, None) is None else getattr(block, name) for name in ("gamma_1", "gamma_2")]
        token_NLW = token_NLW + scales[0] * block.attn(shift(block.norm1(token_NLW)), **given)
        moved_NLW = token_NLW + scales[1] * block.mlp(block.norm2(token_NLW))
    return moved_NLW


@torch.no_grad()
def plain(clip: Clip, image_TCHW: Tensor, inside: Inside) -> Tensor:
    """The features of a video [T or S, D] by a tower that is written out, block for block."""
    visual = clip.model.visual
    token_TLW, rope, blocks = embedded(visual, image_TCHW)
    ropes = [rope if rope is None or rope.ndim == 2 else rope[number] for number in range(len(blocks))]
    layers = list(zip(blocks, ropes, strict=True))
    prefix = token_TLW.shape[1] - 16
    if inside.clusters is None:
        for block, rope in layers[:2]:
            token_TLW = through(block, token_TLW, rope)
        for block, rope in layers[2:]:
            token_TLW = through(block, token_TLW, rope, lambda token: plain_shift(token, prefix) if inside.shift else token)
        return features(visual, token_TLW)
    for block, rope in layers[: inside.clusters.block]:
        token_TLW = through(block, token_TLW, rope)
    rows: list[Tensor] = []
    for frames in np.array_split(np.arange(len(token_TLW)), min(len(token_TLW), inside.clusters.segments)):
        token_FLW = token_TLW[frames]
        point_PW = torch.cat([token_LW[prefix:] for token_LW in token_FLW])
        medoids = plain_medoids(point_PW.numpy(), inside.clusters.medoids)
        places = [medoid % 16 for medoid in medoids]
        token_1LW = torch.cat([token_FLW[:, :prefix].mean(dim=0), point_PW[medoids]])[None]
        for block, rope in layers[inside.clusters.block :]:
            token_1LW = through(block, token_1LW, None if rope is None else rope[..., places, :])
        rows.append(features(visual, token_1LW)[0])
    return torch.stack(rows)


def off_by(found: Any, expected: Any) -> float:
    """The difference as a share of the size, of the row where it is largest."""
    found, expected = (np.asarray(given, dtype=np.float64) for given in (found, expected))
    assert found.shape == expected.shape
    return float((np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)).max())


@pytest.mark.parametrize("name", long_but(QUICK, TOWERS))
@pytest.mark.parametrize("inside", [SHIFT, CLUSTERS], ids=["shift", "clusters"])
def test_a_tower_against_one_written_out(tower: Callable[[str], Clip], name: str, inside: Inside) -> None:
    """One frame, fewer than segments, as many as the segments divide and not; and more frames than a batch takes."""
    clip, videos = tower(name), pictures(1, 2, 12, 8, 5, 60 if inside.shift else 22)
    for video, found in zip(videos, encoded(clip, inside, videos), strict=True):
        expected_TD = plain(clip, video, inside)
        assert off_by(found.feature_TD, expected_TD) < ALIKE
        if len(video) > 1:
            frames_TD = plain(clip, video, UNCHANGED)[found.frame_T]
            assert off_by(expected_TD, frames_TD) > 100 * ALIKE


@pytest.mark.exact
@pytest.mark.parametrize("name", ["CLIP", "PE-Core"])
@pytest.mark.parametrize("inside", [SHIFT, CLUSTERS], ids=["shift", "clusters"])
def test_features_and_tokens_do_not_depend_on_other_videos(tower: Callable[[str], Clip], name: str, inside: Inside) -> None:
    """Bit for bit, in any order and in pieces of any size, and with the windows of a long video in other places."""
    clip, videos, tokens = tower(name), pictures(12, 3, 50, 9, 1), Patches(kept=2)
    together = encoded(clip, inside, videos, tokens)
    others = encoded(clip, inside, videos[::-1], tokens, piece=48)[::-1]
    for video, one, other in zip(videos, together, others, strict=True):
        assert one.patch_TMD is not None
        for again in (other, *encoded(clip, inside, [video], tokens, piece=1)):
            assert again.patch_TMD is not None
            assert np.array_equal(again.feature_TD, one.feature_TD)
            assert np.array_equal(again.patch_TMD, one.patch_TMD)
        assert again.frame_T == one.frame_T
    plain_tokens = encoded(clip, inside, videos[:1])[0]
    assert plain_tokens.patch_TMD is None
    assert np.array_equal(plain_tokens.feature_TD, together[0].feature_TD)


def test_the_patch_tokens_of_a_segment_are_its_medoids(tower: Callable[[str], Clip]) -> None:
    """K of them, behind the last block; together with the class token they are what the tower pools."""
    clip, (video,) = tower("CLIP"), pictures(7)
    with torch.no_grad():
        (found,) = encoded(clip, CLUSTERS, [video], Patches())
    assert found.patch_TMD is not None
    assert found.patch_TMD.shape == (3, 5, clip.dimension)
    assert found.frame_T == [1, 3, 5]


def test_a_video_that_fails_takes_no_other_with_it(tower: Callable[[str], Clip]) -> None:
    """Its frames that wait for a batch, and those of the video beside it in the batch."""
    good, bad = pictures(9, 20)
    for inside in (UNCHANGED, SHIFT, CLUSTERS):
        encoder = video_encoder(tower("CLIP"), inside, None, "float32")
        done = [*encoder.put("bad", bad[:6]), *encoder.put("good", good[:5]), *encoder.put("bad", bad[6:])]
        encoder.drop("bad")
        encoder.drop("of which no frame came")
        done += [*encoder.put("good", good[5:]), *encoder.end("good"), *encoder.flush()]
        assert [video.video_id for video in done] == ["good"]
        assert np.array_equal(done[0].feature_TD, encoded(tower("CLIP"), inside, [good])[0].feature_TD)


@pytest.fixture(scope="module")
def frames(model: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """A cache of videos of 2, 7 and 12 frames, as the tower makes it."""
    folder = tmp_path_factory.mktemp("frames")
    for count in (2, 7, 12):
        numbered_video(folder / "videos" / f"{count}.mp4", 5 * count, 5)
    return FeatureCache(main(ExtractOptions(folder / "videos", folder / "cache", model=model("CLIP"), device="cpu", quiet=True)))


@pytest.fixture
def options(frames: FeatureCache, model: Callable[[str], str], tmp_path: Path) -> ExtractOptions:
    """Another extraction of these videos."""
    shutil.copytree(frames.path.parent / "videos", tmp_path / "videos")
    return ExtractOptions(tmp_path / "videos", tmp_path / "cache", model=model("CLIP"), device="cpu", quiet=True)


def test_a_cache_of_segments(options: ExtractOptions, frames: FeatureCache, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each segment, at the time and with the thumbnail of its middle frame; later extractions do the same, tokens too."""
    segments = replace(options, token_clusters="block=2, segments=3,medoids=5")
    cache = FeatureCache(main(segments))
    assert cache.settings == {**frames.settings, "token_clusters": "segments=3,medoids=5,block=2"}
    assert "videos whose frames the segments do not divide: 2, such as " in capsys.readouterr().err
    for name, middles in (("2.mp4", [0, 1]), ("7.mp4", [1, 3, 5]), ("12.mp4", [1, 5, 9])):
        assert cache.seconds(name).tolist() == frames.seconds(name)[middles].tolist()
        assert cache.images("thumbnails", name) == [frames.images("thumbnails", name)[frame] for frame in middles]
        assert cache.frames(name).shape == (len(middles), 48)
        assert not np.array_equal(cache.frames(name), frames.frames(name)[middles])
    numbered_video(options.videos / "9.mp4", 45, 5)
    main(replace(options, tokens="patches:2", dry_run=True))
    assert "inside the vision tower: --token-clusters segments=3,medoids=5,block=2\n" in capsys.readouterr().out
    again = FeatureCache(main(replace(options, tokens="patches:2")))
    assert np.array_equal(again.frames("12.mp4"), cache.frames("12.mp4"))
    patch_RMD, counts = again.patches(["9.mp4", "2.mp4"], BUDGET).gather([0, 1])
    assert (patch_RMD.shape, counts.tolist()) == ((5, 2, 48), [3, 2])


def test_a_cache_of_shifted_tokens(options: ExtractOptions, frames: FeatureCache, tmp_path: Path) -> None:
    """As many rows as ever. The setting is followed, refused against a cache made without it, and exported."""
    cache = FeatureCache(main(replace(options, token_shift=True)))
    assert cache.settings == {**frames.settings, "token_shift": True}
    assert np.array_equal(cache.seconds("7.mp4"), frames.seconds("7.mp4"))
    assert not np.array_equal(cache.frames("7.mp4"), frames.frames("7.mp4"))
    assert with_defaults(options, FOLDER, cache.settings, ()).token_shift
    with pytest.raises(UserError, match="token_shift is None there and True here"):
        main(replace(options, videos=frames.path.parent / "videos", cache=frames.path, token_shift=True))
    clusters = "segments=3,medoids=5,block=2"
    with pytest.raises(UserError, match=f"token_clusters is None there and {clusters} here; token_shift is True there and None here"):
        main(replace(options, token_clusters=clusters))
    out = tmp_path / "exported"
    export(ExportOptions(cache.path, out, quiet=True))
    imported = FeatureCache(import_features(ImportOptions(tmp_path / "again", out / "videos", about=out / "about.json", quiet=True)))
    assert imported.settings["token_shift"] is True


@pytest.mark.parametrize("setting", [{"token_shift": True}, {"token_clusters": "segments=3,medoids=5,block=2"}])
def test_fine_tuning_refuses_features_that_it_would_not_make(frames: FeatureCache, setting: dict[str, Any], tmp_path: Path) -> None:
    """Even where all pictures are kept."""
    made = FeatureCache.create(tmp_path / "cache", {**frames.settings, **setting}, frames.clip_parts(), frames.provenance)
    option = f"--{next(iter(setting)).replace('_', '-')}"
    with pytest.raises(UserError, match=f"--finetune: the cache .* was made with {option}, which training does not repeat: extract"):
        require_pixels(made, [])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"token_clusters": "segments=3,medoids=5"}, "block missing: write them as in segments="),
        ({"token_clusters": "segments=3,medoids=5,block=2,blocks=1"}, "'blocks' is not one of segments, medoids, block: write"),
        ({"token_clusters": "segments=3,segments=5,block=2"}, "'segments' is given twice: write"),
        ({"token_clusters": "segments=3,medoids=0,block=2"}, "medoids must be a whole number of at least 1"),
        ({"token_clusters": "segments=1.5,medoids=2,block=2"}, "segments must be a whole number of at least 1"),
        ({"token_clusters": "segments=3,medoids=17,block=2"}, "medoids must be at most 16, the patch tokens of a frame"),
        ({"token_clusters": "segments=3,medoids=5,block=4"}, "block must be below 4, the number of blocks"),
        ({"token_clusters": "segments=3,medoids=5,block=2", "token_shift": True}, "that --token-shift could shift: leave one"),
        ({"token_clusters": "segments=3,medoids=5,block=2", "store_pixels": True}, "--store-pixels keeps pictures for fine-tuning"),
        ({"token_clusters": "segments=3,medoids=5,block=2", "max_frames": "all"}, "--max-frames must be a number"),
        (
            {"token_clusters": "segments=3,medoids=5,block=2", "tokens": "patches:6"},
            "with --token-clusters segments=3,medoids=5,block=2, or patches",
        ),
        ({"token_clusters": "segments=3,medoids=5,block=2", "model": DEMO_CLIP}, "is not a vision transformer"),
        ({"token_shift": True, "model": DEMO_CLIP}, "is not a vision transformer"),
        ({"token_shift": True, "model": "norms behind the attention"}, "that normalises before its attention: use one"),
        ({"token_shift": True, "model": "4 patches"}, "has 4 patch tokens a frame, which must be at least 13"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    change: dict[str, Any], line: str, model: Callable[[str], str], tmp_path: Path
) -> None:
    numbered_video(tmp_path / "videos" / "v.mp4", 5, 5)
    named = {"model": model(change["model"])} if change.get("model") in REFUSED else {}
    given: dict[str, Any] = {"model": model("CLIP"), **change, **named}
    with pytest.raises(UserError) as refusal:
        main(ExtractOptions(tmp_path / "videos", tmp_path / "cache", device="cpu", quiet=True, **given))
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not list((tmp_path / "cache").rglob("*.h5"))
