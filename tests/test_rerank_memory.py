"""Re-ranking with patch tokens within a budget of memory: exact scores from any of them, and bins that leave before others come."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch

from data.cache import FeatureCache
from tests.all_scores import all_scores
from tests.patch_pairs import PatchPairs
from train_head.heads import HeadConfig
from train_head.scoring import rerank as reranking
from train_head.scoring.rerank import Pairs, rerank, score_pairs
from train_head.scoring.splits import Split, load_split


@pytest.fixture
def split(patches_cache: FeatureCache) -> Split:
    """All 62 videos, whose patch tokens stay on disk."""
    return load_split(patches_cache, "train+val+test", None, 0, allow_missing=True, patches=True)


@pytest.fixture
def head(patches_cache: FeatureCache) -> PatchPairs:
    settings = patches_cache.patch_settings
    assert settings is not None
    return PatchPairs("own", HeadConfig(patches_cache.dimension, 64, 100.0, patches=settings.count)).requires_grad_(False)


def video_bytes(head: PatchPairs, split: Split) -> int:
    return head.encoded_bytes(int(split.videos.frames.length_N.max()))


@pytest.mark.parametrize("videos_in_budget", [0, 124, 10_000])
def test_scores_are_exact_with_any_budget(split: Split, head: PatchPairs, videos_in_budget: int) -> None:
    """One bin of 48 videos and one of 14; one bin of 62, of which 48 are scored at a time; one of 62 at once."""
    score_AB = all_scores(head, split).mean_AB
    texts = np.arange(0, len(split.answers), 20)
    video_AK = np.random.default_rng(0).permuted(np.broadcast_to(np.arange(62), (len(texts), 62)), axis=1)[:, :60]
    text_AK = np.broadcast_to(texts[:, None], video_AK.shape)
    nearest_A = np.zeros(len(split.answers), dtype=np.int64)
    pairs = Pairs.of(text_AK, video_AK, 62)
    score_P = score_pairs(head, split.texts, split.videos, pairs, nearest_A, videos_in_budget * video_bytes(head, split))
    assert torch.equal(score_P, score_AB[pairs.text_P, pairs.video_P])


@pytest.mark.parametrize("alone", [True, False])
def test_bins_leave_before_others_come(split: Split, head: PatchPairs, monkeypatch: pytest.MonkeyPatch, alone: bool) -> None:
    """No more bins are in memory than fit into the budget, also while the next are read."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most, bins = 0, 0

    class Watched(reranking._Bin):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            nonlocal most, bins
            alive.add(self.frames.patch_BFMD)
            most, bins = max(most, len(alive)), bins + 1

    monkeypatch.setattr(reranking, "_Bin", Watched)
    monkeypatch.setattr(reranking, "videos_per_block", lambda *_: 4)
    monkeypatch.setattr(reranking, "VIDEOS_PER_BLOCK", 8)
    if not alone:
        monkeypatch.setattr(PatchPairs, "WORDS_PER_STRIP", 100)
        monkeypatch.setattr(PatchPairs, "score_block", lambda _, texts, videos: texts.new_zeros(1, len(texts), len(videos)))
    candidate_AK = torch.arange(62).expand(len(split.answers), -1)[:, ::2].contiguous()
    rerank(head, split.texts, split.videos, candidate_AK, 16 * video_bytes(head, split))
    assert (bins, most) == (4, 1 if alone else 2)
