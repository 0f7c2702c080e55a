"""Scores of `tmass` in a gallery: `python -m tests.tmass_gallery OUT` writes those of a gallery in another order, on two threads."""

import sys

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.features import pad
from train_head.heads import HeadConfig, TextBatch, VideoBatch, make_head

VIDEOS = 60


@torch.no_grad()
def gallery(texts: list[int], videos: list[int]) -> Tensor:
    """Scores [A, B] of some of three texts and VIDEOS videos of different lengths, by the same head."""
    generator = torch.Generator().manual_seed(4)
    sentence_AD = torch.randn(3, 128, generator=generator)
    frames = [torch.randn(1 + b % 7, 128, generator=generator) for b in range(VIDEOS)]
    torch.manual_seed(0)
    head = make_head("tmass", HeadConfig(128, 8, logit_scale=100.0, max_frames=8)).eval()
    head.get_parameter("radius").add_(torch.randn(8, 128, generator=generator), alpha=0.3)
    batch = TextBatch(sentence_AD[texts], sentence_AD[texts], torch.ones(len(texts), dtype=torch.int64))
    return head.scores(head.encode_texts(batch), head.encode_videos(VideoBatch(*pad([frames[b] for b in videos]))))[0]


def main(out: str) -> None:
    torch.set_num_threads(2)
    order = torch.randperm(VIDEOS, generator=torch.Generator().manual_seed(9)).tolist()
    save_file({"score_AB": gallery([0, 1, 2], order)[:, torch.tensor(order).argsort()].contiguous()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
