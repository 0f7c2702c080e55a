"""What a search finds."""

from dataclasses import dataclass

from search.query.query import Query
from search.retrieval.moments import Measure, Moment
from search.retrieval.notes import Notes


@dataclass(frozen=True)
class Hit:
    """A video in the results.

    rank: from 1, over the whole ranking. number: the video's index in the gallery. file: its path below the video folder, empty if unknown.
    moment: the best one. further: frames of the next best moments, apart in time, best first. length: of the video, in seconds.
    folded: ids of worse results that are near-duplicates of this one.
    """

    rank: int
    number: int
    video_id: str
    file: str
    score: float
    moment: Moment
    length: float = 0.0
    further: tuple[int, ...] = ()
    folded: tuple[str, ...] = ()

    @property
    def times(self) -> list[float]:
        """Seconds of all moments, best first."""
        return [self.moment.seconds, *(self.moment.seconds_F[frame] for frame in self.further)]


@dataclass(frozen=True)
class CaptionHit:
    """A caption in the results."""

    rank: int
    caption: str
    score: float


@dataclass(frozen=True)
class Answer:
    """A query and its results, best first.

    query: for people. measure: how the frames of a video are weighed. found: videos that the filter and the threshold let through.
    """

    query: str
    asked: Query
    measure: Measure
    hits: list[Hit]
    notes: Notes
    found: int
