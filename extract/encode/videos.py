"""Videos to features: decoded ahead by threads (each waits for an ffmpeg of its own), encoded in batches that run across videos.

Frames go to the encoder in pieces, so that no more of them are held than workers and queue allow, whatever the length of a video. A feature
does not depend on the order in which videos come.

Shape suffixes: N frames of a piece or a batch, C channels, H and W sides, D joint dimension.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from data.base.quoting import path_text
from data.cache import VideoEntry
from data.compute.processes import on_this_machine
from data.span import Span
from extract.decode.frames import Cuda
from extract.decode.pictures import pixels_file, small, thumbnail_file
from extract.decode.pyav import PyavProcesses
from extract.decode.sample import DecodeFailed, Sampled, Sampling, sample_frames
from extract.encode.clip import BATCH, Clip
from extract.encode.prefetch import Prefetcher
from extract.failures import Failure
from extract.ffmpeg.run import Processes
from extract.options import ExtractOptions
from extract.plan.digest import file_digest

QUEUED_PER_WORKER, MIN_QUEUED = 2, 8
"""Pieces of frames, and ends of videos, that wait for the encoder: for every worker; but of short videos enough for a batch."""


@dataclass(frozen=True)
class _Piece:
    """Some frames of a video, preprocessed, in order."""

    video_id: str
    image_NCHW: torch.Tensor


@dataclass(frozen=True)
class _Kept:
    """JPEG files of a video's frames, in order, of those kinds that are wanted."""

    thumbnails: list[bytes] = field(default_factory=list)
    pixels: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class _Done:
    """All frames of a video, or of a part of it, have been handed over."""

    video_id: str
    sampled: Sampled[None]
    kept: _Kept
    file: os.stat_result
    digest: str
    span: Span
    decode_s: float


@dataclass
class _Waiting:
    """A video on its way: the features of its frames so far, and how many more the encoder has in hand."""

    feature_ND: list[NDArray[np.float32]] = field(default_factory=list)
    in_hand: int = 0
    done: _Done | None = None


@dataclass
class Timings:
    """Seconds and frames of the work: how long decoders ran (all workers together) and the encoder computed; how long it waited for the
    frames of its first batch, and after that for more."""

    decode_s: float = 0.0
    encode_s: float = 0.0
    start_s: float = 0.0
    wait_s: float = 0.0
    frames: int = 0

    def rates(self, workers: int) -> str:
        """Frames a second that decoding and encoding could reach alone."""
        if not self.decode_s or not self.encode_s:
            return ""
        return f"decode {self.frames * workers / self.decode_s:.0f}, encode {self.frames / self.encode_s:.0f} frames/s"


