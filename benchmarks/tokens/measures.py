"""Compare two measures by which K patch tokens of a frame can be chosen: the attention of the class token, and the norm.

A trained CLIP encodes the demo's videos. Of each frame only K patch tokens are kept, and texts search for their videos by what is left:
by the best token of each frame, averaged over the frames, and by the best token of the whole video.

Shape suffixes: A texts, V videos, T frames of a video, M patch tokens of a frame, K of them that are kept, D joint dimension, N pictures of
a batch, P positions of the tower, H heads of attention, d the width of a head.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.base.errors import UserError
from data.cache import FeatureCache
from extract import ExtractOptions
from extract import main as extract
from extract.decode.pictures import pixels_file, read_pixels
from extract.decode.sample import Sampling, sample_frames
from extract.encode.clip import BATCH, Clip
from extract.encode.image.patches import Patches
from train_head.scoring.splits import Split, load_split

KEPT = (1, 4, 8)
FRAMES = 12
BUDGET = 2**31

Row = dict[str, Any]
Measure = Callable[[str, Tensor], Tensor]
"""From a video's id and patch tokens [T, M, D] to a number for each token [T, M], larger for those to keep."""


def require_class_token(clip: Clip, model: str) -> None:
    """Raise UserError if the image tower is not one of open_clip's with a class token."""
    visual = clip.model.visual
    if getattr(visual, "pool_type", None) != "tok" or visual.attn_pool is not None:
        raise UserError(f"--trained {model} does not pool a class token: name a CLIP of open_clip that does")


@contextmanager
def inputs_of_last_block(clip: Clip) -> Iterator[list[Tensor]]:
    """What enters the last block of the image tower [N, P, W], for every batch within the context."""
    found: list[Tensor] = []
    block = clip.model.visual.transformer.resblocks[-1]
    hook = block.register_forward_pre_hook(lambda _block, given: found.append(given[0]))
    try:
        yield found
    finally:
        hook.remove()


@torch.no_grad()
def attention_of_class_token(clip: Clip, image_NCHW: Tensor) -> Tensor:
    """How much the class token attends to each patch in the last block, averaged over the heads [N, M]."""
    block = clip.model.visual.transformer.resblocks[-1]
    with inputs_of_last_block(clip) as entered:
        clip.encode_images(image_NCHW)
    seen_NPW = block.ln_1(entered[0][: len(image_NCHW)])
    attention = block.attn
    query, key, _ = attention.in_proj_weight.chunk(3)
    query_bias, key_bias, _ = attention.in_proj_bias.chunk(3)

    def by_head(projected_NPW: Tensor) -> Tensor:
        return projected_NPW.reshape(*projected_NPW.shape[:2], attention.num_heads, -1).transpose(1, 2)

    query_NH1d, key_NHPd = by_head(seen_NPW[:, :1] @ query.T + query_bias), by_head(seen_NPW @ key.T + key_bias)
    weight_NH1P: Tensor = (query_NH1d @ key_NHPd.transpose(2, 3) / query_NH1d.shape[-1] ** 0.5).softmax(dim=-1)
    return weight_NH1P.mean(dim=1)[:, 0, 1:]


def measures_of(clip: Clip, videos: Path) -> Mapping[str, Measure]:
    """The measures by name. Chance is the control."""
    generator = torch.Generator().manual_seed(0)

    def by_attention(video_id: str, _: Tensor) -> Tensor:
        pictures = sample_frames(videos / f"{video_id}.mp4", Sampling(max_frames=FRAMES), clip.shrink).pictures
        image_TCHW = torch.stack([clip.to_tensor(picture) for picture in pictures])
        return torch.cat([attention_of_class_token(clip, part) for part in image_TCHW.split(BATCH)])

    return {
        "attention": by_attention,
        "norm": lambda _, patch_TMD: patch_TMD.norm(dim=2),
        "chance": lambda _, patch_TMD: torch.rand(patch_TMD.shape[:2], generator=generator),
    }


def found_in(score_AV: Tensor, answers: NDArray[np.int64]) -> Row:
    """Recalls in percent; a text's rank counts the videos that score higher than its own."""
    own_A1 = score_AV.gather(1, torch.from_numpy(answers)[:, None])
    rank_A = 1 + (score_AV > own_A1).sum(dim=1)
    return {f"R@{k}": round(float((rank_A <= k).double().mean()) * 100, 2) for k in (1, 5)}


