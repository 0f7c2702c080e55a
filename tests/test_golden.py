"""Our heads and metrics against golden numbers of the systems they are named after (tests/golden/README.md).

Tolerances are absolute and belong to the golden numbers: several times the largest difference seen between a system's own float32 and
float64 runs. Padded cases of systems that do not mask as we do are compared twice: with the golden numbers where `padding` is "authors",
and with a plain float64 reading of real words and frames alone where it is "masked", the default.

Shape suffixes: A texts, B videos, L words, F frames, D joint dimension, S the scores of a pair.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.metrics import DIRECTIONS, RankCounter, Ranks, retrieval_metrics
from data.sampling import choose_frames
from evaluate.post_processing import BETA, Correction, FirstVideos, SoftmaxTotals, dual_softmax, dynamic_inverted_softmax
from extract.encode.clip import load_clip
from tests.conftest import DEMO_CLIP
from tests.plain_heads import Parameters, plain_scores
from train_head.heads import HEADS, Head, HeadConfig, TextBatch, VideoBatch, make_head, unit
from train_head.heads.base import SCORES, Padding
from train_head.heads.glccl import HALVES, MATRICES
from train_head.heads.pairs.tight import TightHead
from train_head.heads.xpool import XpoolHead
from train_head.kernels.blocks import Encoded
from train_head.losses import contrastive_loss, csc_loss
from train_head.scoring.pairs import Accumulator
from train_head.training.optimisers import BertAdam, bert_adam_groups, bert_adam_schedule

GOLDEN = Path(__file__).parent / "golden"
Arrays = dict[str, NDArray[Any]]
Weights = dict[str, NDArray[Any]]

BLOCK = {
    "ln_1": "norm1",
    "attn.in_proj_": "qkv",
    "attn.out_proj": "attention_out",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp_in",
    "mlp.c_proj": "mlp_out",
}
"""Our layers of a temporal block, and the names of the golden arrays for them."""
LSTM = {"weight_ih": "weight_input", "weight_hh": "weight_hidden", "bias_ih": "bias_input", "bias_hh": "bias_hidden"}
XCLIP = {
    "M_g": "sentence_video_matrix",
    "M_l": "word_frame_matrix",
    "P1": "word_video_mix",
    "P2": "sentence_frame_mix",
    "P3": "word_mix_first",
    "P4": "frame_mix_second",
    "P5": "frame_mix_first",
    "P6": "word_mix_second",
}
XPOOL = {
    "norm_in": "norm_input",
    "query": "query",
    "key": "key",
    "value": "value",
    "out": "attention_out",
    "norm_pooled": "norm_pooled",
    "fc": "linear",
    "norm_out": "norm_output",
}
WTI = {
    "word_weight.0": "word_weight_hidden",
    "word_weight.2": "word_weight_out",
    "frame_weight.0": "frame_weight_hidden",
    "frame_weight.2": "frame_weight_out",
}
PUBLISHED_ALPHAS = {"dp": (0.14, 0.0), "ti": (0.16, 0.0), "wti": (0.14, 0.0)}
"""DRL's scripts train with these factors of the channel decorrelation."""
GLCCL = {
    "M_g": "M_g",
    "M_l": "M_l",
    "P1": "P1_word_video",
    "P2": "P2_sentence_frame",
    "P3": "P3_word_first",
    "P4": "P4_frame_second",
    "P5": "P5_frame_first",
    "P6": "P6_word_second",
}
FOUR = ("sentence_video", "word_video", "sentence_frame", "word_frame")
"""Our four scores, in their order, by the golden names."""


def arrays(name: str) -> Arrays:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def layers(names: dict[str, str], golden: Arrays) -> Weights:
    """Weights and biases of layers."""
    return {f"{ours}.{kind}": golden[f"{theirs}_{kind}"] for ours, theirs in names.items() for kind in ("weight", "bias")}


def block_weights(module: str, golden: Arrays) -> Weights:
    """The two golden blocks; zeros at the end of both branches make our other two blocks the identity."""
    weights = {"positional_embedding": golden["position_embedding"]}
    for block in range(4):
        for ours, theirs in BLOCK.items():
            for kind in ("weight", "bias"):
                value = golden[f"block{block % 2}_{theirs}_{kind}"]
                unused = block > 1 and ours in ("attn.out_proj", "mlp.c_proj")
                separator = "" if ours.endswith("_") else "."
                weights[f"blocks.{block}.{ours}{separator}{kind}"] = np.zeros_like(value) if unused else value
    return {f"{module}.{name}": value for name, value in weights.items()}


