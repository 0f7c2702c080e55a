"""Videos of a cache, encoded once for a head, and exact scores of texts against them.

Shape suffixes: A texts, B videos, S scores of a pair.
"""

from collections.abc import Collection, Sequence
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
"""A search that opens its gallery sooner than that says nothing of it."""


class _Block(NamedTuple):
    """Some videos, and what the head made of them; None where it is made again at every query."""

    videos: NDArray[np.int64]
    encoded: Any


class Gallery:
    """Videos of a cache in the order of their ids, held as the head encodes them as far as memory allows."""

    def __init__(
        self,
        cache: FeatureCache,
        video_ids: Collection[str],
        head: Head,
        max_frames: int | None,
        memory_budget: int,
        quiet: bool = True,
        ahead: bool = True,
    ) -> None:
        """Load features into `memory_budget` bytes, and encode as many videos as the rest of it holds; without `ahead` none.

        `video_ids`: videos of the cache. Raises UserError where there are none, or longer ones than the head takes.
        """
        if max_frames is not None and max_frames < 1:
            raise UserError(f"--max-frames {max_frames} must be at least 1")
        ids = sorted(video_ids)
        if not ids:
            raise UserError(f"the cache {cache.path} holds no videos that a source lists: run extract, or search with --all")
        self.device = head.logit_scale.device
        self.videos: VideoFeatures = cache.videos(ids, memory_budget, max_frames).to(self.device)
        length_B, dimension = self.videos.frames.length_N, self.videos.frames.dimension
        longest = int(length_B.max())
        check_frames(head, longest, f"videos of {cache.path}")
        self._head = head.eval()
        # Taken here: a thread of a web server may have another number.
        self.threads = 1 if self.device.type == "cuda" else torch.get_num_threads()
        self._size = videos_per_block(longest)
        # Frames and their products with each other, as float32.
        room = max(0, memory_budget - self.videos.frames.bytes_held) // (self._size * longest * (dimension + longest) * 4)
        held = room if ahead else 0
        self._blocks: list[_Block] = []
        parts = self._cut(np.arange(len(ids)))
        with Progress("videos", sum(map(len, parts[:held])), "videos", quiet, delay=PATIENCE_S) as progress:
            for part in parts[:held]:
                self._blocks.append(_Block(part, self._encode(part)))
                progress.update(len(part))
        self._blocks += [_Block(part, None) for part in parts[held:]]

    @property
    def ids(self) -> list[str]:
        """Ids of the videos, ascending."""
        return self.videos.ids

    @torch.no_grad()
    def scores(self, texts: TextBatch, members: NDArray[np.int64]) -> NDArray[np.float32]:
        """The retrieval score [A, B] of every text with every one of these videos, given by ascending indices."""
        encoded_texts = self._head.encode_texts(texts)
        whole = len(members) == len(self.ids)
        blocks: Sequence[_Block] = self._blocks if whole else [_Block(part, None) for part in self._cut(members)]
        score_AB = np.empty((len(texts.length_A), len(members)), np.float32)

        def work(job: tuple[int, _Block], _: None) -> None:
            first, block = job
            encoded = self._encode(block.videos) if block.encoded is None else block.encoded
            found_AB = self._head.scores(encoded_texts, encoded).mean(dim=0)
            score_AB[:, first : first + len(block.videos)] = found_AB.cpu().numpy()

        firsts = range(0, len(members), self._size)
        parallel(self.threads, work, list(zip(firsts, blocks, strict=True)), lambda: None)
        return score_AB

    def _cut(self, members: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return [members[first : first + self._size] for first in range(0, len(members), self._size)]

    @torch.no_grad()
    def _encode(self, members: NDArray[np.int64]) -> Any:
        return self._head.encode_videos(VideoBatch.gather(self.videos, members, self.device))
