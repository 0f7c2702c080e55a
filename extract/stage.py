"""The first stage: read the table, find what the cache lacks, encode it, and write it in parts.

Decoding runs in threads (each waits for an ffmpeg process of its own), some videos ahead of the encoder, which takes frames of several
videos at a time. Shape suffixes: N frames of a batch, C channels, H and W sides, T rows, D joint dimension.
"""

import csv
import io
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from data.accounting import Counts, report, require_complete, splits_of, summary_line
from data.cache import CLIP_FILE, FAILURES_FILE, FeatureCache, TextEntry, VideoEntry
from data.datasets import Dataset, Preset, find_preset, read_dataset
from data.device import find_device
from data.errors import UserError
from data.progress import Progress
from data.provenance import provenance, write_atomically
from data.sampling import choose_frames
from extract.clip import BATCH, Clip, load_clip
from extract.decode import DecodeFailed, sample_frames
from extract.dry_run import dry_run
from extract.options import ExtractOptions

# A part is closed after so many entries or seconds, whichever comes first: that much work can be lost to a kill.
VIDEOS_A_PART = 1024
TEXTS_A_PART = 16384
SECONDS_A_PART = 300.0


@dataclass(frozen=True)
class _Decoded:
    """A video ready for the encoder, or why it is not."""

    video_id: str
    file: Path
    image_NCHW: torch.Tensor | None = None
    seconds_N: NDArray[np.float64] | None = None
    failure: str = ""


def extract(options: ExtractOptions) -> Path:
    """Bring the cache up to date with the data set and return its folder.

    Raises UserError for what the user can put right. Videos that cannot be decoded are listed in CACHE/failures.csv, with the decoder's
    last words; the file is absent where none failed.
    """
    start = time.perf_counter()
    _check_numbers(options)
    preset = find_preset(options.dataset, options.preset, options.annotations)
    options = _with_preset(options, preset)
    dataset = read_dataset(options.dataset, preset, options.annotations, options.videos)
    if not options.quiet:
        print(summary_line(dataset, preset, options.videos), file=sys.stderr)
        for note in dataset.notes:
            print(note, file=sys.stderr)
    if not options.allow_missing and not options.dry_run:
        require_complete(dataset, preset, options.videos)
    if not options.quiet:
        print(f"loading {options.model}, weights {options.pretrained or 'of its own'}", file=sys.stderr)
    clip = load_clip(options.model, options.pretrained, find_device(options.device), options.seed)
    max_words = options.max_words or min(preset.max_words, clip.context_length)
    if max_words > clip.context_length:
        raise UserError(f"--max-words {max_words} is more than the {clip.context_length} positions of {options.model}")
    settings = _settings(options, clip, max_words)
    # A dry run opens a cache that is there, which refuses other settings, and makes none.
    cache = None
    if not options.dry_run or (options.cache / CLIP_FILE).exists():
        cache = FeatureCache.create(options.cache, settings, clip.parts(), provenance(options))
    todo, texts = _lacking(dataset, cache)
    if options.dry_run or cache is None:
        found = report(options.dataset, dataset, preset, options.videos)
        few = partial(_encode_all, clip=clip, options=options)
        dry_run(options, found, todo, texts, clip, max_words, VIDEOS_A_PART, TEXTS_A_PART, few)
        if not options.allow_missing:
            require_complete(dataset, preset, options.videos)
        return options.cache
    cache.write_table(preset.name, dataset.captions, _file_names(dataset, options.videos))
    _extract_texts(texts, clip, cache, max_words, options.quiet)
    failures = _extract_videos(todo, clip, cache, options)
    _write_failures(options.cache / FAILURES_FILE, failures)

    summary = {
        "cache": str(options.cache),
        "preset": preset.name,
        "videos": len(dataset.videos),
        "videos_missing": int(dataset.videos["file"].isna().sum()),
        "videos_extracted": len(todo) - len(failures),
        "videos_failed": len(failures),
        "splits": _splits(dataset, preset, cache),
        "texts_extracted": len(texts),
        "seconds": round(time.perf_counter() - start, 1),
    }
    for failure in failures:
        print(f"failed: {failure.file}: {failure.failure}", file=sys.stderr)
    if options.json:
        print(json.dumps(summary))
    else:
        print(
            f"{options.cache}: {summary['videos_extracted']} videos and {len(texts)} texts extracted, "
            f"{dataset.videos['file'].notna().sum() - len(todo)} videos were there, {len(failures)} failed, {summary['seconds']} s"
        )
    return options.cache


