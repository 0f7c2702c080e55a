"""Encode the frames of videos in batches of constant size: frame by frame, with shifted tokens, or in clustered segments.

A batch always has BATCH rows, and a row depends on no other row but its neighbours in a video. So the features of a video do not depend on
the videos that it is batched with, nor on the order in which they come.

Shape suffixes: N frames of a piece or a batch, T rows of a video in the cache, L tokens of a frame, M patch tokens of a row, K medoids, W
width of the tower, D joint dimension, C colour channels, H and W sides of pictures.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.compute.device import synchronize
from extract.encode.clip import BATCH, Clip, EncodedImages, padded
from extract.encode.image.blocks import Back, Front
from extract.encode.image.clusters import cluster_segment, middle, segment_bounds
from extract.encode.image.inside import SHIFTED_BLOCKS, Clusters, Inside
from extract.encode.image.patches import Patches
from extract.encode.image.shift import Neighbours

Row = TypeVar("Row")


@dataclass
class Timings:
    """Where the time goes, in seconds, and the number of frames encoded.

    `decode_s` is the decoding time summed over workers, `encode_s` the time that the encoder computed. The encoder waited `start_s` for its
    first batch and `wait_s` for later frames.
    """

    decode_s: float = 0.0
    encode_s: float = 0.0
    start_s: float = 0.0
    wait_s: float = 0.0
    frames: int = 0

    def rates(self, workers: int) -> str:
        """Frames per second that decoding alone and encoding alone would reach."""
        if not self.decode_s or not self.encode_s:
            return ""
        return f"decode {self.frames * workers / self.decode_s:.0f}, encode {self.frames / self.encode_s:.0f} frames/s"

    @contextmanager
    def encoding(self, frames: int = 0) -> Iterator[None]:
        """Count the time within as encoding of this number of frames."""
        begin = time.perf_counter()
        yield
        self.encode_s += time.perf_counter() - begin
        self.frames += frames


@dataclass(frozen=True)
class EncodedVideo:
    """The rows of a video in the cache: features [T, D] and patch tokens [T, M, D], and which sampled frame stands for each row [T]."""

    video_id: str
    feature_TD: NDArray[np.float32]
    patch_TMD: NDArray[Any] | None
    frame_T: list[int]


@dataclass
class _Video(Generic[Row]):
    """A video in progress: what is known of its rows, how many frames still wait, and whether all its frames have come."""

    rows: list[Row] = field(default_factory=list)
    pending: int = 0
    ended: bool = False

    @property
    def complete(self) -> bool:
        """Whether nothing of the video is still to come."""
        return self.ended and not self.pending


@dataclass(frozen=True)
class _Encoded:
    """One row: feature [D] and patch tokens [M, D]."""

    feature_D: NDArray[np.float32]
    patch_MD: NDArray[Any] | None


class VideoEncoder(ABC):
    """Encodes the frames of many videos, which come in pieces and interleaved. Each video is yielded when all of it is encoded."""

    def __init__(self, clip: Clip, patches: Patches | None, dtype: str) -> None:
        self.timings = Timings()
        self.uneven: list[str] = []
        """Ids of the videos so far whose frames the segments do not divide."""
        self._clip, self._patches, self._dtype = clip, patches, dtype

    def frames_of_rows(self, frames: int) -> list[int]:
        """Which of a video's frames stands for each of its rows, counted from 0."""
        return list(range(frames))

    @abstractmethod
    def put(self, video_id: str, image_NCHW: Tensor) -> Iterator[EncodedVideo]:
        """Take the next frames of a video."""

    @abstractmethod
    def end(self, video_id: str) -> Iterator[EncodedVideo]:
        """All frames of the video have been put."""

    @abstractmethod
    def drop(self, video_id: str) -> None:
        """Forget a video that failed. Its frames that wait for a batch are encoded and ignored."""

    @abstractmethod
    def flush(self) -> Iterator[EncodedVideo]:
        """Encode what still waits for a full batch."""

    def _encoded(self, encoded: EncodedImages) -> Iterator[_Encoded]:
        """The rows of a batch. Patch tokens are in the dtype of the cache: waiting for their part they take no more memory than on disk.

        Those too large for it become infinite, and `FeatureCache.write_patches` refuses them.
        """
        for row, feature_D in enumerate(encoded.feature_ND):
            if encoded.patch_NMD is None:
                yield _Encoded(feature_D, None)
            else:
                with np.errstate(over="ignore"):
                    # A copy: a view would keep the whole batch in memory until the part is written.
                    yield _Encoded(feature_D, encoded.patch_NMD[row].astype(self._dtype))

    def _whole(self, video_id: str, rows: list[_Encoded], frames: int) -> EncodedVideo:
        patches = [row.patch_MD for row in rows if row.patch_MD is not None]
        feature_TD = np.stack([row.feature_D for row in rows])
        return EncodedVideo(video_id, feature_TD, np.stack(patches) if patches else None, self.frames_of_rows(frames))


