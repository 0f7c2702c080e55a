"""A query, however it was asked: on the command line, in the page's address or through the JSON interface."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from search.query.filters import Filter

if TYPE_CHECKING:  # pictures load late, so that --help answers at once
    from PIL import Image

PICTURE_WEIGHT = 0.5
"""Weight of a picture beside words."""
MOST_SHOWN = 1000
"""Most results of one answer, and most moments of a result."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to look for, decoded, in RGB. `name` is the file, for people."""

    name: str
    image: "Image.Image"


@dataclass(frozen=True)
class Like:
    """A video of the gallery whose likes are wanted: the whole of it, or its frame nearest to this time."""

    video_id: str
    seconds: float | None = None

    def __str__(self) -> str:
        return self.video_id if self.seconds is None else f"{self.video_id}@{self.seconds:g}"


@dataclass(frozen=True)
class Shown:
    """Which part of the ranking an answer shows.

    top, skip: so many results, after this many.
    threshold: only results with at least this score; None for all.
    moments, apart: so many moments of a video, each at least this many seconds from the better ones.
    fold: a video whose mean frame has at least this cosine with that of a better result is folded into it; None to fold nothing.
    """

    top: int = 10
    skip: int = 0
    threshold: float | None = None
    moments: int = 1
    apart: float = 5.0
    fold: float | None = None


@dataclass(frozen=True)
class Query:
    """What to look for. At least one of `text`, `picture` and `like` is given.

    text: words, cleaned (see `search.retrieval.queries.clean_query`).
    without: words whose scores count against a video.
    weight: of `picture` and `like` together beside `text`, from 0 to 1.
    """

    text: str = ""
    picture: Picture | None = None
    like: Like | None = None
    without: str = ""
    weight: float = PICTURE_WEIGHT
    filter: Filter = field(default_factory=Filter)
    shown: Shown = field(default_factory=Shown)

    def __str__(self) -> str:
        """The query for people: `a ring, like video3@4, not a cube`."""
        parts = [self.text]
        parts += [] if self.picture is None else [f"the picture {self.picture.name}"]
        parts += [] if self.like is None else [f"like {self.like}"]
        parts += [f"not {self.without}"] if self.without else []
        return ", ".join(part for part in parts if part)
