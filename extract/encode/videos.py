"""Encode videos: threads decode ahead, each with its own ffmpeg, and frames are encoded in batches of several videos.

Frames reach the encoder in pieces, so the number of workers and the queue length bound the frames in memory, however long a video is. They
wait in the encoder's size, with a byte for each value; of full size is only the frame that a worker has just decoded.
Features do not depend on the order in which videos are decoded.

Shape suffixes: N frames of a piece, C channels, H and W sides.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from data.base.quoting import path_text
from data.cache import FeatureCache, VideoEntry
from data.compute.processes import on_this_machine
from data.span import Span
from extract.decode.decoders import pyav_for
from extract.decode.frames import Cuda
from extract.decode.pictures import pixels_file, read_pixels, small, thumbnail_file
from extract.decode.sample import DecodeFailed, Sampled, Sampling, sample_frames
from extract.encode.clip import BATCH, Clip
from extract.encode.image.batches import EncodedVideo, video_encoder
from extract.encode.image.inside import Inside
from extract.encode.image.patches import Patches
from extract.encode.pictures.ahead import Ahead
from extract.encode.pictures.resize import as_tensor
from extract.encode.prefetch import Prefetcher
from extract.failures import Failure
from extract.ffmpeg.run import Processes
from extract.options import ExtractOptions
from extract.plan.digest import file_digest

SAME_TIME_S = 1e-3
"""Most seconds between the time of a cached frame and of the same frame decoded again."""
QUEUED_PER_WORKER, MIN_QUEUED = 2, 8
"""Queue length: pieces and ends of videos that wait for the encoder. The minimum lets short videos fill a batch."""


@dataclass(frozen=True)
class _Piece:
    """Consecutive frames of a video as `Ahead.piece` gives them, uint8."""

    video_id: str
    image_NCHW: torch.Tensor


@dataclass(frozen=True)
class _Kept:
    """JPEG files of a video's frames, in order. A kind that is not wanted stays empty."""

    thumbnails: list[bytes] = field(default_factory=list)
    pixels: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class _Done:
    """Marks the end of a video, or of a span of one: all its frames have been queued."""

    video_id: str
    only_tokens: bool
    stored: bool
    sampled: Sampled[None]
    kept: _Kept
    file: os.stat_result
    digest: str
    span: Span
    decode_s: float


@dataclass(frozen=True)
class AddedTokens:
    """A video whose frames are cached already, encoded again for its patch tokens: from its stored pixels, or from its file."""

    entry: VideoEntry
    from_pixels: bool