class FrameEncoder(VideoEncoder):
    """Each frame on its own. Batches may span videos."""

    def __init__(self, clip: Clip, patches: Patches | None, dtype: str) -> None:
        super().__init__(clip, patches, dtype)
        self._videos: dict[str, _Video[_Encoded]] = {}
        self._waiting: list[tuple[str, Tensor]] = []

    def put(self, video_id: str, image_NCHW: Tensor) -> Iterator[EncodedVideo]:
        self._videos.setdefault(video_id, _Video()).pending += len(image_NCHW)
        self._waiting += [(video_id, image_CHW) for image_CHW in image_NCHW]
        while len(self._waiting) >= BATCH:
            yield from self._encode()

    def end(self, video_id: str) -> Iterator[EncodedVideo]:
        self._videos[video_id].ended = True
        yield from self._completed(video_id)

    def drop(self, video_id: str) -> None:
        self._videos.pop(video_id, None)

    def flush(self) -> Iterator[EncodedVideo]:
        if self._waiting:
            yield from self._encode()

    def _encode(self) -> Iterator[EncodedVideo]:
        batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
        with self.timings.encoding(len(batch)):
            encoded = self._clip.encode_images(torch.stack([image_CHW for _, image_CHW in batch]), self._patches)
            rows = list(self._encoded(encoded))
        for (video_id, _), row in zip(batch, rows, strict=True):
            if video_id in self._videos:
                self._videos[video_id].rows.append(row)
                self._videos[video_id].pending -= 1
        for video_id in dict.fromkeys(video_id for video_id, _ in batch):
            yield from self._completed(video_id)

    def _completed(self, video_id: str) -> Iterator[EncodedVideo]:
        if video_id in self._videos and self._videos[video_id].complete:
            rows = self._videos.pop(video_id).rows
            yield self._whole(video_id, rows, len(rows))


@dataclass(frozen=True)
class _Window:
    """Consecutive frames of a video that pass the tower together. The features from `first` to `end` are kept."""

    video_id: str
    images: list[Tensor]
    first: int
    end: int


class ShiftEncoder(VideoEncoder):
    """Frames whose tokens are shifted between neighbours in the last blocks. Whole videos are packed into batches.

    A video of more than BATCH frames passes in windows that overlap: a feature depends on as many frames to each side as there are shifted
    blocks, and the windows leave out the features of the frames nearer to their ends.
    """

    def __init__(self, clip: Clip, patches: Patches | None, dtype: str) -> None:
        super().__init__(clip, patches, dtype)
        self._videos: dict[str, _Video[_Encoded]] = {}
        self._frames: dict[str, tuple[list[Tensor], int]] = {}
        """Of each video the frames not yet in a window, and how many in front of them are only there as neighbours."""
        self._batch: list[_Window] = []

    def put(self, video_id: str, image_NCHW: Tensor) -> Iterator[EncodedVideo]:
        self._videos.setdefault(video_id, _Video()).pending += len(image_NCHW)
        images, neighbours = self._frames.pop(video_id, ([], 0))
        images += list(image_NCHW)
        while len(images) > BATCH:
            yield from self._add(_Window(video_id, images[:BATCH], neighbours, BATCH - SHIFTED_BLOCKS))
            images, neighbours = images[BATCH - 2 * SHIFTED_BLOCKS :], SHIFTED_BLOCKS
        self._frames[video_id] = images, neighbours

    def end(self, video_id: str) -> Iterator[EncodedVideo]:
        self._videos[video_id].ended = True
        images, neighbours = self._frames.pop(video_id)
        yield from self._add(_Window(video_id, images, neighbours, len(images)))

    def drop(self, video_id: str) -> None:
        self._videos.pop(video_id, None)
        self._frames.pop(video_id, None)

    def flush(self) -> Iterator[EncodedVideo]:
        if self._batch:
            yield from self._encode()

    def _add(self, window: _Window) -> Iterator[EncodedVideo]:
        if sum(len(other.images) for other in [*self._batch, window]) > BATCH:
            yield from self._encode()
        self._batch.append(window)

    def _encode(self) -> Iterator[EncodedVideo]:
        batch, self._batch = self._batch, []
        lengths = [len(window.images) for window in batch]
        # Rows that only fill the batch are a video each.
        lengths_with_padding = lengths + [1] * (BATCH - sum(lengths))
        blocks = self._clip.blocks
        assert blocks is not None
        with (
            self.timings.encoding(sum(window.end - window.first for window in batch)),
            blocks.shifting(SHIFTED_BLOCKS, Neighbours.of(lengths_with_padding, self._clip.device)),
        ):
            image_NCHW = torch.stack([image_CHW for window in batch for image_CHW in window.images])
            rows = list(self._encoded(self._clip.encode_images(image_NCHW, self._patches)))
        for window in batch:
            own, rows = rows[: len(window.images)], rows[len(window.images) :]
            video = self._videos.get(window.video_id)
            if video is not None:
                video.rows += own[window.first : window.end]
                video.pending -= window.end - window.first
                if video.complete:
                    del self._videos[window.video_id]
                    yield self._whole(window.video_id, video.rows, len(video.rows))


