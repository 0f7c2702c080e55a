"""Our heads and metrics against golden numbers of the systems they are named after (tests/golden/README.md).

Tolerances are absolute and belong to the golden numbers: several times the largest difference seen between a system's own float32 and
float64 runs. Padded cases of systems that do not mask as we do are compared with a plain float64 reading of real words and frames alone.

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
from train_head.heads import Head, HeadConfig, TextBatch, VideoBatch, make_head
from train_head.kernels.blocks import Encoded
from train_head.losses import contrastive_loss, csc_loss
from train_head.scoring.pairs import Accumulator

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


def temporal_weights(golden: Arrays) -> Weights:
    """The two golden blocks; zeros at the end of both branches make our other two blocks the identity."""
    weights = {"positional_embedding": golden["position_embedding"]}
    for block in range(4):
        for ours, theirs in BLOCK.items():
            for kind in ("weight", "bias"):
                value = golden[f"block{block % 2}_{theirs}_{kind}"]
                unused = block > 1 and ours in ("attn.out_proj", "mlp.c_proj")
                separator = "" if ours.endswith("_") else "."
                weights[f"blocks.{block}.{ours}{separator}{kind}"] = np.zeros_like(value) if unused else value
    return {f"temporal.{name}": value for name, value in weights.items()}


@torch.no_grad()
def make(name: str, golden: Arrays, weights: Weights, temporal: bool = False, dtype: torch.dtype = torch.float32) -> Head:
    """A head with the golden weights, every one of its parameters given, and the golden logit scale (1 where there is none)."""
    config: dict[str, Any] = {}
    if temporal:
        config = {"temporal": "seq-transf", "temporal_positions": len(golden["position_embedding"]), "temporal_heads": int(golden["heads"])}
        weights = weights | temporal_weights(golden)
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
    out = torch.zeros(sum(len(rows) for rows, _ in parts), max(part.shape[1] for _, part in parts))
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
@pytest.mark.parametrize("file", ["clip4clip_mean", "clip4clip_seq_transf"])
@torch.no_grad()
def test_clip4clip(file: str, case: str) -> None:
    golden = arrays(file)
    head = make("mean", golden, {}, temporal=file.endswith("transf"))
    sentence_AD = given(golden, f"{case}_sentences")
    texts = head.encode_texts(texts_of(sentence_AD, sentence_AD[:, None]))
    videos = head.encode_videos(videos_of(given(golden, f"{case}_frames"), given(golden, f"{case}_frame_mask")))
    near(encoded(videos, lambda feature_BD: feature_BD), golden[f"{case}_video_feature"], 2e-6)
    scores_SAB = head.scores(texts, videos)
    near(scores_SAB[0] / head.scale(), golden[f"{case}_cosines"], 2e-6)
    near(scores_SAB[0], golden[f"{case}_scores"], 1e-4)


def xclip(header: str) -> tuple[Arrays, Head]:
    golden = arrays("xclip")
    return golden, make("xclip", golden, {ours: golden[theirs] for ours, theirs in XCLIP.items()}, temporal=header == "transf")


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


@torch.no_grad()
def wti(case: str) -> tuple[Arrays, Head, TextBatch, VideoBatch]:
    golden = arrays("drl_wti")
    word_ALD = given(golden, f"{case}_words")
    texts = texts_of(word_ALD[:, 0], word_ALD, given(golden, f"{case}_word_mask"))
    videos = videos_of(given(golden, f"{case}_frames"), given(golden, f"{case}_frame_mask"))
    return golden, make("wti", golden, layers(WTI, golden)), texts, videos


@torch.no_grad()
def test_wti() -> None:
    golden, head, texts, videos = wti("full")
    scores_SAB = score(head, texts, videos)
    near(scores_SAB[0] / head.scale(), golden["full_cosines"], 2e-6)
    near(scores_SAB[0], golden["full_scores"], 1e-4)


@torch.no_grad()
def test_wti_with_padding_masked() -> None:
    """DRL sets the cosines of padding to 0, where a 0 is above every real cosine; we leave padding out of the maximum."""
    golden, head, texts, videos = wti("padded")
    ours_AB = score(head, texts, videos)[0]
    near(ours_AB, masked_reading(head, texts, videos)[0], 1e-4)
    assert (ours_AB < torch.from_numpy(golden["padded_scores"]) + 1e-4).all()
    for kind, blocks in (("word", head.encode_texts(texts)), ("frame", head.encode_videos(videos))):
        expected_NT = golden[f"padded_{kind}_weights"]
        near(encoded(blocks, lambda block: block.weight_NT)[:, : expected_NT.shape[1]], expected_NT, 2e-6)


def glccl(dtype: torch.dtype) -> tuple[Arrays, Head]:
    golden = arrays("glccl_authors")
    return golden, make("glccl", golden, {ours: golden[theirs] for ours, theirs in GLCCL.items()}, dtype=dtype)


@pytest.mark.parametrize("case", ["full", "padded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "plain"])
def test_glccl_with_its_losses_and_gradients(dtype: torch.dtype, case: str) -> None:
    """The authors mask nothing, so all words and frames count. float32 goes through the compiled loops, float64 does not."""
    golden, head = glccl(dtype)
    inputs = {name: given(golden, f"{case}_{name}", dtype).requires_grad_() for name in ("sentences", "words", "frames")}
    sources = {GLCCL[name]: head.get_parameter(name) for name in GLCCL} | inputs
    for gradient_of in ("csc", "total"):
        scores_SAB = score(head, texts_of(inputs["sentences"], inputs["words"]), videos_of(inputs["frames"]))
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
