"""The videos to search, encoded once by a head, and exact scores of texts against them.

Shape suffixes: A texts, B videos, S scores of a pair.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data.base.errors import UserError
from data.base.progress import Progress
from data.cache import FeatureCache
from data.cache.features import VideoFeatures
from train_head.heads import Head, TextBatch, VideoBatch
from train_head.kernels.threads import parallel
from train_head.run import check_frames
from train_head.scoring.pairs import videos_per_block

PATIENCE_S = 3.0
"""Seconds before a progress bar appears while the gallery is encoded."""


WORTH_ALL = 4
"""A quarter of the gallery is scored with all the rest, which is encoded already, faster than it is encoded anew."""


class _Block(NamedTuple):
    """Indices of some videos and their encoding by the head; None if they are encoded anew for every query."""

    videos: NDArray[np.int64]
    encoded: Any


class Gallery:
    """Videos of a cache, sorted by id. As many as fit into memory stay encoded."""

    def __init__(
        self,
        cache: FeatureCache,
        video_ids: Collection[str],
        head: Head,
        max_frames: int | None,
        memory_budget: int,
        quiet: bool = True,
        ahead: bool = True,
        like: "Gallery | None" = None,
    ) -> None:
        """Load the features of `video_ids`, and encode as many videos ahead of the queries as fit.

        Features and encoded videos together take up to `memory_budget` bytes. With `ahead=False` no video is encoded ahead.
        `like`: a gallery of the same videos, whose features are shared if this head reads the same of them; they do not count again.
        Raises UserError if there are no videos, or if one has more frames than the head supports.
        """
        ids = sorted(video_ids)
        if not ids:
            raise UserError(f"the cache {cache.path} holds no videos that a source lists: run extract, or search with --all")
        self.device = head.logit_scale.device
        shared = None if like is None else like._shared_with(ids, head, max_frames)
        if shared is None:
            self.videos: VideoFeatures = cache.videos(ids, memory_budget, max_frames, head.READS_PATCHES).to(self.device)
            memory_budget -= self.videos.bytes_held
        else:
            self.videos = shared
        self._max_frames = max_frames
        length_B = self.videos.frames.length_N
        longest = int(length_B.max())
        check_frames(head, longest, f"videos of {cache.path}")
        longest = int(head.counted_frames(length_B).max())
        self._head = head.eval()
        # Read here, because the threads of a web server may have another setting.
        self.threads = 1 if self.device.type != "cpu" else torch.get_num_threads()
        self._size = videos_per_block(head, longest)
        room = max(0, memory_budget) // (self._size * head.encoded_bytes(longest))
        held = room if ahead else 0
        self._blocks: list[_Block] = []
        members_of_blocks = self._in_blocks(np.arange(len(ids)))
        with Progress("videos", sum(map(len, members_of_blocks[:held])), "videos", quiet, delay=PATIENCE_S) as progress:
            for members in members_of_blocks[:held]:
                self._blocks.append(_Block(members, self._encode(members)))
                progress.update(len(members))
        self._blocks += [_Block(members, None) for members in members_of_blocks[held:]]

    @property
    def ids(self) -> list[str]:
        """Video ids, sorted."""
        return self.videos.ids

    @torch.no_grad()
    def scores(self, texts: TextBatch, members: NDArray[np.int64]) -> NDArray[np.float32]:
        """Retrieval scores [A, B] of all texts with the videos at these ascending indices [B]."""
        if len(members) < len(self.ids) <= WORTH_ALL * len(members) and all(block.encoded is not None for block in self._blocks):
            return self.scores(texts, np.arange(len(self.ids)))[:, members]
        encoded_texts = self._head.encode_texts(texts.cut_to(self._head.most_words))
        whole = len(members) == len(self.ids)
        blocks: Sequence[_Block] = self._blocks if whole else [_Block(some, None) for some in self._in_blocks(members)]
        if not whole:
            # The blocks read them one after another.
            self.videos.fetch(members)
        score_AB = np.empty((len(texts.length_A), len(members)), np.float32)

        def score_block(job: tuple[int, _Block], _: None) -> None:
            first, block = job
            encoded = self._encode(block.videos) if block.encoded is None else block.encoded
            found_AB = self._head.scores(encoded_texts, encoded).mean(dim=0)
            score_AB[:, first : first + len(block.videos)] = found_AB.cpu().numpy()

        firsts = range(0, len(members), self._size)
        # A single block, as a few candidates are, is not handed to a thread: the head divides it among all of them.
        parallel(1 if len(blocks) == 1 else self.threads, score_block, list(zip(firsts, blocks, strict=True)), lambda: None)
        return score_AB

    def flops_a_pair(self, words: int) -> float:
        """The FLOPs to score a text of this many words with a video, averaged over the gallery."""
        return float(np.mean(self._head.flops(np.array([words]), np.asarray(self.videos.frames.length_N))))

    def _shared_with(self, ids: Sequence[str], head: Head, max_frames: int | None) -> VideoFeatures | None:
        """The features that another head reads of these videos, if they are here."""
        if ids != self.ids or max_frames != self._max_frames or (head.READS_PATCHES and self.videos.patches is None):
            return None
        return self.videos if head.READS_PATCHES else replace(self.videos, patches=None)

    def threads_for(self, videos: int) -> int:
        """How many threads `scores` may use for this many videos. They share blocks of videos, or the work on a single block."""
        blocks = -(-videos // self._size)
        return self.threads if blocks == 1 else min(self.threads, blocks)

    def _in_blocks(self, members: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return [members[first : first + self._size] for first in range(0, len(members), self._size)]

    @torch.no_grad()
    def _encode(self, members: NDArray[np.int64]) -> Any:
        return self._head.encode_videos(VideoBatch.gather(self.videos, members, self.device))
