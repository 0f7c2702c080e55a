"""Reads a query from text: the fields of a command line, of the page's address, or of a JSON request.

The three have the same names, but for the case of options: `--min-length` is `min_length` elsewhere.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from data.base.errors import UserError
from data.base.quoting import quote
from search.query.filters import Filter, parse_condition, parse_date
from search.query.query import MOST_SHOWN, PICTURE_WEIGHT, Like, Picture, Query, Shown
from search.retrieval.queries import clean_query

FIELDS = (
    "q",
    "like",
    "not",
    "weight",
    "path",
    "min_length",
    "max_length",
    "since",
    "until",
    "where",
    "top",
    "skip",
    "threshold",
    "moments",
    "apart",
    "fold",
)
"""The fields of a query, besides its picture. `path` and `where` may be repeated."""

REPEATED = ("path", "where")
MOST_VALUES = 20
"""Most values of a field that may be repeated."""
LONGEST_PATTERN = 1000
"""Characters of a `path`. The time to compile a shell pattern grows with the square of its length."""


class Bounds(NamedTuple):
    """The numbers that a field takes, both bounds included."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False


LARGEST = 10**9
"""The largest number that is taken where no other bound makes sense: scores are float32, which ends below the largest float."""
NUMBERS = {
    "weight": Bounds(0, 1),
    "min_length": Bounds(0),
    "max_length": Bounds(0),
    "top": Bounds(1, MOST_SHOWN, whole=True),
    "skip": Bounds(0, LARGEST, whole=True),
    "threshold": Bounds(-LARGEST, LARGEST),
    "moments": Bounds(1, MOST_SHOWN, whole=True),
    "apart": Bounds(0),
    "fold": Bounds(-1, 1),
}
"""The fields that are numbers."""

Named = Callable[[str], str]
"""What the user calls a field."""


def parse_query(given: Mapping[str, Sequence[str]], named: Named, picture: Picture | None = None, shown: Shown | None = None) -> Query:
    """The query of these fields, each with its values; the last one counts of fields that cannot repeat. Empty fields are not given.

    `shown` has the defaults of what is shown. Raises UserError, by the name that `named` gives to a field.
    """
    default = shown or Shown()
    assert set(given) <= set(FIELDS), set(given) - set(FIELDS)

    def last(field: str) -> str | None:
        values = [value for value in given.get(field, ()) if value.strip()]
        return values[-1] if values else None

    def number(field: str) -> float | None:
        text = last(field)
        return None if text is None else _number(text, named(field), NUMBERS[field])

    def whole(field: str, default: int) -> int:
        found = number(field)
        return default if found is None else int(found)

    def chosen(field: str, default: float | None) -> float | None:
        found = number(field)
        return default if found is None else found

    def several(field: str) -> list[str]:
        values = [value for value in given.get(field, ()) if value.strip()]
        if len(values) > MOST_VALUES:
            raise UserError(f"{named(field)} has {len(values):,} values: give {MOST_VALUES} or fewer")
        return values

    def patterns(field: str) -> list[str]:
        values = several(field)
        for value in values:
            if len(value) > LONGEST_PATTERN:
                raise UserError(f"{named(field)} has {len(value):,} characters: shorten it to {LONGEST_PATTERN:,} or fewer")
        return values

    text, like, without = last("q"), last("like"), last("not")
    if text is None and like is None and picture is None:
        if without is not None:
            raise UserError(f"{named('not')} needs something to look for beside it: add words, a picture or {named('like')}")
        raise UserError("the query is empty: describe what to look for")
    since, until = last("since"), last("until")
    weight = number("weight")
    if weight is not None and (text is None or (like is None and picture is None)):
        raise UserError(f"{named('weight')} weighs a picture against words: give both, or leave it out")
    return Query(
        text="" if text is None else clean_query(text),
        picture=picture,
        like=None if like is None else parse_like(like, named("like")),
        without="" if without is None else clean_query(without),
        weight=PICTURE_WEIGHT if weight is None else weight,
        filter=Filter(
            path=tuple(patterns("path")),
            min_length=number("min_length"),
            max_length=number("max_length"),
            since=None if since is None else parse_date(since, named("since")),
            until=None if until is None else parse_date(until, named("until")),
            where=tuple(parse_condition(value, named("where")) for value in several("where")),
        ),
        shown=Shown(
            top=whole("top", default.top),
            skip=whole("skip", default.skip),
            threshold=chosen("threshold", default.threshold),
            moments=whole("moments", default.moments),
            apart=chosen("apart", default.apart) or 0.0,
            fold=chosen("fold", default.fold),
        ),
    )


def parse_like(text: str, name: str) -> Like:
    """Read VIDEO or VIDEO@TIME; what follows the last @ is a time if it is a number or h:mm:ss. An id that ends so needs a time as well."""
    video_id, at, time = text.rpartition("@")
    seconds = _clock(time) if at else None
    if seconds is None:
        return Like(text)
    if not video_id:
        raise UserError(f"{name} {quote(text)} must be VIDEO or VIDEO@TIME, with the time in seconds or as 1:23.4")
    return Like(video_id, seconds)


def _clock(text: str) -> float | None:
    """Seconds of a number or of h:mm:ss; None if it is neither."""
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        return None
    if not 1 <= len(parts) <= 3 or any(not math.isfinite(part) or part < 0 for part in parts):
        return None
    return sum(part * 60.0**place for place, part in enumerate(reversed(parts)))


def _number(text: str, name: str, bounds: Bounds) -> float:
    low, high, whole = bounds
    kind = "a whole number" if whole else "a number"
    limits = f" from {low:,} to {high:,}" if math.isfinite(high) else f" of at least {low:,}" if math.isfinite(low) else ""
    try:
        value = float(int(text)) if whole else float(text)
    except (ValueError, OverflowError):
        value = math.nan
    if not (math.isfinite(value) and low <= value <= high):
        raise UserError(f"{name} {quote(text)} must be {kind}{limits}")
    return value