def _check_numbers(options: ExtractOptions) -> None:
    positive = {"fps": options.fps, "max_frames": options.max_frames, "max_words": options.max_words, "workers": options.workers}
    for name, value in positive.items():
        if isinstance(value, int | float) and not 0 < value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} {value}: a number above 0")
    if options.max_words is not None and options.max_words < 3:
        raise UserError(f"--max-words {options.max_words}: at least 3, for a word between start and end")


def _with_preset(options: ExtractOptions, preset: Preset) -> ExtractOptions:
    """The options with the preset's rule for frames where they say nothing."""
    return replace(options, fps=options.fps or preset.fps, max_frames=options.max_frames or preset.max_frames)


def _file_names(dataset: Dataset, folder: Path) -> pd.DataFrame:
    """The table of videos with files as names under the folder, for the cache."""
    names = [None if file is None else file.relative_to(folder).as_posix() for file in dataset.videos["file"]]
    return dataset.videos.assign(file=pd.Series(names, dtype=object))


def _lacking(dataset: Dataset, cache: FeatureCache | None) -> tuple[pd.DataFrame, list[str]]:
    """The videos that have a file and the texts that have a word, of those that the cache lacks."""
    videos = dataset.videos[dataset.videos["file"].notna()]
    texts = [text for text in dict.fromkeys(dataset.captions["caption"]) if text.strip()]
    if cache is None:
        return videos, texts
    todo = videos[[("videos", video_id) not in cache for video_id in videos["video_id"]]]
    return todo, [text for text in texts if ("texts", text) not in cache]


def _splits(dataset: Dataset, preset: Preset, cache: FeatureCache) -> dict[str, Counts]:
    """The counts of every split, with the videos that were decoded."""
    done = dataset.videos["split"][[("videos", video_id) in cache for video_id in dataset.videos["video_id"]]]
    return {split: counts | {"videos_decoded": int((done == split).sum())} for split, counts in splits_of(dataset, preset).items()}


def _settings(options: ExtractOptions, clip: Clip, max_words: int) -> dict[str, Any]:
    """Exactly the options that decide the bytes of the features."""
    return {
        "weights": clip.digest,
        "architecture": clip.architecture,
        "dimension": clip.dimension,
        **clip.image_settings(),
        "fps": options.fps,
        "max_frames": options.max_frames,
        "max_words": max_words,
        "precision": "fp32",
        "dtype": options.dtype,
    }


def _extract_texts(texts: Sequence[str], clip: Clip, cache: FeatureCache, max_words: int, quiet: bool) -> None:
    with Progress("texts", len(texts), "texts", quiet) as progress:
        for first in range(0, len(texts), TEXTS_A_PART):
            entries: list[TextEntry] = []
            part = texts[first : first + TEXTS_A_PART]
            for begin in range(0, len(part), BATCH):
                batch = part[begin : begin + BATCH]
                ids_NL, length_N = clip.tokenize(batch, max_words)
                sentence_ND, token_NLD = clip.encode_texts(ids_NL)
                # Copies: a view would keep the features of all positions of the batch until the part is written.
                entries += [
                    TextEntry(text, token_NLD[i, : int(length_N[i])].copy(), sentence_ND[i]) for i, text in enumerate(batch)
                ]  # fmt: skip
                progress.update(len(batch))
            cache.write_texts(entries)


