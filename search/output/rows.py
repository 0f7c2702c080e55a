"""The moments of answers, one by one, with the files that they are in."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from search.answer import Answer
from search.retrieval.files import VideoFiles


@dataclass(frozen=True)
class Row:
    """A moment that was found.

    number: of the query, from 1. rank, video_id, file, score: of the result. seconds, weight: of the moment. path: the file on this
    machine; None if it is unknown, gone or changed.
    """

    number: int
    query: str
    rank: int
    video_id: str
    file: str
    score: float
    seconds: float
    weight: float
    path: Path | None


def rows_of(answers: Iterable[Answer], files: VideoFiles) -> Iterator[Row]:
    """The moments of each result, best first, in the order of the results and queries."""
    path_of = cache(files.path_of)
    for number, answer in enumerate(answers, start=1):
        for hit in answer.hits:
            frames = (hit.moment.frame, *hit.further)
            for frame, seconds in zip(frames, hit.times, strict=True):
                weight, path = hit.moment.weight_F[frame], path_of(hit.video_id)
                yield Row(number, answer.query, hit.rank, hit.video_id, hit.file, hit.score, seconds, weight, path)
