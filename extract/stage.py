"""The first stage: read the table, find what the cache lacks, encode it, and write it in parts."""

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from data.accounting import Counts, report, require_complete, splits_of, summary_line
from data.cache import CLIP_FILE, FeatureCache, TextEntry, VideoEntry
from data.datasets import Dataset, Preset, find_preset, read_dataset
from data.datasets.files import printable
from data.device import find_device
from data.errors import UserError
from data.progress import Progress
from data.provenance import provenance
from extract.clip import Clip, load_clip
from extract.decoders import check_decoder
from extract.dry_run import dry_run
from extract.failures import Failure, failures_file, read_failures, write_failures
from extract.options import ExtractOptions
from extract.texts import encode_texts
from extract.videos import Clock, VideoFeaturesAhead, worker_count

# A part is closed after so many entries, bytes or seconds, whichever comes first: that much work can be lost to a kill.
VIDEOS_A_PART = 1024
TEXTS_A_PART = 4096
BYTES_A_PART = 2**26
SECONDS_A_PART = 300.0


@dataclass(frozen=True)
class Outcome:
    """The cache, and how many videos of the data set (of this process's share of it) are listed as failed."""

    cache: Path
    failed: int


@dataclass
class _Work:
    """What is to be done: videos, texts; and videos that failed before and are not tried again."""

    videos: pd.DataFrame
    texts: list[str]
    known: list[Failure]


def extract(options: ExtractOptions) -> Outcome:
    """Bring the cache up to date with the data set.

    Raises UserError for what the user can put right. Videos that cannot be decoded are listed in CACHE/failures.csv, with the decoder's
    last words; the file is absent where none failed.
    """
    start = time.perf_counter()
    _check_numbers(options)
    check_decoder(options)
    shard = _shard(options.shard)
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
    clip = load_clip(options.model, options.pretrained, find_device(options.device), options.seed, options.precision)
    max_words = options.max_words or min(preset.max_words, clip.context_length)
    if max_words > clip.context_length:
        raise UserError(f"--max-words {max_words} is more than the {clip.context_length} positions of {options.model}")
    settings = _settings(options, clip, max_words)
    cache = _open_cache(options, clip, settings, shard)
    work = _lacking(dataset, cache, options, shard)
    if options.dry_run or cache is None:
        found = report(options.dataset, dataset, preset, options.videos)
        dry_run(options, found, work.videos, work.texts, clip, max_words, VIDEOS_A_PART, TEXTS_A_PART)
        if not options.allow_missing:
            require_complete(dataset, preset, options.videos)
        return Outcome(options.cache, 0)
    cache.write_table(preset.name, dataset.captions, _file_names(dataset, options.videos))
    # Decoding begins while the texts are encoded.
    with VideoFeaturesAhead(work.videos, clip, options) as videos:
        _extract_texts(work.texts, clip, cache, max_words, options.quiet)
        writer = _Writer(cache, options, shard, work.known)
        failures = _extract_videos(videos, len(work.videos), writer, options)
    failed = sorted([*work.known, *failures], key=lambda failure: failure.video_id)
    seconds = time.perf_counter() - start
    done = len(work.videos) - len(failures)
    for failure in failed:
        print(f"failed: {failure.file}: {failure.reason}{': ' * bool(failure.last_words)}{failure.last_words}", file=sys.stderr)
    if work.known:
        print(f"{len(work.known)} videos that failed before were not tried again: --retry-failed tries them", file=sys.stderr)
    if options.json:
        summary = {
            "cache": str(options.cache),
            "preset": preset.name,
            "videos": len(dataset.videos),
            "videos_missing": int(dataset.videos["file"].isna().sum()),
            "videos_extracted": done,
            "videos_failed": len(failed),
            "splits": _splits(dataset, preset, cache),
            "texts_extracted": len(work.texts),
            "seconds": round(seconds, 1),
            "frames": videos.clock.frames,
            "decode_seconds": round(videos.clock.decode_s, 3),
            "encode_seconds": round(videos.clock.encode_s, 3),
            "encoder_wait_seconds": round(videos.clock.wait_s, 3),
            "write_seconds": round(writer.seconds, 3),
        }
        print(json.dumps(summary))
    else:
        there = int(dataset.videos["file"].iloc[shard[0] :: shard[1]].notna().sum()) - len(work.videos) - len(work.known)
        print(
            f"{options.cache}: {done} videos and {len(work.texts)} texts extracted, {there} videos were there, {len(failed)} failed, "
            f"{seconds:.1f} s"
        )
    return Outcome(options.cache, len(failed))


def _open_cache(options: ExtractOptions, clip: Clip, settings: dict[str, Any], shard: tuple[int, int]) -> FeatureCache | None:
    """The cache, made or repaired; for a dry run as it is, None where there is none."""
    if options.dry_run:
        if not (options.cache / CLIP_FILE).exists():
            return None
        cache = FeatureCache(options.cache)
        cache.require(settings)
        return cache

    def damaged(path: Path) -> None:
        print(f"{path} is damaged: what it held is extracted again", file=sys.stderr)

    return FeatureCache.create(options.cache, settings, clip.parts(), provenance(options), shard, damaged)


def _shard(option: str) -> tuple[int, int]:
    """I and N of "I/N"."""
    found = re.fullmatch(r"(\d+)/(\d+)", option)
    shard = (int(found[1]), int(found[2])) if found else (0, 0)
    if shard[0] >= shard[1]:
        raise UserError(f"--shard {option}: I/N with I from 0 to N - 1, such as 0/4 to 3/4 for four processes")
    return shard