class SegmentEncoder(VideoEncoder):
    """Frames up to a block, then the segments of a video, whose patches are medoids. The cache has a row for each segment.

    The frames of all videos share the batches of the front, and the segments of all videos those of the back. In between, the tokens of a
    video wait on the device until all its frames are there.
    """

    def __init__(self, clip: Clip, patches: Patches | None, dtype: str, clusters: Clusters) -> None:
        super().__init__(clip, patches, dtype)
        blocks = clip.blocks
        assert blocks is not None
        self._clusters, self._prefix = clusters, blocks.prefix
        self._front, self._back = Front(clip.model, blocks, clusters.block), Back(clip.model, blocks, clusters.block)
        self._clip_back = replace(clip, model=self._back.network)
        self._blank_1CHW = torch.zeros(1, 3, *clip.image_settings()["image_size"])
        self._videos: dict[str, _Video[Tensor]] = {}
        self._frames: list[tuple[str, Tensor]] = []
        self._segments: list[tuple[str, Tensor, Tensor]] = []
        self._clustered: dict[str, tuple[list[_Encoded], int]] = {}
        """Of each video whose tokens are clustered, the rows so far and the number of frames."""

    def frames_of_rows(self, frames: int) -> list[int]:
        return [middle(*segment) for segment in segment_bounds(frames, self._clusters.segments)]

    def put(self, video_id: str, image_NCHW: Tensor) -> Iterator[EncodedVideo]:
        self._videos.setdefault(video_id, _Video()).pending += len(image_NCHW)
        self._frames += [(video_id, image_CHW) for image_CHW in image_NCHW]
        while len(self._frames) >= BATCH:
            yield from self._encode_frames()

    def end(self, video_id: str) -> Iterator[EncodedVideo]:
        self._videos[video_id].ended = True
        yield from self._cluster(video_id)

    def drop(self, video_id: str) -> None:
        self._videos.pop(video_id, None)

    def flush(self) -> Iterator[EncodedVideo]:
        if self._frames:
            yield from self._encode_frames()
        if self._segments:
            yield from self._encode_segments()

    def _encode_frames(self) -> Iterator[EncodedVideo]:
        batch, self._frames = self._frames[:BATCH], self._frames[BATCH:]
        with self.timings.encoding(len(batch)):
            token_NLW = self._clip.encode_front(self._front, torch.stack([image_CHW for _, image_CHW in batch]))
            synchronize(self._clip.device)
        for (video_id, _), token_LW in zip(batch, token_NLW, strict=True):
            if video_id in self._videos:
                self._videos[video_id].rows.append(token_LW)
                self._videos[video_id].pending -= 1
        for video_id in dict.fromkeys(video_id for video_id, _ in batch):
            yield from self._cluster(video_id)

    def _cluster(self, video_id: str) -> Iterator[EncodedVideo]:
        if video_id not in self._videos or not self._videos[video_id].complete:
            return
        rows = self._videos.pop(video_id).rows
        bounds = segment_bounds(len(rows), self._clusters.segments)
        if len(rows) % self._clusters.segments:
            self.uneven.append(video_id)
        self._clustered[video_id] = [], len(rows)
        with self.timings.encoding():
            for first, end in bounds:
                segment = cluster_segment(torch.stack(rows[first:end]), self._clusters.medoids, self._prefix)
                self._segments.append((video_id, *segment))
            synchronize(self._clip.device)
        while len(self._segments) >= BATCH:
            yield from self._encode_segments()

    def _encode_segments(self) -> Iterator[EncodedVideo]:
        batch, self._segments = self._segments[:BATCH], self._segments[BATCH:]
        token_NLW = padded(torch.stack([token_LW for _, token_LW, _ in batch]))
        patch_NK = padded(torch.stack([patch_K for _, _, patch_K in batch]))
        with self.timings.encoding(), self._back.taking(token_NLW, patch_NK):
            encoded = self._clip_back.encode_images(self._blank_1CHW.expand(len(batch), -1, -1, -1), self._patches)
            encoded_rows = list(self._encoded(encoded))
        for (video_id, *_), row in zip(batch, encoded_rows, strict=True):
            rows, frames = self._clustered[video_id]
            rows.append(row)
            if len(rows) == min(frames, self._clusters.segments):
                del self._clustered[video_id]
                yield self._whole(video_id, rows, frames)


def video_encoder(clip: Clip, inside: Inside, patches: Patches | None, dtype: str) -> VideoEncoder:
    """The encoder for what happens inside the tower."""
    if inside.clusters is not None:
        return SegmentEncoder(clip, patches, dtype, inside.clusters)
    return (ShiftEncoder if inside.shift else FrameEncoder)(clip, patches, dtype)