def worker_count(options: ExtractOptions) -> int:
    """Videos decoded side by side."""
    return options.workers or max(1, (os.cpu_count() or 1) // on_this_machine())


def leads_out(file: Path, folder: Path) -> bool:
    """Whether a file is a symbolic link to somewhere outside of the folder."""
    return not file.resolve().is_relative_to(folder.resolve())


class PrefetchedVideos:
    """Iterate over these videos encoded, or why they are not, in no order. Decoding begins when the context is entered.

    `todo`: the columns of `Dataset.videos`, and `thumbnails` and `pixels`, whether those are to be kept.
    """

    def __init__(self, todo: pd.DataFrame, clip: Clip, options: ExtractOptions) -> None:
        assert options.fps is not None
        self.timings = Timings()
        self._clip, self._options = clip, options
        processes = Processes()
        limit = None if options.max_frames == "all" else options.max_frames
        self._pyav = PyavProcesses(processes) if options.decoder == "pyav" else None
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
        """The videos so far whose clock was set."""
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

    def __iter__(self) -> Iterator[VideoEntry | Failure]:
        """Encode what comes; a video when all of its frames are done."""
        waiting: dict[str, _Waiting] = {}
        owners: deque[tuple[str, int]] = deque()
        frames = torch.empty(0)

        def encode(image_NCHW: torch.Tensor) -> Iterator[VideoEntry]:
            begin = time.perf_counter()
            rest_ND = self._clip.encode_images(image_NCHW)
            self.timings.encode_s += time.perf_counter() - begin
            self.timings.frames += len(rest_ND)
            while len(rest_ND):
                video_id, count = owners.popleft()
                taken = min(count, len(rest_ND))
                if taken < count:
                    owners.appendleft((video_id, count - taken))
                video = waiting.get(video_id)
                if video is not None:
                    video.feature_ND.append(rest_ND[:taken])
                    video.in_hand -= taken
                    if video.done and not video.in_hand:
                        yield _entry(waiting.pop(video_id))
                rest_ND = rest_ND[taken:]

        for item in self._prefetcher:
            if not self.timings.frames:
                self.timings.start_s = self._prefetcher.waited_s
            self.timings.wait_s = self._prefetcher.waited_s - self.timings.start_s
            if isinstance(item, Failure):
                # Frames that are in the encoder's hand already are thrown away when they come out.
                waiting.pop(item.video_id, None)
                yield item
            elif isinstance(item, _Done):
                self.timings.decode_s += item.decode_s
                self.jumping += [item.video_id] if item.sampled.clock_jumps else []
                video = waiting[item.video_id]
                video.done = item
                if not video.in_hand:
                    yield _entry(waiting.pop(item.video_id))
            else:
                waiting.setdefault(item.video_id, _Waiting()).in_hand += len(item.image_NCHW)
                owners.append((item.video_id, len(item.image_NCHW)))
                frames = item.image_NCHW if not len(frames) else torch.cat([frames, item.image_NCHW])
                while len(frames) >= BATCH:
                    yield from encode(frames[:BATCH])
                    frames = frames[BATCH:]
        if len(frames):
            yield from encode(frames)

    def _decode(self, row: Any, give: Callable[[_Piece | _Done | Failure], None]) -> None:
        begin = time.perf_counter()
        given = 0.0
        piece: list[torch.Tensor] = []

        def hand_over(final: bool) -> None:
            nonlocal given
            if piece and (final or len(piece) == BATCH):
                before = time.perf_counter()
                give(_Piece(row.video_id, torch.stack(piece)))
                given += time.perf_counter() - before
                piece.clear()

        kept = _Kept()

        def shrink(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
            return self._clip.shrink(image), small(image) if row.thumbnails else None

        def take(shrunk: tuple[Image.Image, Image.Image | None]) -> None:
            picture, whole = shrunk
            if whole is not None:
                kept.thumbnails.append(thumbnail_file(whole))
            if row.pixels:
                kept.pixels.append(pixels_file(picture))
            piece.append(self._clip.to_tensor(picture))
            hand_over(final=False)

        span = Span.of_cells(row.start, row.end)
        stat, digest = None, ""
        try:
            if not self._options.follow_links and leads_out(row.file, self._options.videos):
                raise DecodeFailed("a symbolic link that leads out of the folder of videos: --follow-links takes it")
            stat = row.file.stat()
            digest = file_digest(row.file)
            if self._sampling.max_frames is None:
                sampled = sample_frames(row.file, self._sampling, lambda image: take(shrink(image)), span)
            else:
                chosen = sample_frames(row.file, self._sampling, shrink, span)
                for shrunk in chosen.pictures:
                    take(shrunk)
                made = [None] * len(chosen.pictures)
                sampled = Sampled(made, chosen.seconds, chosen.expected, chosen.hdr, chosen.decoder, chosen.clock_jumps)
            hand_over(final=True)
            decode_s = time.perf_counter() - begin - given
            outcome: _Done | Failure = _Done(row.video_id, sampled, kept, stat, digest, span, decode_s)
        except DecodeFailed as error:
            outcome = _failure(row, error, stat, digest)
        except OSError as error:
            outcome = _failure(row, DecodeFailed(f"the file cannot be read: {error.strerror}"), None, "")
        give(outcome)


def _failure(row: Any, error: DecodeFailed, stat: os.stat_result | None, digest: str) -> Failure:
    size, mtime_ns = (stat.st_size, stat.st_mtime_ns) if stat is not None and Path(row.file).is_file() else (None, None)
    counts = (error.expected, error.decoded)
    return Failure(
        row.video_id, path_text(row.file), error.reason, error.words, *counts, size, mtime_ns, Span.of_cells(row.start, row.end), digest
    )


def _entry(video: _Waiting) -> VideoEntry:
    assert video.done is not None
    done = video.done
    return VideoEntry(
        done.video_id,
        np.concatenate(video.feature_ND),
        np.array(done.sampled.seconds),
        done.file.st_size,
        done.file.st_mtime_ns,
        done.digest,
        span=done.span,
        frames_expected=done.sampled.expected or 0,
        hdr=done.sampled.hdr,
        thumbnails=done.kept.thumbnails,
        pixels=done.kept.pixels,
        decoder=done.sampled.decoder,
    )