def worker_count(options: ExtractOptions) -> int:
    """Number of videos to decode in parallel."""
    return options.workers or max(1, (os.cpu_count() or 1) // on_this_machine())


def points_outside(file: Path, folder: Path) -> bool:
    """True if the file lies outside the folder once symbolic links are resolved."""
    return not file.resolve().is_relative_to(folder.resolve())


class PrefetchedVideos:
    """Iterate over encoded videos and failures, in no particular order. Decoding starts when the context is entered.

    `todo` is `Todo.videos`. `cache` is needed for videos that lack only their patch tokens: their frames must be those that it holds.
    """

    def __init__(self, todo: pd.DataFrame, clip: Clip, options: ExtractOptions, cache: FeatureCache | None = None) -> None:
        assert options.fps is not None
        assert options.dtype is not None
        self._ahead, self._options, self._cache = Ahead(clip), options, cache
        self._encoder = video_encoder(clip, Inside.of(options), Patches.of(options.tokens), options.dtype)
        self.timings = self._encoder.timings
        processes = Processes()
        limit = None if options.max_frames == "all" else options.max_frames
        self._pyav = pyav_for(options, len(todo), processes)
        cuda = Cuda() if options.decode_device == "cuda" else None
        self._sampling = Sampling(
            options.fps,
            limit,
            options.time_limit,
            options.allow_partial,
            processes,
            pyav=self._pyav,
            cuda=cuda,
            pictures=options.pictures or "stored",
        )
        self.jumping: list[str] = []
        """Ids of the videos so far whose clock jumps."""
        workers = worker_count(options)
        self._prefetcher: Prefetcher[Any, _Piece | _Done | Failure] = Prefetcher(
            todo.itertuples(index=False), self._decode, workers, max(QUEUED_PER_WORKER * workers, MIN_QUEUED), processes.stop
        )

    def __enter__(self) -> "PrefetchedVideos":
        self._prefetcher.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._prefetcher.__exit__(*error)
        if self._pyav is not None:
            self._pyav.close()

    @property
    def uneven(self) -> list[str]:
        """Ids of the videos so far whose frames the segments of --token-clusters do not divide."""
        return self._encoder.uneven

    def __iter__(self) -> Iterator[VideoEntry | AddedTokens | Failure]:
        """Encode frames as they arrive, and yield each video when all its frames are encoded."""
        done: dict[str, _Done] = {}
        for item in self._prefetcher:
            if not self.timings.frames:
                self.timings.start_s = self._prefetcher.waited_s
            self.timings.wait_s = self._prefetcher.waited_s - self.timings.start_s
            encoded: Iterator[EncodedVideo] = iter(())
            if isinstance(item, Failure):
                self._encoder.drop(item.video_id)
                yield item
            elif isinstance(item, _Done):
                self.timings.decode_s += item.decode_s
                self.jumping += [item.video_id] if item.sampled.clock_jumps and not item.only_tokens else []
                done[item.video_id] = item
                encoded = self._encoder.end(item.video_id)
            else:
                encoded = self._encoder.put(item.video_id, self._ahead.normalised(item.image_NCHW))
            for video in encoded:
                yield _entry(done.pop(video.video_id), video)
        for video in self._encoder.flush():
            yield _entry(done.pop(video.video_id), video)

    def _decode(self, row: Any, put: Callable[[_Piece | _Done | Failure], None]) -> None:
        begin = time.perf_counter()
        blocked_s = 0.0
        piece: list[torch.Tensor] = []

        def queue_piece(final: bool) -> None:
            nonlocal blocked_s
            if piece and (final or len(piece) == BATCH):
                ready = _Piece(row.video_id, self._ahead.piece(piece))
                piece.clear()
                before = time.perf_counter()
                put(ready)
                blocked_s += time.perf_counter() - before

        kept = _Kept()

        def shrink(image: Image.Image) -> tuple[torch.Tensor, Image.Image | None]:
            return self._ahead.crop(image), small(image) if row.thumbnails else None

        def take(shrunk: tuple[torch.Tensor, Image.Image | None]) -> None:
            crop_CHW, whole = shrunk
            if whole is not None:
                kept.thumbnails.append(thumbnail_file(whole))
            if row.pixels:
                kept.pixels.append(pixels_file(self._ahead.picture(crop_CHW)))
            piece.append(crop_CHW)
            queue_piece(final=False)

        span = Span.of_cells(row.start, row.end)
        stat, digest = None, ""
        try:
            if not (self._options.follow_links or row.stored) and points_outside(row.file, self._options.videos):
                raise DecodeFailed("a symbolic link that points outside the folder of videos: --follow-links allows it")
            stat = row.file.stat()
            digest = file_digest(row.file)
            # A cached video that was cut short has the frames that it has: whether these are the same is checked below.
            sampling = replace(self._sampling, allow_partial=self._sampling.allow_partial or row.only_tokens)
            if row.stored:
                sampled = self._stored(row.video_id, lambda picture: take((as_tensor(picture), None)))
            elif sampling.max_frames is None:
                sampled = sample_frames(row.file, sampling, lambda image: take(shrink(image)), span)
            else:
                chosen = sample_frames(row.file, sampling, shrink, span)
                for shrunk in chosen.pictures:
                    take(shrunk)
                no_pictures = [None] * len(chosen.pictures)
                sampled = Sampled(no_pictures, chosen.seconds, chosen.expected, chosen.hdr, chosen.decoder, chosen.clock_jumps)
            if row.only_tokens:
                self._require_cached_times(row.video_id, sampled.seconds)
            queue_piece(final=True)
            decode_s = time.perf_counter() - begin - blocked_s
            outcome: _Done | Failure = _Done(row.video_id, row.only_tokens, row.stored, sampled, kept, stat, digest, span, decode_s)
        except DecodeFailed as error:
            outcome = _failure(row, error, stat, digest)
        except OSError as error:
            outcome = _failure(row, DecodeFailed(f"the file cannot be read: {error.strerror}"), None, "")
        put(outcome)

    def _stored(self, video_id: str, take: Callable[[Image.Image], None]) -> Sampled[None]:
        """Take the pixels that the cache keeps of a video's frames."""
        assert self._cache is not None
        for file in self._cache.images("pixels", video_id):
            try:
                picture = read_pixels(file)
            except OSError as error:
                raise DecodeFailed(f"its pictures in the cache are damaged ({error}): extract it into another --cache") from error
            take(picture)
        seconds = self._cache.seconds(video_id).tolist()
        return Sampled([None] * len(seconds), seconds)

    def _require_cached_times(self, video_id: str, seconds: Sequence[float]) -> None:
        """Raise DecodeFailed unless the frames that were decoded again are at the times of the cached ones."""
        assert self._cache is not None
        cached_T = self._cache.seconds(video_id)
        seconds = [seconds[frame] for frame in self._encoder.frames_of_rows(len(seconds))]
        if len(seconds) != len(cached_T) or np.abs(cached_T - seconds).max() > SAME_TIME_S:
            raise DecodeFailed(
                f"it decodes to {len(seconds)} frames here, but the cache holds {len(cached_T)} frames at other times, perhaps of another "
                "version of ffmpeg: extract it into another --cache"
            )


def _failure(row: Any, error: DecodeFailed, stat: os.stat_result | None, digest: str) -> Failure:
    size, mtime_ns = (stat.st_size, stat.st_mtime_ns) if stat is not None and Path(row.file).is_file() else (None, None)
    counts = (error.expected, error.decoded)
    return Failure(
        row.video_id,
        path_text(row.file),
        error.reason,
        error.last_words,
        *counts,
        size,
        mtime_ns,
        Span.of_cells(row.start, row.end),
        digest,
    )


def _entry(done: _Done, video: EncodedVideo) -> VideoEntry | AddedTokens:
    seconds, thumbnails = done.sampled.seconds, done.kept.thumbnails
    entry = VideoEntry(
        done.video_id,
        video.feature_TD,
        np.array([seconds[frame] for frame in video.frame_T]),
        done.file.st_size,
        done.file.st_mtime_ns,
        done.digest,
        span=done.span,
        frames_expected=done.sampled.expected or 0,
        hdr=done.sampled.hdr,
        thumbnails=[thumbnails[frame] for frame in video.frame_T] if thumbnails else [],
        pixels=done.kept.pixels,
        decoder=done.sampled.decoder,
        patch_TMD=video.patch_TMD,
    )
    return AddedTokens(entry, done.stored) if done.only_tokens else entry