@torch.no_grad()
def make(
    name: str,
    golden: Arrays,
    weights: Weights,
    temporal: str = "none",
    dtype: torch.dtype = torch.float32,
    padding: Padding = "masked",
) -> Head:
    """A head with the golden weights, every one of its parameters given, and the golden logit scale (1 where there is none)."""
    config: dict[str, Any] = {"padding": padding, "padded_frames": 8}
    if temporal == "seq-lstm":
        config["temporal"] = temporal
        weights = weights | {f"temporal.lstm.{ours}_l0": golden[f"lstm_{theirs}"] for ours, theirs in LSTM.items()}
    elif temporal != "none":
        config |= {"temporal_positions": len(golden["position_embedding"]), "temporal_heads": int(golden["heads"])}
        if temporal == "seq-transf":
            config["temporal"] = temporal
            weights = weights | block_weights("temporal", golden)
    head = make_head(name, HeadConfig(32, max_words=12, logit_scale=1.0, max_frames=8, **config)).to(dtype)
    weights = {"logit_scale": golden.get("log_logit_scale", np.zeros(())), **weights}
    assert weights.keys() == dict(head.named_parameters()).keys()
    for parameter, value in weights.items():
        head.get_parameter(parameter).copy_(torch.as_tensor(value))
    return head


