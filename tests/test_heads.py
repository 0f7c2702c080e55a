"""Every head against a plain reading of its equations (tests/plain_heads.py)."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import evaluate
import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from evaluate import EvaluateOptions
from tests.choice import long_but
from tests.features import PATCHES, D, random_features, text_batch, video_batch
from tests.plain_heads import plain_scores, random_parameters, rounding
from tests.training_runs import first_stage_of
from train_head import TrainOptions
from train_head.heads import HEADS, Head, HeadConfig, TextBatch, VideoBatch, make_head
from train_head.heads.glccl import HALVES

WORDS, FRAMES = 9, 7


def config(scores: str = "all") -> HeadConfig:
    return HeadConfig(D, WORDS, logit_scale=1.0, max_frames=FRAMES, scores=scores, patches=PATCHES)


def scored(head: Head, sentences: list[Tensor], words: list[Tensor], frames: list[Tensor], extra: int = 0) -> Tensor:
    videos = video_batch(frames, extra, fill=2.0)
    return head.scores(head.encode_texts(text_batch(sentences, words)), head.encode_videos(videos))


@pytest.mark.exact
@pytest.mark.parametrize("name", long_but(HEADS.keys() - HALVES.keys(), HEADS))
@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    word_counts=st.lists(st.integers(1, WORDS), min_size=1, max_size=4),
    frame_counts=st.lists(st.integers(1, FRAMES - 2), min_size=1, max_size=4),
)
def test_scores_equal_the_equations_and_padding_changes_nothing(
    name: str, seed: int, word_counts: list[int], frame_counts: list[int]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = random_features(generator, word_counts, frame_counts)
    torch.manual_seed(seed)
    head = make_head(name, config())
    parameters = random_parameters(head, seed)
    with torch.no_grad():
        scores = scored(head, *features)
        padded = scored(head, *features, extra=2)
    assert scores.shape == (len(head.score_names()), len(word_counts), len(frame_counts))
    assert ((scores - plain_scores(name, *features, parameters)).abs() <= rounding(name, *features, parameters)).all()
    assert torch.equal(padded, scores)


@pytest.mark.parametrize("name", [name for name, kind in HEADS.items() if not kind.OWN_BLOCKS])
def test_scores_behind_the_temporal_encoder_equal_the_equations(name: str) -> None:
    features = random_features(torch.Generator().manual_seed(7), [4, 1, 5], [3, 5, 1])
    torch.manual_seed(7)
    head = make_head(name, replace(config(), temporal="seq-transf", temporal_positions=FRAMES, temporal_heads=2)).requires_grad_(False)
    parameters = random_parameters(head, 7)
    assert head.temporal is not None
    given_ = name, *features, parameters, deepcopy(head.temporal).double()
    assert ((scored(head, *features, extra=2) - plain_scores(*given_)).abs() <= rounding(*given_)).all()


def test_the_video_of_xclip_is_the_mean_of_unit_frames() -> None:
    """Not the mean of frames, whose cosine with this sentence would be 0.949."""
    head = make_head("xclip", HeadConfig(2, max_words=1, logit_scale=1.0, max_frames=2, scores="video-sentence"))
    texts, videos = TextBatch(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([1])), torch.tensor([[[3.0, 0], [0, 1]]])
    scores_SAB = head.scores(head.encode_texts(texts), head.encode_videos(VideoBatch(videos, torch.ones(1, 2, dtype=torch.bool))))
    assert scores_SAB.item() == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("name", HEADS)
def test_texts_keep_their_order_over_many_blocks(name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    word_counts = torch.randint(1, WORDS + 1, (45,), generator=generator).tolist()
    sentences, words, frames = random_features(generator, word_counts, [3, 1, 5, 4])
    torch.manual_seed(0)
    head = make_head(name, config()).requires_grad_(False)
    random_parameters(head, 1)
    with torch.no_grad():
        together = scored(head, sentences, words, frames)
        for a in (0, 7, 44):
            assert torch.equal(scored(head, sentences[a : a + 1], words[a : a + 1], frames), together[:, a : a + 1])


@pytest.mark.parametrize("name", HEADS)
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    """With a zero sentence, a zero word, a zero frame and a video of zeros among the features."""
    generator = torch.Generator().manual_seed(5)
    sentences, words, frames = random_features(generator, [4, 2, 5], [3, 5, 2])
    sentences[0].zero_()
    words[1][1] = 0
    frames[0][1] = 0
    frames[2].zero_()
    torch.manual_seed(0)
    temporal = "none" if HEADS[name].OWN_BLOCKS else "seq-transf"
    head = make_head(name, replace(config(), temporal=temporal, temporal_positions=HEADS[name].block_positions(FRAMES)))
    random_parameters(head, 2)
    scores = scored(head, sentences, words, frames)
    scores.square().sum().backward()
    assert scores.isfinite().all()
    for parameter, value in head.named_parameters():
        if not value.requires_grad:
            continue
        assert value.grad is not None, parameter
        assert value.grad.isfinite().all(), parameter
        # A bias of all keys adds the same to every weight of a softmax; so does the last bias of a network before one.
        if parameter not in ("key.bias", "word_weight.2.bias", "frame_weight.2.bias") and "attn.in_proj_bias" not in parameter:
            assert value.grad.any(), parameter


@pytest.mark.parametrize(
    ("name", "scores"), [("glccl", "word-frame+video-sentence"), ("xclip", "sentence-frame"), ("glim-local", "word-frame")]
)
def test_a_subset_of_the_scores(name: str, scores: str) -> None:
    generator = torch.Generator().manual_seed(6)
    features = random_features(generator, [4, 2], [3, 5])
    whole, part = make_head(name, config()), make_head(name, config(scores))
    chosen = [i for i, score in enumerate(whole.score_names()) if score in scores.split("+")]
    assert torch.equal(scored(part, *features), scored(whole, *features)[chosen])
    if name == "glccl":
        assert set(part.state_dict()) == {"logit_scale", "M_g", "M_l", "P3", "P4", "P5", "P6"}


@pytest.mark.parametrize("half", HALVES)
def test_a_half_is_glccl_with_these_scores(half: str) -> None:
    features = random_features(torch.Generator().manual_seed(8), [4, 2, 7], [3, 5])
    preset, subset = make_head(half, config()), make_head("glccl", config("+".join(HALVES[half])))
    random_parameters(preset, 3)
    assert preset.name == half
    assert preset.state_dict().keys() == subset.state_dict().keys()
    subset.load_state_dict(preset.state_dict())
    assert preset.score_names() == subset.score_names() == list(HALVES[half])
    assert torch.equal(scored(preset, *features), scored(subset, *features))


@pytest.fixture
def options(patches_cache_path: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions(cache=patches_cache_path, out=tmp_path / "run", epochs=1, batch_size=32, lr=1e-3, device="cpu", quiet=True)


@pytest.mark.parametrize(
    "name",
    # One that scores pairs of a block, one that draws noise, and one that scores single pairs; tests of the stages have glccl and mean.
    long_but(["tight", "tmass", "xclip"], sorted(HEADS.keys() - {"glccl", "mean"})),
)
def test_every_head_trains_and_evaluates(options: TrainOptions, name: str, tmp_path: Path) -> None:
    if HEADS[name].OWN_BLOCKS:
        options = replace(options, batch_size=8, max_frames=4)
    run = train_head.main(replace(options, head=name, **first_stage_of(name)))
    evaluation = EvaluateOptions(
        cache=options.cache, run=str(run), out=tmp_path / "out", split="val", device="cpu", report=False, quiet=True
    )
    result = json.loads((evaluate.main(evaluation) / "metrics.json").read_text())
    assert result["text_to_video"] == pytest.approx(json.loads((run / "run.json").read_text())["val"]["text_to_video"])
    zero_shot = replace(evaluation, run=f"zero-shot:{name}", out=tmp_path / "zero")
    if HEADS[name].TRAINED_ONLY:
        with pytest.raises(UserError, match=rf"scores nothing before training: train it with python -m train_head --head {name}"):
            evaluate.main(zero_shot)
    else:
        assert json.loads((evaluate.main(zero_shot) / "metrics.json").read_text())["queries"] == 20


@pytest.mark.parametrize(
    ("head", "scores", "message"),
    [
        ("mean", "video-word", "head mean has one score"),
        ("glccl", "video", "all, or some of video-sentence, video-word"),
        ("glim-global", "word-frame", "all, or some of video-sentence, video-word, joined by"),
        ("glccl", "video-word+video-word", "each once"),
    ],
)
def test_wrong_scores_are_refused(options: TrainOptions, head: str, scores: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_head.main(replace(options, head=head, scores=scores))
    assert not options.out.exists()


def test_more_frames_than_the_matrices_take_are_refused(cache: FeatureCache, tmp_path: Path) -> None:
    from train_head.run import check_fits
    from train_head.scoring.splits import load_split

    head = make_head("xclip", replace(config(), dimension=cache.dimension, max_words=64, max_frames=2))
    with pytest.raises(UserError, match=r"the matrices of head xclip take 2: use --max-frames 2 or less"):
        check_fits(head, load_split(cache, "test", None, 10**9))
    check_fits(head, load_split(cache, "test", None, 10**9, max_frames=2))
