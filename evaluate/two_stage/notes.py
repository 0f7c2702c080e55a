"""Results of `evaluate.two_stage.of_run` for people: what the second stage gained, and what it read."""

from collections.abc import Iterator, Mapping
from typing import Any

from data.metrics import DIRECTIONS, FIGURES, RECALL_NAMES, RECALL_SUM, TEXT_TO_VIDEO, VIDEO_TO_TEXT
from train_head.scoring.cost import work


def difference(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the second stage adds to each metric of the first: negative ranks and positive recalls are gains."""
    first = result["two_stage"]
    gained: dict[str, Any] = {
        direction: {name: result[direction][name] - first[direction][name] for name in FIGURES} for direction in DIRECTIONS
    }
    return gained | {RECALL_SUM: result[RECALL_SUM] - first[RECALL_SUM]}


def two_stage_notes(result: Mapping[str, Any]) -> Iterator[str]:
    """What was re-ranked, as lines for people."""
    found = result["two_stage"]
    ties, there = found["boundary_ties"], {name: _share(found, name) for name in DIRECTIONS}
    yield (
        f"candidates: the {found['candidates']:,} best of {found['run']} for every query; the answer is among them for "
        f"{there[TEXT_TO_VIDEO]} of the texts and {there[VIDEO_TO_TEXT]} of the videos"
    )
    if any(ties.values()):
        yield (
            f"candidates: for {ties[TEXT_TO_VIDEO]:,} texts and {ties[VIDEO_TO_TEXT]:,} videos, scores tie at the last place: those listed "
            "first are candidates"
        )
    gained = found["difference"]
    for direction in DIRECTIONS:
        changes = ", ".join(f"{name} {_change(gained[direction][name])}" for name in RECALL_NAMES)
        yield f"second stage minus first, {direction.replace('_', ' ')}: {changes}"
    yield (
        f"second stage minus first, both directions: {RECALL_SUM} {_change(gained[RECALL_SUM])}; points, with 95% intervals by the paired "
        "bootstrap over queries"
    )
    for name, stage in zip(("first", "second"), found["stages"], strict=True):
        yield (f"{name} stage: {stage['pairs']:,} pairs with {stage['run']}, {work(stage['flops'])}, {stage['measured']['seconds']:.2f} s")


def _share(found: Mapping[str, Any], direction: str) -> str:
    low, high = found["intervals"]["answers_among_candidates"][direction]
    return f"{found['answers_among_candidates'][direction]:.1f}% ({low:.1f} to {high:.1f})"


def _change(gained: Mapping[str, float]) -> str:
    return f"{gained['difference']:+.1f} ({gained['low']:+.1f} to {gained['high']:+.1f})"
