"""How a head starts: position tables and matrices for more frames than CLIP has positions, and towers that are not CLIP's."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import evaluate
import train_head
from data.base.errors import UserError
from data.cache import ClipParts, FeatureCache, TextEntry, VideoEntry
from evaluate import EvaluateOptions
from search import SearchOptions
from search.searcher import Searcher
from tests.caches import BUDGET, with_patches
from train_head import TrainOptions
from train_head.heads import HEADS
from train_head.run import load_head
from train_head.stage import build_head
from train_head.sweep import SweepOptions
from train_head.sweep import main as sweep
from train_head.temporal import SeqTransf, heads_for, make_blocks, more_rows

CPU = torch.device("cpu")
NO_TOWER = ClipParts({}, 20.0, 0, "unknown")
"""What a cache holds of an encoder that is not a CLIP."""


def cache_of(source: FeatureCache, path: Path, parts: ClipParts, frames: int | None = None) -> FeatureCache:
    """The features and captions of another cache with other parts of CLIP, and with this many frames of each video."""
    made = FeatureCache.create(path, source.settings, parts, source.provenance, extraction=source.extraction)
    videos = source.videos(source.names("videos"), BUDGET)
    entries = []
    for i, name in enumerate(videos.ids):
        frame_FD = videos.frames.gather([i])[0].numpy()
        count = len(frame_FD) if frames is None else frames
        entries.append(VideoEntry(name, frame_FD[np.arange(count) % len(frame_FD)], np.arange(count, dtype=np.float64), 1, 1))
    made.write_videos(entries)
    texts = source.texts(source.names("texts"), BUDGET)
    words, sentences = ([features.gather([i])[0].numpy() for i in range(len(texts.texts))] for features in (texts.words, texts.sentences))
    made.write_texts([TextEntry(text, words[i], sentences[i][0]) for i, text in enumerate(texts.texts)])
    made.write_table("demo", source.table())
    return FeatureCache(path)


def with_positions(parts: ClipParts, count: int) -> ClipParts:
    return replace(parts, tensors={**parts.tensors, "positional_embedding": parts.tensors["positional_embedding"][:count]})


@pytest.fixture
def long_videos(cache: FeatureCache, tmp_path: Path) -> FeatureCache:
    """Videos of 64 frames, as DiDeMo's, and a CLIP with 32 text positions, as PE-Core's."""
    return cache_of(cache, tmp_path / "long", with_positions(cache.clip_parts(), 32), frames=64)


@pytest.fixture
def options(tmp_path: Path) -> TrainOptions:
    return TrainOptions(tmp_path / "cache", tmp_path / "run", epochs=1, batch_size=32, lr=1e-3, device="cpu", quiet=True)


@pytest.fixture
def evaluation(tmp_path: Path) -> EvaluateOptions:
    return EvaluateOptions(tmp_path / "cache", "zero-shot:glccl", tmp_path / "out", device="cpu", report=False, quiet=True)


@pytest.mark.long
def test_videos_longer_than_clip_s_positions_train_and_evaluate(
    options: TrainOptions, evaluation: EvaluateOptions, long_videos: FeatureCache, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_head.main(replace(options, cache=long_videos.path))
    assert capsys.readouterr().err == (
        "temporal encoder: 64 positions; 32 are CLIP's, and 32 are added, drawn like CLIP's, for videos of up to 64 frames; --max-frames "
        "uses fewer\n"
    )
    record = json.loads((run / "run.json").read_text())
    assert record["start"] == {"temporal": {"from": "clip", "positions": 64, "positions_of_clip": 32, "positions_added": 32}}
    assert (record["head"]["temporal_positions"], record["head"]["max_frames"]) == (64, 64)
    evaluate.main(replace(evaluation, cache=long_videos.path, run=str(run), report=True))
    heads = load_head(str(run), long_videos, CPU)[0], build_head(replace(options, cache=long_videos.path), long_videos)
    trained, start = (head.get_parameter("temporal.positional_embedding").detach().numpy() for head in heads)
    np.testing.assert_array_equal(start[:32], long_videos.clip_parts().tensors["positional_embedding"])
    assert (trained[32:] != start[32:]).any(), "the added rows are not trained"


def test_max_frames_gives_the_rows(options: TrainOptions, long_videos: FeatureCache, capsys: pytest.CaptureFixture[str]) -> None:
    """Of matrices over frames too, which start as identities."""
    head = build_head(replace(options, head="xclip", max_frames=48), long_videos)
    assert (head.config.temporal_positions, head.config.max_frames) == (48, 48)
    for name in ("P2", "P4", "P5"):
        assert torch.equal(head.get_parameter(name), torch.eye(48))
    assert build_head(replace(options, head="xclip", max_frames=8), long_videos).config.max_frames == 32
    train_head.main(replace(options, cache=long_videos.path, head="xclip", max_frames=48))
    assert capsys.readouterr().err.splitlines() == [
        "temporal encoder: 48 positions; 32 are CLIP's, and 16 are added, drawn like CLIP's",
        "head xclip: matrices over 48 frames, 16 more than CLIP has positions; they start like the others",
    ]


@pytest.mark.parametrize(("head", "what"), [("mean", "the temporal encoder"), ("xclip", "the matrices of head xclip")])
def test_more_frames_than_memory_holds_are_refused(
    options: TrainOptions, evaluation: EvaluateOptions, cache_path: Path, head: str, what: str
) -> None:
    message = f"{what} would take 20,000 frames, and 16,384 is the most: use --max-frames 16384 or less"
    temporal = "none" if head == "xclip" else "seq-transf"
    with pytest.raises(UserError, match=message):
        train_head.main(replace(options, cache=cache_path, head=head, max_frames=20_000, temporal=temporal))  # type: ignore[arg-type]
    untrained = replace(evaluation, cache=cache_path, run=f"zero-shot:{head}", max_frames=20_000)
    if head == "xclip":
        with pytest.raises(UserError, match=message):
            evaluate.main(untrained)
    else:
        evaluate.main(untrained)


def test_an_untrained_head_takes_what_the_cache_holds(evaluation: EvaluateOptions, long_videos: FeatureCache) -> None:
    evaluate.main(replace(evaluation, cache=long_videos.path, run="zero-shot:xclip"))
    assert load_head("zero-shot:xclip", long_videos, CPU)[0].config.max_frames == 64
    assert load_head("zero-shot:xclip", long_videos, CPU, max_frames=12)[0].config.max_frames == 32


@pytest.mark.parametrize("head", ["glccl", "xclip"])
def test_a_run_of_fewer_frames_is_refused_and_takes_them_cut(
    options: TrainOptions, evaluation: EvaluateOptions, cache: FeatureCache, tmp_path: Path, head: str
) -> None:
    """As a run with --max-frames does by itself: it uses evenly spaced frames of whatever a cache holds."""
    most = len(cache.clip_parts().tensors["positional_embedding"])
    longer = cache_of(cache, tmp_path / "longer", cache.clip_parts(), frames=most + 5)
    run = train_head.main(replace(options, cache=cache.path, head=head))
    evaluation = replace(evaluation, cache=longer.path, run=str(run))
    with pytest.raises(UserError, match=rf"have up to {most + 5} frames, but the .* {most}.*: use --max-frames {most} or less"):
        evaluate.main(evaluation)
    assert json.loads((evaluate.main(replace(evaluation, max_frames=most)) / "metrics.json").read_text())["max_frames"] == most
    cut = train_head.main(replace(options, cache=cache.path, head=head, max_frames=6, out=tmp_path / "cut"))
    assert json.loads((evaluate.main(replace(evaluation, run=str(cut))) / "metrics.json").read_text())["max_frames"] == 6


def test_added_rows_are_drawn_like_the_table_and_leave_the_rest_alone(cache: FeatureCache) -> None:
    parts = cache.clip_parts()
    clip_PD = torch.from_numpy(parts.tensors["positional_embedding"])
    torch.manual_seed(3)
    state = torch.get_rng_state()
    many_RD = more_rows(clip_PD, 4000)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(more_rows(clip_PD, 4000), many_RD)
    # Standard errors of a mean and of a deviation over 4,000 draws, five times, for 128 dimensions.
    deviation_D = clip_PD.std(dim=0, correction=0)
    assert ((many_RD.mean(dim=0) - clip_PD.mean(dim=0)).abs() < 5 * deviation_D / 4000**0.5).all()
    assert ((many_RD.std(dim=0) - deviation_D).abs() < 5 * deviation_D / 8000**0.5).all()
    assert len(many_RD.unique(dim=0)) == 4000
    torch.manual_seed(4)
    assert not torch.equal(more_rows(clip_PD, 4000), many_RD)
    torch.manual_seed(3)
    usual, longer = (make_blocks(SeqTransf, cache.dimension, parts, "clip", len(clip_PD) + added) for added in (0, 9))
    frame_BFD, mask_BF = torch.randn(2, 7, cache.dimension), torch.ones(2, 7, dtype=torch.bool)
    assert torch.equal(longer(frame_BFD, mask_BF), usual(frame_BFD, mask_BF))


@pytest.mark.long
def test_without_a_tower_every_head_trains_and_evaluates(
    options: TrainOptions, evaluation: EvaluateOptions, cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = with_patches(cache_of(cache, tmp_path / "bare", NO_TOWER))
    for name in (name for name, kind in HEADS.items() if kind.STARTS_FROM_CLIP):
        run = train_head.main(replace(options, cache=bare.path, head=name, out=tmp_path / name))
        what, where = (f"blocks of head {name}: start", "cross") if HEADS[name].OWN_BLOCKS else ("temporal encoder: starts", "temporal")
        assert capsys.readouterr().err == f"{what} at random, because the cache holds no text blocks of a CLIP\n"
        record = json.loads((run / "run.json").read_text())
        assert record["trained_with"]["options"]["temporal_init"] == "random"
        start = {"from": "random", "positions": 77, "positions_of_clip": 0, "positions_added": 77}
        assert record["start"][where] == start | {"not_from_clip_because": "the cache holds no text blocks of a CLIP"}
        assert (record["head"]["temporal_heads"], record["head"]["temporal_activation"]) == (2, "QuickGELU")
        evaluate.main(replace(evaluation, cache=bare.path, run=str(run)))
        if not HEADS[name].TRAINED_ONLY:
            evaluate.main(replace(evaluation, cache=bare.path, run=f"zero-shot:{name}"))
        assert len(
            Searcher(SearchOptions(bare.path, str(run), device="cpu", quiet=True), queries=False).captions(
                0, bare.texts(bare.names("texts"), BUDGET)
            )
        )
    with pytest.raises(UserError, match=r"^--temporal-init clip: the cache holds no text blocks of a CLIP: use --temporal-init random or"):
        train_head.main(replace(options, cache=bare.path, temporal_init="clip"))
    assert not options.out.exists()


def changed(parts: ClipParts, how: str) -> ClipParts:
    tensors = dict(parts.tensors)
    if how == "a block less":
        tensors = {name: value for name, value in tensors.items() if not name.startswith("blocks.3.")}
    elif how == "a wider layer":
        tensors["blocks.0.mlp.c_fc.bias"] = np.zeros(7, np.float32)
    elif how == "a layer more":
        tensors["blocks.0.ls_1.gamma"] = np.zeros(7, np.float32)
    elif how == "wider positions":
        tensors["positional_embedding"] = np.zeros((77, 64), np.float32)
    elif how == "no blocks":
        tensors = {"positional_embedding": tensors["positional_embedding"]}
    return replace(parts, tensors=tensors)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("a block less", "the first 4 text blocks of the cache's CLIP are not plain Transformer blocks"),
        ("a wider layer", "the first 4 text blocks of the cache's CLIP are not plain Transformer blocks"),
        ("a layer more", "the first 4 text blocks of the cache's CLIP are not plain Transformer blocks"),
        ("wider positions", "the text blocks of the cache's CLIP are 64 wide, and features 128"),
        ("no blocks", "the cache holds no text blocks of a CLIP"),
        ("heads", "the text blocks of the cache's CLIP have 5 heads and activation QuickGELU"),
        ("activation", "the text blocks of the cache's CLIP have 2 heads and activation unknown"),
    ],
)
def test_a_tower_that_does_not_fit_is_named_and_left(
    options: TrainOptions, cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str, why: str
) -> None:
    parts = changed(cache.clip_parts(), how)
    parts = replace(parts, heads=5 if how == "heads" else parts.heads, activation="unknown" if how == "activation" else parts.activation)
    other = cache_of(cache, tmp_path / "other", parts)
    with pytest.raises(UserError) as refused:
        train_head.main(replace(options, cache=other.path, temporal_init="clip"))
    assert str(refused.value) == f"--temporal-init clip: {why}: use --temporal-init random or --temporal none"
    assert not options.out.exists()
    train_head.main(replace(options, cache=other.path, head="mean"))
    assert capsys.readouterr().err == f"temporal encoder: starts at random, because {why}\n"
    with pytest.raises(UserError) as refused:
        make_blocks(SeqTransf, cache.dimension, parts, "clip", 77)
    assert str(refused.value).startswith(f"--temporal-init clip: {why}")


def test_auto_is_the_value_that_it_stands_for(options: TrainOptions, cache: FeatureCache, tmp_path: Path) -> None:
    """On resume, and in a sweep, where both values of a grid would be the same run."""
    options = replace(options, cache=cache.path, head="mean")
    run = train_head.main(replace(options, temporal_init="random"))
    with pytest.raises(UserError, match="--temporal-init was random and is clip"):
        train_head.main(replace(options, resume=True))
    assert train_head.main(replace(options, temporal_init="random", resume=True)) == run
    # A finished run is compared with its record alone: the cache may be gone.
    bare = cache_of(cache, tmp_path / "bare", NO_TOWER)
    started = replace(options, cache=bare.path, out=tmp_path / "bare-run")
    run = train_head.main(started)
    assert train_head.main(replace(started, cache=tmp_path / "gone", resume=True)) == run
    grid = SweepOptions(
        cache=cache.path,
        out=tmp_path / "sweep",
        seeds=1,
        head="mean",
        epochs="1",
        batch_size="32",
        temporal_init="auto,clip,random",
        device="cpu",
        processes=1,
        quiet=True,
    )
    assert pd.read_csv(sweep(grid))["temporal_init"].tolist() == ["clip", "random"]


@given(st.integers(1, 3000))
def test_a_random_encoder_has_heads_that_divide_the_width(dimension: int) -> None:
    heads = heads_for(dimension)
    assert dimension % heads == 0
    assert heads <= max(1, dimension // 64)
    if dimension % 64 == 0:
        assert heads == dimension // 64


@pytest.mark.parametrize(("dimension", "heads"), [(512, 8), (768, 12), (1152, 18), (1000, 10), (100, 1), (67, 1)])
def test_a_random_encoder_of_any_width_encodes(dimension: int, heads: int) -> None:
    encoder = make_blocks(SeqTransf, dimension, NO_TOWER, "random", 5)
    assert isinstance(encoder, SeqTransf)
    assert encoder.shape() == {"temporal_positions": 5, "temporal_heads": heads, "temporal_activation": "QuickGELU"}
    found: Any = encoder(torch.randn(1, 3, dimension), torch.ones(1, 3, dtype=torch.bool))
    assert found.isfinite().all()
