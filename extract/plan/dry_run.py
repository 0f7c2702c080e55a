"""Estimate the cost of an extraction: time and memory measured on a few videos, disk from the sizes of their features."""

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from data.base.errors import first_of
from data.base.progress import duration
from data.base.quoting import visible
from data.cache import CLIP_FILE, FeatureCache
from extract.encode.clip import BATCH, Clip
from extract.encode.image.inside import UNCHANGED, Inside
from extract.encode.texts import encode_texts
from extract.encode.videos import AddedTokens, PrefetchedVideos, worker_count
from extract.failures import Failure
from extract.options import ExtractOptions
from extract.plan.todo import Todo
from extract.writer import PartLimits

MEASURED_TEXTS = 4 * BATCH
MEASURED_VIDEOS = 8
"""Number of videos to measure; with more workers, two per worker, since fewer would leave workers idle."""

# A fixed figure, because the operating system counts the memory of the parent for a child process too. An ffmpeg that decodes 720p on one
# thread takes 40 to 65 MiB.
DECODER_BYTES = 2**26


@dataclass(frozen=True)
class Measured:
    """A measurement of `count` videos or texts.

    `mean_rows` is the mean number of frames or tokens, `mean_picture_bytes` the mean size of the pictures, and `mean_patch_bytes` that of
    the patch tokens, all without the failures.
    """

    seconds: float = 0.0
    count: int = 0
    mean_rows: float = 0.0
    mean_picture_bytes: float = 0.0
    mean_patch_bytes: float = 0.0
    failed: tuple[str, ...] = ()

    def seconds_for(self, count: int) -> float:
        """Seconds for `count` items at the same rate."""
        return self.seconds * count / self.count if self.count else 0.0


def dry_run(
    options: ExtractOptions,
    found: Mapping[str, Any],
    todo: Todo,
    cache: FeatureCache | None,
    clip: Clip,
    max_words: int,
    limits: PartLimits,
    texts_a_part: int,
) -> None:
    """Encode a sample of the videos and texts to do, and print an estimate for all of them. Nothing is written.

    `found` is the report on the data set; it becomes part of the JSON.
    """
    workers, videos, texts = worker_count(options), todo.videos, todo.texts
    inside = Inside.of(options)
    measured_videos = _measure_videos(videos, max(MEASURED_VIDEOS, 2 * workers), clip, options, cache)
    measured_texts = _measure_texts(texts, clip, max_words)
    # A part in memory: its features wait as float32 and are then concatenated, which doubles them, and so are its pictures.
    row_bytes = clip.dimension * 4
    video_bytes = measured_videos.mean_rows * row_bytes + measured_videos.mean_picture_bytes + measured_videos.mean_patch_bytes
    part_bytes = min(min(len(videos), limits.videos) * video_bytes, limits.bytes + video_bytes)
    parts = 2 * max(part_bytes, min(len(texts), texts_a_part) * measured_texts.mean_rows * row_bytes)
    memory = _peak_bytes() + workers * DECODER_BYTES + int(parts)
    value = np.dtype(options.dtype).itemsize
    frames, tokens = len(todo.extracted) * measured_videos.mean_rows, len(texts) * measured_texts.mean_rows
    kept = 0 if (options.cache / CLIP_FILE).exists() else sum(tensor.nbytes for tensor in clip.parts().tensors.values())
    pictures = int(len(videos) * measured_videos.mean_picture_bytes)
    patches = int(len(videos) * measured_videos.mean_patch_bytes)
    disk = kept + pictures + patches + int((frames + tokens + len(texts)) * clip.dimension * value + 8 * frames)
    seconds = measured_videos.seconds_for(len(videos)) + measured_texts.seconds_for(len(texts))
    free = shutil.disk_usage(_nearest_folder(options.cache)).free
    for line in first_of([f"failed: {failure}" for failure in measured_videos.failed]):
        print(visible(line), file=sys.stderr)
    if options.json:
        print(
            json.dumps(
                {
                    **found,
                    "dry_run": True,
                    "videos_to_do": len(videos),
                    "texts_to_do": len(texts),
                    "measured_videos": measured_videos.count,
                    "measured_failed": len(measured_videos.failed),
                    "measured_texts": measured_texts.count,
                    "seconds": round(seconds, 1),
                    "disk_bytes": disk,
                    "picture_bytes": pictures,
                    "token_bytes": patches,
                    **inside.settings(),
                    "videos_without_tokens": len(videos) - len(todo.extracted),
                    "disk_free_bytes": free,
                    "memory_bytes": memory,
                    "memory_there_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
                    "device_memory_bytes": torch.cuda.max_memory_allocated() if clip.device.type == "cuda" else None,
                }
            )
        )
        return
    print(f"dry run: {len(videos):,} videos and {len(texts):,} texts to do")
    if len(videos) > len(todo.extracted):
        print(f"patch tokens alone: {len(videos) - len(todo.extracted):,} of these videos, whose frames are cached")
    if inside != UNCHANGED:
        print(f"inside the vision tower: {inside}")
    if "unlisted" in found:
        print("prune: {videos:,} videos and {texts:,} texts are not in any listing".format(**found["unlisted"]))
        if found["unlisted"]["patches"]:
            print(f"prune: patch tokens of {found['unlisted']['patches']:,} videos are not listed or have other frames")
    print(f"time: about {duration(seconds)} with {workers} workers, from {measured_videos.count} videos and {measured_texts.count} texts")
    room = f"{_size(free)} free{'' if disk <= free else ': TOO LITTLE'}"
    shares = f"{_size(pictures)} of it pictures" + (f", {_size(patches)} patch tokens" if options.tokens else "")
    print(f"disk: {_size(disk)} in {options.cache}, {shares}; {room}")
    print(f"memory: about {_size(memory)}, including decoders and a part waiting to be written")


def _measure_videos(videos: pd.DataFrame, count: int, clip: Clip, options: ExtractOptions, cache: FeatureCache | None) -> Measured:
    """Encode at most `count` videos, spread over the whole table."""
    if videos.empty:
        return Measured()
    sample = videos.iloc[np.unique(np.linspace(0, len(videos) - 1, count).astype(int))]
    start = time.perf_counter()
    with PrefetchedVideos(sample, clip, options, cache) as features:
        done = list(features)
    seconds = time.perf_counter() - start
    encoded = [video.entry if isinstance(video, AddedTokens) else video for video in done if not isinstance(video, Failure)]
    failed = tuple(f"{video.file}: {video.reason}" for video in done if isinstance(video, Failure))
    rows = [len(video.frames_TD) for video in encoded]
    pictures = [sum(map(len, [*video.thumbnails, *video.pixels])) for video in encoded]
    patches = [0 if video.patch_TMD is None else video.patch_TMD.nbytes for video in encoded]
    return Measured(seconds, len(done), _mean(rows), _mean(pictures), _mean(patches), failed)


def _measure_texts(texts: Sequence[str], clip: Clip, max_words: int) -> Measured:
    sample = [texts[i] for i in np.unique(np.linspace(0, len(texts) - 1, MEASURED_TEXTS).astype(int))] if texts else []
    lengths: list[int] = []
    start = time.perf_counter()
    for batch in encode_texts(sample, clip, max_words) if sample else ():
        lengths += [len(entry.words_TD) for entry in batch]
    return Measured(time.perf_counter() - start, len(sample), _mean(lengths))


def _mean(values: Sequence[int]) -> float:
    return float(np.mean(values)) if values else 0.0


def _peak_bytes() -> int:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _nearest_folder(path: Path) -> Path:
    """The path itself if it is a folder, else its nearest existing parent."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