def _extract_videos(todo: pd.DataFrame, clip: Clip, cache: FeatureCache, options: ExtractOptions) -> list[_Decoded]:
    """Encode these videos into the cache; those that could not be decoded."""
    failures: list[_Decoded] = []
    writer = _PartWriter(cache)
    try:
        with Progress("videos", len(todo), "videos", options.quiet) as progress:
            for video in _encode_all(todo, clip, options):
                if isinstance(video, _Decoded):
                    failures.append(video)
                else:
                    writer.add(video)
                progress.update(note=f"{len(failures)} failed" if failures else "")
    finally:
        # Also when interrupted: what is encoded is kept.
        writer.flush()
    return failures


def _encode_all(todo: pd.DataFrame, clip: Clip, options: ExtractOptions) -> Iterator[VideoEntry | _Decoded]:
    """Every video decoded and encoded, or why it is not."""
    return _encode(_decode_ahead(todo, clip, options), clip)


class _PartWriter:
    """Collects videos and writes them as a part when there are enough of them, or when the last part is long ago."""

    def __init__(self, cache: FeatureCache) -> None:
        self._cache, self._entries, self._since = cache, list[VideoEntry](), time.monotonic()

    def add(self, entry: VideoEntry) -> None:
        self._entries.append(entry)
        if len(self._entries) >= VIDEOS_A_PART or time.monotonic() - self._since > SECONDS_A_PART:
            self.flush()

    def flush(self) -> None:
        if self._entries:
            self._cache.write_videos(self._entries)
        self._entries, self._since = [], time.monotonic()


def _decode_ahead(todo: pd.DataFrame, clip: Clip, options: ExtractOptions) -> Iterator[_Decoded]:
    """The videos in order, each decoded by one of the workers, who stay at most two videos each ahead."""
    workers = options.workers or os.cpu_count() or 1
    assert options.fps is not None
    limit = None if options.max_frames == "all" else options.max_frames
    waiting: deque[Future[_Decoded]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for row in todo.itertuples(index=False):
                waiting.append(pool.submit(_decode, row, clip, options.fps, limit))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _decode(row: Any, clip: Clip, fps: float, max_frames: int | None) -> _Decoded:
    begin, end = (None if np.isnan(value) else float(value) for value in (row.start, row.end))
    try:
        sampled = sample_frames(row.file, fps, clip.shrink, begin, end)
    except DecodeFailed as error:
        return _Decoded(row.video_id, row.file, failure=str(error))
    chosen = choose_frames(len(sampled.pictures), max_frames)
    images = torch.stack([clip.to_tensor(sampled.pictures[i]) for i in chosen])
    return _Decoded(row.video_id, row.file, images, np.array(sampled.seconds)[chosen])


def _encode(videos: Iterator[_Decoded], clip: Clip) -> Iterator[VideoEntry | _Decoded]:
    """Encode frames in batches that run across videos; each video when all of its frames are done, a failed one as it is."""
    pending: deque[tuple[_Decoded, list[NDArray[np.float32]]]] = deque()
    frames = torch.empty(0)

    def run(image_NCHW: torch.Tensor) -> Iterator[VideoEntry]:
        rest_ND = clip.encode_images(image_NCHW)
        while pending and len(rest_ND):
            video, done = pending[0]
            assert video.image_NCHW is not None
            assert video.seconds_N is not None
            lacking = len(video.image_NCHW) - sum(map(len, done))
            done.append(rest_ND[:lacking])
            rest_ND = rest_ND[lacking:]
            if len(done[-1]) == lacking:
                pending.popleft()
                stat = video.file.stat()
                yield VideoEntry(video.video_id, np.concatenate(done), video.seconds_N, stat.st_size, stat.st_mtime_ns)

    for video in videos:
        if video.image_NCHW is None:
            yield video
            continue
        pending.append((video, []))
        frames = video.image_NCHW if not len(frames) else torch.cat([frames, video.image_NCHW])
        while len(frames) >= BATCH:
            yield from run(frames[:BATCH])
            frames = frames[BATCH:]
    if len(frames):
        yield from run(frames)


def _write_failures(path: Path, failures: Sequence[_Decoded]) -> None:
    if not failures:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["video_id", "file", "reason"])
    writer.writerows([video.video_id, str(video.file), video.failure] for video in failures)
    write_atomically(path, text.getvalue())
