"""An answer as JSON: what `python -m search --json` prints and `/api/search` returns."""

import math
from collections.abc import Sequence
from typing import Any

from data.base.quoting import path_text
from search.answer import Answer, CaptionHit, Hit
from search.retrieval.moments import timestamp
from search.searcher import Searcher


def answer_record(answer: Answer, searcher: Searcher) -> dict[str, Any]:
    """The answer to a query."""
    options, first = searcher.options, searcher.options.candidates_run
    return {
        "query": answer.query,
        "run": path_text(options.run),
        "temperatures": searcher.head.temperatures(),
        "gallery": len(searcher.gallery.ids),
        **({} if first is None else {"candidates": options.candidates, "candidates_run": path_text(first)}),
        **answer.notes.as_dict(),
        "found": answer.found,
        "by": answer.measure,
        "results": [_hit_record(hit, answer) for hit in answer.hits],
    }


def captions_record(video_id: str, hits: Sequence[CaptionHit], searcher: Searcher) -> dict[str, Any]:
    """The captions that fit a video best."""
    return {
        "video_id": video_id,
        "run": path_text(searcher.options.run),
        "temperatures": searcher.head.temperatures(),
        "results": [{"rank": hit.rank, "caption": hit.caption, "score": finite(hit.score)} for hit in hits],
    }


def finite(number: float) -> float | None:
    """The number, or None for an infinite one or NaN, which JSON cannot express."""
    return number if math.isfinite(number) else None


def _hit_record(hit: Hit, answer: Answer) -> dict[str, Any]:
    frames = [hit.moment.frame, *hit.further]
    best, *_ = moments = [_moment_record(hit, frame) for frame in frames]
    return {
        "rank": hit.rank,
        "video_id": hit.video_id,
        "file": hit.file or None,
        "score": finite(hit.score),
        "length": finite(hit.length),
        "moment": {**best, "by": answer.measure},
        "moments": moments,
        "folded": list(hit.folded),
    }


def _moment_record(hit: Hit, frame: int) -> dict[str, Any]:
    """`frame` counts the frames that the head sees, and so do thumbnails."""
    seconds = hit.moment.seconds_F[frame]
    return {"frame": frame, "seconds": finite(seconds), "clock": timestamp(seconds), "weight": finite(hit.moment.weight_F[frame])}