def _check_numbers(options: ExtractOptions) -> None:
    positive = {"fps": options.fps, "max_frames": options.max_frames, "max_words": options.max_words, "workers": options.workers}
    positive |= {"time_limit": options.time_limit}
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
    names = [None if file is None else printable(file.relative_to(folder)) for file in dataset.videos["file"]]
    return dataset.videos.assign(file=pd.Series(names, dtype=object))


def _lacking(dataset: Dataset, cache: FeatureCache | None, options: ExtractOptions, shard: tuple[int, int]) -> _Work:
    """What this process has to do: of its share of videos with a file and of texts with a word, what the cache lacks."""
    texts = [text for text in dict.fromkeys(dataset.captions["caption"]) if text.strip()][shard[0] :: shard[1]]
    videos = dataset.videos.iloc[shard[0] :: shard[1]]
    videos = videos[videos["file"].notna()]
    if cache is None:
        return _Work(videos, texts, [])
    failed = read_failures(options.cache)
    wanted: list[bool] = []
    known: list[Failure] = []
    for video_id, file in zip(videos["video_id"], videos["file"], strict=True):
        stat = file.stat()
        current = cache.is_current(video_id, stat.st_size, stat.st_mtime_ns)
        failure = failed.get(video_id)
        skipped = not current and failure is not None and _stays_failed(failure, stat, options)
        if skipped and failure is not None:
            known.append(failure)
        wanted.append(not current and not skipped)
    return _Work(videos[wanted], [text for text in texts if ("texts", text) not in cache], known)


def _stays_failed(failure: Failure, stat: os.stat_result, options: ExtractOptions) -> bool:
    """Whether trying the video again would end as it did."""
    if options.retry_failed or (options.allow_partial and failure.frames_decoded):
        return False
    return (failure.file_size, failure.file_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


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
        "precision": clip.precision,
        "dtype": options.dtype,
        **({"decode_device": "cuda"} if options.decode_device == "cuda" else {}),
    }


def _extract_texts(texts: Sequence[str], clip: Clip, cache: FeatureCache, max_words: int, quiet: bool) -> None:
    with Progress("texts", len(texts), "texts", quiet) as progress:
        for first in range(0, len(texts), TEXTS_A_PART):
            entries: list[TextEntry] = []
            for batch in encode_texts(texts[first : first + TEXTS_A_PART], clip, max_words):
                entries += batch
                progress.update(len(batch))
            cache.write_texts(entries)


def _extract_videos(videos: VideoFeaturesAhead, count: int, writer: "_Writer", options: ExtractOptions) -> list[Failure]:
    """Encode these videos into the cache; those that could not be decoded."""
    failures: list[Failure] = []
    try:
        with Progress("videos", count, "videos", options.quiet) as progress:
            for done, video in enumerate(videos, start=1):
                if isinstance(video, Failure):
                    failures.append(video)
                    writer.failures.append(video)
                else:
                    writer.add(video)
                progress.update(note=_note(videos.clock, writer, len(failures), count - done, worker_count(options)))
    finally:
        # Also when interrupted: what is encoded is kept.
        writer.flush()
    return failures


def _note(clock: Clock, writer: "_Writer", failed: int, left: int, workers: int) -> str:
    """What a line of progress says beside videos done, their rate and the time left."""
    return ", ".join(part for part in (f"{failed} failed", f"{left} left", clock.rates(workers), writer.rate()) if part)


class _Writer:
    """Collects videos and writes them as a part, with the list of failures, when there are enough or the last part is long ago."""

    def __init__(self, cache: FeatureCache, options: ExtractOptions, shard: tuple[int, int], known: Sequence[Failure]) -> None:
        self.failures = list(known)
        self.seconds = 0.0
        self._written = 0
        self._cache, self._file = cache, options.cache / failures_file(shard)
        self._whole = shard[1] == 1
        self._entries, self._bytes, self._since = list[VideoEntry](), 0, time.monotonic()

    def add(self, entry: VideoEntry) -> None:
        self._entries.append(entry)
        self._bytes += entry.frames_TD.nbytes + sum(map(len, entry.thumbnails)) + sum(map(len, entry.pixels))
        full = len(self._entries) >= VIDEOS_A_PART or self._bytes >= BYTES_A_PART
        if full or time.monotonic() - self._since > SECONDS_A_PART:
            self.flush()

    def flush(self) -> None:
        begin = time.perf_counter()
        if self._entries:
            self._cache.write_videos(self._entries)
            self._written += self._bytes
        self._write_failures()
        self._entries, self._bytes, self._since = [], 0, time.monotonic()
        self.seconds += time.perf_counter() - begin

    def rate(self) -> str:
        """Bytes a second that writing could reach alone."""
        return f"write {self._written / self.seconds / 2**20:.0f} MiB/s" if self._written else ""

    def _write_failures(self) -> None:
        """Those of this run, and those of earlier ones that still are not in the cache."""
        own = {failure.video_id: failure for failure in self.failures}
        # A process that shares the work writes down its share alone: two must not write one file.
        earlier = read_failures(self._cache.path).items() if self._whole else ()
        listed = own | {name: failure for name, failure in earlier if name not in own and ("videos", name) not in self._cache}
        write_failures(self._file, [listed[name] for name in sorted(listed)])
        if self._whole:
            for shared in self._cache.path.glob("failures-*-of-*.csv"):
                shared.unlink(missing_ok=True)