def given(golden: Arrays, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """A golden input; masks as bool."""
    value = torch.from_numpy(golden[name])
    return value.bool() if name.endswith("mask") else value.to(dtype)


def padded_texts(sentence_AD: Tensor, word_ALD: Tensor, real_A: Tensor) -> TextBatch:
    """Texts that carry their padding."""
    return TextBatch(sentence_AD, word_ALD.flatten(0, 1), torch.full((len(word_ALD),), word_ALD.shape[1]), real_A.long())


def texts_of(sentence_AD: Tensor, word_ALD: Tensor, mask_AL: Tensor | None = None) -> TextBatch:
    """Texts whose words are all real, or those of a mask."""
    mask_AL = torch.ones(word_ALD.shape[:2], dtype=torch.bool) if mask_AL is None else mask_AL
    return TextBatch(sentence_AD, word_ALD[mask_AL], mask_AL.sum(dim=1))


def videos_of(frame_BFD: Tensor, mask_BF: Tensor | None = None) -> VideoBatch:
    """Videos whose frames are all real, or those of a mask."""
    return VideoBatch(frame_BFD, torch.ones(frame_BFD.shape[:2], dtype=torch.bool) if mask_BF is None else mask_BF)


def score(head: Head, texts: TextBatch, videos: VideoBatch) -> Tensor:
    return head.scores(head.encode_texts(texts), head.encode_videos(videos))


def encoded(blocks: list[Encoded], pick: Callable[[Any], Tensor]) -> Tensor:
    """What a head encoded of every text or video [N, ...], zero behind the end of what is in a block."""
    parts = [(block.rows, pick(block.block)[: len(block.rows)]) for block in blocks]
    out = torch.zeros(sum(len(rows) for rows, _ in parts), max(part.shape[1] for _, part in parts), *parts[0][1].shape[2:])
    for rows, part in parts:
        out[rows, : part.shape[1]] = part
    return out


def masked_reading(head: Head, texts: TextBatch, videos: VideoBatch) -> Tensor:
    """The same scores from the plain equations over real words and frames."""
    wide: Parameters = {name: parameter.detach().double() for name, parameter in head.named_parameters()}
    words = list(texts.word_RD.split(texts.length_A.tolist()))
    frames = [frame_FD[mask_F] for frame_FD, mask_F in zip(videos.frame_BFD, videos.mask_BF, strict=True)]
    temporal = None if head.temporal is None else head.temporal.double()
    with torch.no_grad():
        return plain_scores(head.name, list(texts.sentence_AD), words, frames, wide, temporal) * wide["logit_scale"].exp()


def near(found: Tensor, expected: NDArray[Any] | Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=0, atol=tolerance, check_dtype=False)


@pytest.mark.parametrize("case", ["full", "padded", "small"])
@pytest.mark.parametrize(("file", "temporal"), [("mean", "none"), ("seq_transf", "seq-transf"), ("seq_lstm", "seq-lstm")])
@torch.no_grad()
def test_clip4clip(file: str, temporal: str, case: str) -> None:
    golden = arrays(f"clip4clip_{file}")
    head = make("mean", golden, {}, temporal)
    sentence_AD = given(golden, f"{case}_sentences")
    texts = head.encode_texts(texts_of(sentence_AD, sentence_AD[:, None]))
    videos = head.encode_videos(videos_of(given(golden, f"{case}_frames"), given(golden, f"{case}_frame_mask")))
    near(encoded(videos, lambda feature_BD: feature_BD), golden[f"{case}_video_feature"], 2e-6)
    scores_SAB = head.scores(texts, videos)
    near(scores_SAB[0] / head.scale(), golden[f"{case}_cosines"], 2e-6)
    near(scores_SAB[0], golden[f"{case}_scores"], 1e-4)


@pytest.mark.parametrize("case", ["full", "padded", "small"])
@torch.no_grad()
def test_clip4clip_tight(case: str) -> None:
    golden = arrays("clip4clip_tight_transf")
    weights = block_weights("cross", golden) | layers({"pool_norm": "pool_norm", "pool_dense": "pool_dense", "score": "score"}, golden)
    # The head has no logit scale, whatever is stored under this name.
    weights["logit_scale"] = np.asarray(4.25)
    head = make("tight", golden, weights, "own blocks")
    sentence_AD = given(golden, f"{case}_sentences")
    texts = head.encode_texts(texts_of(sentence_AD, sentence_AD[:, None]))
    videos = head.encode_videos(videos_of(given(golden, f"{case}_frames"), given(golden, f"{case}_frame_mask")))
    assert isinstance(head, TightHead)
    near(head.pooled(texts, videos), golden[f"{case}_pooled"], 2e-5)
    near(head.scores(texts, videos)[0], golden[f"{case}_scores"], 1e-5)
    assert head.scale() == 1


def xclip(header: str, padding: Padding = "masked") -> tuple[Arrays, Head]:
    golden = arrays("xclip")
    weights = {ours: golden[theirs] for ours, theirs in XCLIP.items()}
    return golden, make("xclip", golden, weights, "seq-transf" if header == "transf" else "none", padding=padding)


@pytest.mark.parametrize("case", ["full", "padded"])
@pytest.mark.parametrize("header", ["none", "transf"])
@torch.no_grad()
def test_xclip(header: str, case: str) -> None:
    """X-CLIP masks padded frames in the feature of the video alone, and padded words nowhere."""
    golden, head = xclip(header)
    texts = texts_of(given(golden, f"{case}_sentences"), given(golden, f"{case}_words"))
    frame_BFD, mask_BF = given(golden, f"{case}_frames"), given(golden, f"{case}_frame_mask")
    masked_SAB, counted_SAB = score(head, texts, videos_of(frame_BFD, mask_BF)), score(head, texts, videos_of(frame_BFD))
    scores_SAB = torch.cat([masked_SAB[:2], counted_SAB[2:]])
    feature_BD = encoded(head.encode_videos(videos_of(frame_BFD, mask_BF)), lambda block: block.unit_video_BD)
    near(feature_BD, golden[f"{case}_{header}_video_feature"], 2e-6)
    for found_AB, name in zip(scores_SAB, FOUR, strict=True):
        near(found_AB, golden[f"{case}_{header}_{name}_score"], 5e-4)
    near(scores_SAB.mean(dim=0), golden[f"{case}_{header}_scores"], 2e-4)


@pytest.mark.parametrize("case", ["full", "padded"])
@pytest.mark.parametrize("header", ["none", "transf"])
@torch.no_grad()
def test_xclip_with_the_authors_padding(header: str, case: str) -> None:
    golden, head = xclip(header, "authors")
    real_A = given(golden, f"{case}_word_mask_not_used").sum(dim=1)
    texts = padded_texts(given(golden, f"{case}_sentences"), given(golden, f"{case}_words"), real_A)
    videos = videos_of(given(golden, f"{case}_frames"), given(golden, f"{case}_frame_mask"))
    of_texts, of_videos = head.encode_texts(texts), head.encode_videos(videos)
    video_BD, frame_BFD = encoded(of_videos, lambda block: block.unit_video_BD), encoded(of_videos, lambda block: block.unit_frame_BFD)
    word_ALD = encoded(of_texts, lambda block: block.word_ALD * block.word_norm_inverse_AL[..., None])
    similarities = {
        "sentence_video": encoded(of_texts, lambda block: block.mapped_sentence_AD) @ video_BD.T,
        "word_video": torch.einsum("ald,bd->alb", word_ALD, video_BD),
        "sentence_frame": torch.einsum("ad,bfd->abf", encoded(of_texts, lambda block: block.unit_sentence_AD), frame_BFD),
        "word_frame": torch.einsum("ald,bfd->albf", encoded(of_texts, lambda block: block.mapped_word_ALD), frame_BFD),
    }
    near(video_BD, golden[f"{case}_{header}_video_feature"], 2e-6)
    for name, similarity in similarities.items():
        near(similarity, golden[f"{case}_{header}_{name}_similarity"], 2e-6)
    scores_SAB = head.scores(of_texts, of_videos)
    for found_AB, name in zip(scores_SAB, FOUR, strict=True):
        near(found_AB, golden[f"{case}_{header}_{name}_score"], 5e-4)
    near(scores_SAB.mean(dim=0), golden[f"{case}_{header}_scores"], 2e-4)


@pytest.mark.parametrize("header", ["none", "transf"])
def test_xclip_in_training(header: str) -> None:
    """With gradients, where compiled loops aggregate."""
    golden, head = xclip(header)
    head.requires_grad_(True)
    texts = texts_of(given(golden, "full_sentences"), given(golden, "full_words"))
    scores_SAB = score(head, texts, videos_of(given(golden, "full_frames")))
    for found_AB, name in zip(scores_SAB.detach(), FOUR, strict=True):
        near(found_AB, golden[f"full_{header}_{name}_score"], 5e-4)
    near(scores_SAB.detach().mean(dim=0), golden[f"full_{header}_scores"], 2e-4)


@pytest.mark.parametrize("header", ["none", "transf"])
@torch.no_grad()
def test_xclip_with_padding_masked(header: str) -> None:
    golden, head = xclip(header)
    texts = texts_of(given(golden, "padded_sentences"), given(golden, "padded_words"), given(golden, "padded_word_mask_not_used").bool())
    videos = videos_of(given(golden, "padded_frames"), given(golden, "padded_frame_mask"))
    near(score(head, texts, videos), masked_reading(head, texts, videos), 5e-4)


@pytest.mark.parametrize(
    ("case", "sims", "masked"),
    [
        ("full", "full_sims", False),
        ("small", "small_sims", False),
        ("padded", "padded_sims", False),
        ("padded", "padded_sims_own_length", True),
    ],
)
@torch.no_grad()
def test_xpool(case: str, sims: str, masked: bool) -> None:
    """X-Pool has no mask: padding counts, or videos are cut to their length."""
    golden = arrays("xpool")
    head = make("xpool", golden, layers(XPOOL, golden))
    sentence_AD, frame_BFD = given(golden, f"{case}_sentences"), given(golden, f"{case}_frames")
    mask_BF = torch.arange(frame_BFD.shape[1]) < given(golden, f"{case}_frame_lengths")[:, None]
    texts = texts_of(sentence_AD, sentence_AD[:, None])
    near(score(head, texts, videos_of(frame_BFD, mask_BF if masked else None))[0], golden[sims], 2e-6)


@pytest.mark.parametrize("case", ["full", "small", "padded"])
@torch.no_grad()
def test_xpool_with_the_authors_padding(case: str) -> None:
    golden = arrays("xpool")
    head = make("xpool", golden, layers(XPOOL, golden), padding="authors")
    sentence_AD, frame_BFD = given(golden, f"{case}_sentences"), given(golden, f"{case}_frames")
    mask_BF = torch.arange(frame_BFD.shape[1]) < given(golden, f"{case}_frame_lengths")[:, None]
    texts = head.encode_texts(texts_of(sentence_AD, sentence_AD[:, None]))
    videos = head.encode_videos(videos_of(frame_BFD, mask_BF))
    near(head.scores(texts, videos)[0], golden[f"{case}_sims"], 2e-6)
    assert isinstance(head, XpoolHead)
    near(head.pooled(texts, videos).transpose(0, 1), golden[f"{case}_pooled"], 2e-5)


def drl(name: str, case: str, padding: Padding = "masked") -> tuple[Arrays, Head, TextBatch, VideoBatch]:
    """A head of DRL with its inputs. Texts carry their padding if it takes part."""
    golden = arrays(f"drl_{name}")
    head = make(name, golden, layers(WTI, golden) if name == "wti" else {}, padding=padding)
    word_ALD, mask_AL = given(golden, f"{case}_words"), given(golden, f"{case}_word_mask")
    texts = (
        texts_of(word_ALD[:, 0], word_ALD, mask_AL) if padding == "masked" else padded_texts(word_ALD[:, 0], word_ALD, mask_AL.sum(dim=1))
    )
    return golden, head, texts, videos_of(given(golden, f"{case}_frames"), given(golden, f"{case}_frame_mask"))


@pytest.mark.parametrize(("case", "padding"), [("full", "masked"), ("full", "authors"), ("padded", "authors")])
@pytest.mark.parametrize("name", ["dp", "ti", "wti"])
@torch.no_grad()
def test_drl(name: str, case: str, padding: Padding) -> None:
    golden, head, texts, videos = drl(name, case, padding)
    scores_SAB = score(head, texts, videos)
    near(scores_SAB[0] / head.scale(), golden[f"{case}_cosines"], 2e-6)
    near(scores_SAB[0], golden[f"{case}_scores"], 1e-4)
    # Texts that do not carry their padding, and videos of a batch without any, are padded with zeros.
    bare = texts_of(texts.sentence_AD, given(golden, f"{case}_words"), given(golden, f"{case}_word_mask"))
    near(score(head, bare, videos)[0], golden[f"{case}_scores"], 1e-4)
    short = int(videos.mask_BF[0].sum())
    first = VideoBatch(videos.frame_BFD[:1, :short], videos.mask_BF[:1, :short])
    near(score(head, bare, first)[0], golden[f"{case}_scores"][:, :1], 1e-4)


@pytest.mark.parametrize("padding", ["masked", "authors"])
@torch.no_grad()
def test_weights_of_wti(padding: Padding) -> None:
    golden, head, texts, videos = drl("wti", "padded", padding)
    for kind, blocks in (("word", head.encode_texts(texts)), ("frame", head.encode_videos(videos))):
        expected_NT = golden[f"padded_{kind}_weights"]
        near(encoded(blocks, lambda block: block.weight_NT)[:, : expected_NT.shape[1]], expected_NT, 2e-6)


@pytest.mark.parametrize("name", ["dp", "ti", "wti"])
@torch.no_grad()
def test_drl_with_padding_masked(name: str) -> None:
    """DRL sets the cosines of padding to 0, where a 0 is above every real cosine; we leave padding out of the maximum."""
    golden, head, texts, videos = drl(name, "padded")
    ours_AB = score(head, texts, videos)[0]
    near(ours_AB, masked_reading(head, texts, videos)[0], 1e-4)
    assert (ours_AB < torch.from_numpy(golden["padded_scores"]) + 1e-4).all()


@pytest.mark.parametrize("alphas", [None, "published"])
@pytest.mark.parametrize("case", ["full", "padded"])
@pytest.mark.parametrize("name", ["dp", "ti", "wti"])
def test_channel_decorrelation_of_drl(name: str, case: str, alphas: str | None) -> None:
    """The loss with its gradients; those of the names in the file. Where padding takes part, so do its features."""
    golden = arrays("drl_cdcr")
    head = make(name, golden, layers(WTI, golden) if name == "wti" else {}, padding="authors")
    word_NLD, frame_NFD = (given(golden, f"{case}_{kind}").requires_grad_() for kind in ("words", "frames"))
    texts = padded_texts(word_NLD[:, 0], word_NLD, given(golden, f"{case}_word_mask").sum(dim=1))
    videos = head.apply_temporal(videos_of(frame_NFD, given(golden, f"{case}_frame_mask")))
    loss = head.decorrelation(texts, videos) if alphas is None else head.decorrelation(texts, videos, PUBLISHED_ALPHAS[name])
    prefix = f"{case}_{name}_{alphas or 'default'}_"
    near(loss, golden[f"{prefix}loss"], 1e-4)
    loss.backward()
    sources = {"words": word_NLD, "frames": frame_NFD}
    sources |= {f"{theirs}_weight": head.get_parameter(f"{ours}.weight") for ours, theirs in WTI.items() if name == "wti"}
    expected = {key.removeprefix(prefix).removesuffix("_gradient"): key for key in golden if key.startswith(prefix) and "gradient" in key}
    assert sources.keys() == expected.keys()
    for source, tensor in sources.items():
        assert tensor.grad is not None
        near(tensor.grad, golden[expected[source]], 2e-5)


def glccl(dtype: torch.dtype, padding: Padding = "masked", name: str = "glccl") -> tuple[Arrays, Head]:
    golden = arrays("glccl_authors")
    chosen = [MATRICES[score] for score in HEADS[name].offered(name)]
    weights = {ours: golden[theirs] for ours, theirs in GLCCL.items() if any(ours in matrices for matrices in chosen)}
    return golden, make(name, golden, weights, dtype=dtype, padding=padding)


@pytest.mark.parametrize(
    ("case", "padding"), [("full", "masked"), ("padded", "masked"), ("padded", "authors")], ids=["full", "padded", "authors"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "plain"])
def test_glccl_with_its_losses_and_gradients(dtype: torch.dtype, case: str, padding: Padding) -> None:
    """The authors mask nothing, so all words and frames count: given as real ones, or as padding that counts.

    float32 goes through the compiled loops, float64 does not.
    """
    golden, head = glccl(dtype, padding)
    inputs = {name: given(golden, f"{case}_{name}", dtype).requires_grad_() for name in ("sentences", "words", "frames")}
    sources = {GLCCL[name]: head.get_parameter(name) for name in GLCCL} | inputs
    for gradient_of in ("csc", "total"):
        texts, videos = texts_of(inputs["sentences"], inputs["words"]), videos_of(inputs["frames"])
        if padding == "authors":
            texts = padded_texts(inputs["sentences"], inputs["words"], given(golden, f"{case}_word_lengths_not_used"))
            videos = videos_of(inputs["frames"], torch.arange(8) < given(golden, f"{case}_frame_lengths_not_used")[:, None])
        scores_SAB = score(head, texts, videos)
        for found_AB, name in zip(scores_SAB, FOUR, strict=True):
            near(found_AB, golden[f"{case}_{name}_score"], 1e-3)
        near(scores_SAB.mean(dim=0), golden[f"{case}_scores"], 1e-3)
        pairs = scores_SAB.shape[1]
        losses = {
            "contrastive": contrastive_loss(scores_SAB.mean(dim=0)),
            # The authors' mean over the pairs off the diagonal divides by N^2, and there are N (N - 1) of them.
            "csc": csc_loss(scores_SAB) * pairs / (pairs - 1),
        }
        losses["total"] = losses["contrastive"] + float(golden["csc_weight"]) * losses["csc"]
        for name, loss in losses.items():
            near(loss, golden[f"{case}_{name}_loss"], 1e-4)
        for source, gradient in zip(sources, torch.autograd.grad(losses[gradient_of], list(sources.values())), strict=True):
            expected = golden[f"{case}_{gradient_of}_gradient_{source}"]
            near(gradient, expected, 1e-3 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("case", ["full", "padded"])
@torch.no_grad()
def test_guided_features_of_glccl(case: str) -> None:
    """The features that no score builds, from the weights of the frames. Padding counts, so all words and frames are given as real."""
    golden, head = glccl(torch.float32, "authors")
    frame_BFD = given(golden, f"{case}_frames")
    weights = head.frame_weights(texts_of(given(golden, f"{case}_sentences"), given(golden, f"{case}_words")), videos_of(frame_BFD))
    assert weights.sentence_ABF is not None
    assert weights.word_ABLF is not None
    near(unit(torch.einsum("abf,bfd->abd", weights.sentence_ABF, frame_BFD)), golden[f"{case}_sentence_guided_video"], 2e-6)
    near(unit(torch.einsum("ablf,bfd->abld", weights.word_ABLF, frame_BFD)), golden[f"{case}_word_guided_frames"], 2e-6)


@pytest.mark.parametrize("half", HALVES)
@torch.no_grad()
def test_the_halves_of_glccl_with_the_authors_padding(half: str) -> None:
    golden, head = glccl(torch.float32, "authors", half)
    texts = padded_texts(given(golden, "padded_sentences"), given(golden, "padded_words"), given(golden, "padded_word_lengths_not_used"))
    mask_BF = torch.arange(8) < given(golden, "padded_frame_lengths_not_used")[:, None]
    scores_SAB = score(head, texts, videos_of(given(golden, "padded_frames"), mask_BF))
    names = [theirs for ours, theirs in zip(SCORES, FOUR, strict=True) if ours in HALVES[half]]
    for found_AB, name in zip(scores_SAB, names, strict=True):
        near(found_AB, golden[f"padded_{name}_score"], 1e-3)


@torch.no_grad()
def test_glccl_with_padding_masked() -> None:
    golden, head = glccl(torch.float32)
    word_mask_AL = torch.arange(12) < given(golden, "padded_word_lengths_not_used")[:, None]
    frame_mask_BF = torch.arange(8) < given(golden, "padded_frame_lengths_not_used")[:, None]
    texts = texts_of(given(golden, "padded_sentences"), given(golden, "padded_words"), word_mask_AL)
    videos = videos_of(given(golden, "padded_frames"), frame_mask_BF)
    scores_SAB = score(head, texts, videos)
    near(scores_SAB, masked_reading(head, texts, videos), 1e-3)
    # As docs/baselines.md says.
    moved_AB = scores_SAB.mean(dim=0) - torch.from_numpy(golden["padded_scores"])
    assert moved_AB.abs().max().item() == pytest.approx(22.1, abs=0.05)


def test_bert_adam() -> None:
    golden = arrays("bert_adam")
    names = [str(name) for name in golden["names"]]
    parameters = {name: torch.nn.Parameter(given(golden, f"start_{name.replace('.', '_')}")) for name in names}
    peak, coefficient, steps = 0.02, 0.25, 40
    groups = bert_adam_groups(parameters.items(), peak, peak * coefficient, 0.2)
    place = {name: i for i, group in enumerate(groups) for name, own in parameters.items() if any(own is one for one in group["params"])}
    assert len(place) == sum(len(group["params"]) for group in groups) == len(names)
    optimiser = BertAdam(groups)
    schedule = bert_adam_schedule(optimiser, steps)
    for step in range(steps):
        for name, group in zip(names, golden["group"], strict=True):
            ours = optimiser.param_groups[place[name]]
            assert ours["lr"] == pytest.approx(golden["learning_rates"][step, group], rel=0, abs=1e-12)
            assert ours["weight_decay"] == golden["group_weight_decay"][group]
            parameters[name].grad = given(golden, f"gradients_{name.replace('.', '_')}")[step]
        optimiser.step()
        schedule.step()
        for name, parameter in parameters.items():
            near(parameter.detach(), golden[f"after_{name.replace('.', '_')}"][step], 1e-5)


def golden_figures(golden: Arrays, name: str) -> dict[str, float]:
    return dict(zip(("R@1", "R@5", "R@10", "MdR", "MnR"), golden[name].tolist(), strict=True))


def entries(ranks: Ranks) -> list[int]:
    """Ranks from 0 of the answer and all that ties with it, query by query."""
    return [rank - 1 for best, worst in zip(ranks.best_Q, ranks.worst_Q, strict=True) for rank in range(best, worst + 1)]


@pytest.mark.parametrize("case", ["single_no_ties", "single_ties", "several_no_ties", "several_ties"])
def test_metrics(case: str) -> None:
    """As CLIP4Clip counts ties; the default credits them by expectation, which agrees where there are none."""
    golden = arrays("metrics")
    score_AB = golden[f"{case}_scores"]
    answers = golden["several_answers"] if case.startswith("several") else np.arange(len(score_AB))
    figures, expected = retrieval_metrics(score_AB, answers, ties="reference"), retrieval_metrics(score_AB, answers)
    counter = RankCounter(answers, score_AB.shape[1])
    counter.update(torch.from_numpy(score_AB), torch.arange(score_AB.shape[0]), torch.arange(score_AB.shape[1]))
    for direction, ranks in zip(DIRECTIONS, counter.ranks(), strict=True):
        published = golden_figures(golden, f"{case}_{direction}")
        assert {name: figures[direction][name] for name in published} == pytest.approx(published, abs=2e-5, rel=0)
        if "no_ties" in case:
            assert expected[direction] == pytest.approx(published, abs=2e-5, rel=0)
        if f"{case}_{direction}_ranks0" in golden:
            assert entries(ranks) == golden[f"{case}_{direction}_ranks0"].tolist()
            assert figures[direction]["entries"] == len(entries(ranks))


def test_metrics_of_several_captions_where_ties_are_sorted_stably() -> None:
    golden = arrays("metrics")
    figures = retrieval_metrics(golden["several_ties_scores"], golden["several_answers"], ties="reference")["text_to_video"]
    published = golden_figures(golden, "several_ties_text_to_video_with_stable_sort")
    assert {name: figures[name] for name in published} == pytest.approx(published, abs=2e-5, rel=0)


def seen(accumulator: Accumulator, score_AB: Tensor) -> None:
    """Show an accumulator all scores in blocks."""
    for texts in torch.arange(len(score_AB)).split(4):
        for videos in torch.arange(score_AB.shape[1]).split(5):
            accumulator.update(score_AB[None, texts][..., videos], texts, videos)


def corrected(correct: Correction, score_AB: Tensor) -> Tensor:
    return correct(score_AB, torch.arange(len(score_AB)), torch.arange(score_AB.shape[1]))


BOTH: tuple[Literal["text_to_video"], Literal["video_to_text"]] = ("text_to_video", "video_to_text")
# Totals of exponentials are logarithms in float32: half a unit in their last place is a relative error of the corrected score.
ROUNDED = 2.0**-24


def test_dual_softmax() -> None:
    """CAMoE's at temperature 1 but for its factor, the number of texts, and TS2-Net's from text to video."""
    golden = arrays("dual_softmax")
    score_AB = torch.from_numpy(golden["scores"])
    totals = SoftmaxTotals(*score_AB.shape)
    seen(totals, score_AB)
    to_video_AB, to_text_AB = (corrected(dual_softmax(totals, direction), score_AB) for direction in BOTH)
    largest_log = max(totals.over_texts().abs().max().item(), totals.over_videos().abs().max().item())
    tolerance = 1e-9 + ROUNDED * largest_log * score_AB.abs().max().item()
    near(to_video_AB, golden["ts2net_text_to_video_matrix"], tolerance)
    near(to_video_AB, golden["camoe_temperature1_text_to_video_matrix"] / len(score_AB), tolerance)
    near(to_text_AB.T, golden["camoe_temperature1_video_to_text_matrix"] / len(score_AB), tolerance)


def test_dual_softmax_at_the_temperature_of_camoe() -> None:
    """Scores at a thousandth, which is what a temperature of 1000 does in the softmax."""
    golden = arrays("dual_softmax")
    score_AB = torch.from_numpy(golden["scores"]) / 1000
    totals = SoftmaxTotals(*score_AB.shape)
    seen(totals, score_AB)
    largest_log = max(totals.over_texts().abs().max().item(), totals.over_videos().abs().max().item())
    for direction in BOTH:
        found_AB = corrected(dual_softmax(totals, direction), score_AB) * 1000 * len(score_AB)
        expected = golden[f"camoe_temperature1000_{direction}_matrix"]
        tolerance = 1e-9 + ROUNDED * largest_log * float(np.abs(expected).max())
        near(found_AB if direction == "text_to_video" else found_AB.T, expected, tolerance)


def test_qb_norm() -> None:
    """At its default, k = 1 and beta = 20. Ours ranks by logarithms."""
    golden = arrays("qb_norm")
    cosine_AB, bank_TB = torch.from_numpy(golden["test_similarities"]), torch.from_numpy(golden["bank_similarities"])
    bank = SoftmaxTotals(len(bank_TB), bank_TB.shape[1], BETA)
    bank_firsts, firsts = FirstVideos(len(bank_TB)), FirstVideos(len(cosine_AB))
    for accumulator, score_AB in ((bank, bank_TB), (bank_firsts, bank_TB), (firsts, cosine_AB)):
        seen(accumulator, score_AB)
    assert bank_firsts.video_A.unique().tolist() == sorted(golden["k1_retrieved_videos"].tolist())
    correct, share = dynamic_inverted_softmax(bank, bank_firsts, firsts, logit_scale=1.0)
    active = golden["k1_beta20_activated_queries"]
    assert share == len(active) / len(cosine_AB)
    found_AB, expected_AB = corrected(correct, cosine_AB), torch.from_numpy(golden["k1_beta20_output"]).clone()
    expected_AB[active] = expected_AB[active].log()
    near(found_AB, expected_AB, 1e-10 + ROUNDED * bank.over_texts().abs().max().item())


def test_choice_of_frames() -> None:
    golden = arrays("frames")
    for available, most, count, chosen in zip(
        *(golden[name] for name in ("sampled_frames", "max_frames", "chosen_count", "chosen")), strict=True
    ):
        assert choose_frames(int(available), int(most)).tolist() == chosen[:count].tolist()


@pytest.mark.parametrize("max_words", [12, 32, 64])
def test_tokens(max_words: int) -> None:
    golden = arrays("tokens")
    clip = replace(load_clip(DEMO_CLIP, None, torch.device("cpu")), context_length=77)
    ids_NL, length_N = clip.tokenize(golden["captions"].tolist(), max_words)
    np.testing.assert_array_equal(ids_NL[:, :max_words], golden[f"max_words{max_words}_ids"])
    assert not ids_NL[:, max_words:].any()
    np.testing.assert_array_equal(length_N, golden[f"max_words{max_words}_mask"].sum(axis=1))
