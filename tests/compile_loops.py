"""Compiles the loops of all heads into numba's cache: `python -m tests.compile_loops`.

Test processes that start side by side would each compile them.
"""

import torch

from tests.features import PATCHES, patches_of
from train_head.heads import HEADS, HeadConfig, TextBatch, VideoBatch, make_head

TEXTS, WORDS, VIDEOS, FRAMES, D = 2, 3, 2, 2, 16


def main() -> None:
    """Score a few random texts and videos with every head, with and without gradients."""
    texts = TextBatch(torch.randn(TEXTS, D), torch.randn(TEXTS * WORDS, D), torch.full((TEXTS,), WORDS))
    frame_BFD = torch.randn(VIDEOS, FRAMES, D)
    videos = VideoBatch(frame_BFD, torch.ones(VIDEOS, FRAMES, dtype=torch.bool), patches_of(frame_BFD))
    for name in HEADS:
        head = make_head(name, HeadConfig(D, max_words=WORDS, logit_scale=1.0, max_frames=FRAMES, patches=PATCHES))
        for training in (True, False):
            with torch.set_grad_enabled(training):
                scores_SAB = head.train(training).scores(head.encode_texts(texts), head.encode_videos(videos))
                if training:
                    scores_SAB.sum().backward()


if __name__ == "__main__":
    main()
