"""Formats the metrics of the kinds of captions as text."""

from collections.abc import Iterator, Mapping
from typing import Any

from data.base.quoting import visible
from data.metrics import DIRECTIONS, FIGURES, Ties
from evaluate.compare.table import NONE, Table

COLUMNS = ("queries", *FIGURES)
BY_EXPECTATION = "groups of queries credit ties by expectation, whatever the figures of all queries do"
"""A note where the latter count ties as in the field's code."""


def format_kinds(by_kind: Mapping[str, Any], ties: Ties) -> str:
    """The table by kind of caption, both directions, then what is left out. `by_kind`: see `evaluate.breakdown.figures.breakdown`; `ties`:
    how the figures of all queries count them."""
    columns = [("", "kind of caption"), *((direction.replace("_", " "), name) for direction in DIRECTIONS for name in COLUMNS)]
    rows = [
        [visible(group["name"]), *(cell for direction in DIRECTIONS for cell in cells(group[direction]))] for group in by_kind["groups"]
    ]
    notes = [*left_out_lines(by_kind["left_out"], by_kind["further_kinds"]), *[BY_EXPECTATION] * (ties == "reference")]
    return "\n".join([Table(columns, rows).text(), *notes])


def cells(figures: Mapping[str, Any] | None) -> list[str]:
    """The cells of COLUMNS for one direction of a group."""
    if figures is None:
        return ["0", *[NONE] * len(FIGURES)]
    return [str(figures["queries"]), *(f"{figures[name]:.1f}" for name in FIGURES)]


def left_out_lines(left_out: Mapping[str, int], further_kinds: int) -> Iterator[str]:
    """How many queries are in no group, and why, if any."""
    captions, videos = (left_out[direction] for direction in DIRECTIONS)
    less_frequent = "one less frequent kind" if further_kinds == 1 else f"one of {further_kinds:,} less frequent kinds"
    further = f", or with {less_frequent}" if further_kinds else ""
    if captions:
        yield f"in no group: {captions:,} caption{'s' * (captions != 1)} without a kind{further}"
    if videos:
        yield f"in no group: {videos:,} video{'s' * (videos != 1)} whose captions do not share a kind{further}"