def search(split: Split, chosen: Mapping[str, Tensor] | None, clip_text_AD: Tensor) -> Row:
    """Search with the tokens at these places [T, K] of each video, or with all."""
    columns: dict[str, list[Tensor]] = {"frames": [], "video": []}
    assert split.videos.patches is not None
    for i, name in enumerate(split.videos.ids):
        patch_TMD = torch.nn.functional.normalize(split.videos.patches.gather([i])[0].float(), dim=2)
        cosine_ATM = (clip_text_AD @ patch_TMD.flatten(0, 1).T).unflatten(1, patch_TMD.shape[:2])
        if chosen is not None:
            cosine_ATM = cosine_ATM.gather(2, chosen[name].expand(len(cosine_ATM), -1, -1))
        best_AT = cosine_ATM.amax(dim=2)
        columns["frames"].append(best_AT.mean(dim=1))
        columns["video"].append(best_AT.amax(dim=1))
    frames, video = (found_in(torch.stack(scores, dim=1), split.answers) for scores in columns.values())
    return {f"best of each frame, {k}": v for k, v in frames.items()} | {f"best of the video, {k}": v for k, v in video.items()}


def change_by_jpeg(clip: Clip, files: Sequence[Path]) -> Row:
    """How much patch tokens change if they are made of the pixels that --store-pixels keeps: cosine to those of the file itself."""
    cosines: list[Tensor] = []
    for file in files:
        pictures = sample_frames(file, Sampling(max_frames=FRAMES), clip.shrink).pictures
        stored = [read_pixels(pixels_file(picture)) for picture in pictures]
        direct, again = (
            torch.from_numpy(clip.encode_images(torch.stack([clip.to_tensor(picture) for picture in some]), Patches()).patch_NMD)
            for some in (pictures, stored)
        )
        cosines.append(torch.cosine_similarity(direct, again, dim=2).flatten())
    cosine = torch.cat(cosines)
    return {
        "patch tokens": len(cosine),
        "mean cosine": round(float(cosine.mean()), 5),
        "1 in 100 is below": round(float(cosine.quantile(0.01)), 5),
        "smallest cosine": round(float(cosine.min()), 5),
    }


def compare_measures(clip: Clip, model: str, demo: Path, folder: Path) -> list[Row]:
    """A row for each measure and K: recalls, and the share that the kept tokens have of the sum of the measure.

    `demo` is the folder of a demo data set.
    """
    cache = FeatureCache(
        extract(
            ExtractOptions(
                demo / "videos", folder / "measured", demo / "annotations", dataset="demo", model=model, max_frames=FRAMES,
                tokens="patches", thumbnails=False, dtype="float32", quiet=True, device="cpu",
            )
        )
    )  # fmt: skip
    split = load_split(cache, "test", None, BUDGET, patches=True)
    text_AD = torch.nn.functional.normalize(torch.as_tensor(split.texts.sentences.gather(range(len(split.texts.texts)))[0]).float(), dim=1)
    measured: dict[str, dict[str, Tensor]] = {name: {} for name in ("attention", "norm", "chance")}
    assert split.videos.patches is not None
    for name, measure in measures_of(clip, demo / "videos").items():
        for i, video_id in enumerate(split.videos.ids):
            measured[name][video_id] = measure(video_id, split.videos.patches.gather([i])[0].float())
    count = next(iter(measured["norm"].values())).shape[1]
    rows: list[Row] = [{"kept by": "all", "K": count, **search(split, None, text_AD)}]
    for name, of_videos in measured.items():
        for kept in KEPT:
            chosen = {video_id: value_TM.topk(kept, dim=1).indices for video_id, value_TM in of_videos.items()}
            share = torch.cat([value_TM.topk(kept, dim=1).values.sum(dim=1) / value_TM.sum(dim=1) for value_TM in of_videos.values()])
            rows.append({"kept by": name, "K": kept, **search(split, chosen, text_AD), "share of the sum": round(float(share.mean()), 3)})
    return rows
