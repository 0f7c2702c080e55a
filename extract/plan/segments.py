"""Cut long videos into segments, each an entry of its own with a start and an end.

A segment's id is the id of its video with a temporal media fragment (W3C, Media Fragments URI 1.0). A file of 80 s cut every 30 s gives

    talk.mp4#t=0,30    talk.mp4#t=30,60    talk.mp4#t=60        the last one extends to the end of the file

The id states the span that was extracted, so the cache needs no setting for the segment length.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from data.base.progress import Progress
from data.datasets import Dataset
from data.span import WHOLE_FILE, Span, cells_of
from extract.encode.prefetch import Prefetcher
from extract.encode.videos import points_outside, worker_count
from extract.ffmpeg.clock import length_of
from extract.ffmpeg.run import Processes
from extract.options import ExtractOptions

MIN_SEGMENTS = 1.5
"""Length in segments below which a video stays one entry."""


class Segment(NamedTuple):
    """An entry of the table of videos: its id and the span of its file."""

    video_id: str
    span: Span


def segments_of(video_id: str, length: float | None, seconds: float) -> list[Segment]:
    """Cut a video of `length` seconds every `seconds`. A remainder of less than half a segment is joined to the segment before it.

    A video shorter than one and a half segments, or of unknown length, stays one entry under its own id.
    """
    count = 1 if length is None else math.floor(length / seconds + 0.5)
    if count < 2:
        return [Segment(video_id, WHOLE_FILE)]
    starts = [i * seconds for i in range(count)]
    inner = [Segment(f"{video_id}#t={_decimal(start)},{_decimal(end)}", Span(start, end)) for start, end in pairwise(starts)]
    return [*inner, Segment(f"{video_id}#t={_decimal(starts[-1])}", Span(starts[-1]))]


def cut_into_segments(dataset: Dataset, options: ExtractOptions) -> Dataset:
    """The data set, which must have no captions, with its long videos cut into segments.

    A file whose length cannot be read stays whole; decoding then reports what is wrong with it.
    """
    assert options.segment is not None
    seconds = options.segment
    assert dataset.captions.empty
    processes = Processes()

    def probe(item: tuple[int, Path], put: Callable[[tuple[int, float | None]], None]) -> None:
        position, file = item
        allowed = options.follow_links or not points_outside(file, options.videos)
        put((position, length_of(file, MIN_SEGMENTS * seconds, options.time_limit, processes) if allowed else None))

    workers = worker_count(options)
    lengths: dict[int, float | None] = {}
    prefetcher: Prefetcher[Any, tuple[int, float | None]] = Prefetcher(
        enumerate(dataset.videos["file"]), probe, workers, workers, processes.stop
    )
    with prefetcher, Progress("lengths", len(dataset.videos), "videos", options.quiet) as progress:
        for position, length in prefetcher:
            lengths[position] = length
            progress.update()
    rows, spans = [], []
    for position, row in enumerate(dataset.videos.to_dict("records")):
        for segment in segments_of(row["video_id"], lengths[position], seconds):
            rows.append(row | {"video_id": segment.video_id})
            spans.append(segment.span)
    return replace(dataset, videos=pd.DataFrame(rows, columns=dataset.videos.columns).assign(**cells_of(spans)))


def _decimal(seconds: float) -> str:
    """Format without an exponent and without binary rounding errors: 30.0 gives 30, 0.1 + 0.2 gives 0.3."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
