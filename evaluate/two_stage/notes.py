"""Results of `evaluate.two_stage.of_run` for people: what the second stage gained, and what it read."""

from collections.abc import Iterator, Mapping
from typing import Any

from data.metrics import DIRECTIONS, FIGURES, RECALL_SUM, TEXT_TO_VIDEO, VIDEO_TO_TEXT
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
    there, ties = found["answers_among_candidates"], found["boundary_ties"]
    yield (
        f"candidates: the {found['candidates']:,} best of {found['run']} for every query; the answer is among them for "
        f"{there[TEXT_TO_VIDEO]:.1f}% of the texts and {there[VIDEO_TO_TEXT]:.1f}% of the videos"
    )
    if any(ties.values()):
        yield (
            f"candidates: for {ties[TEXT_TO_VIDEO]:,} texts and {ties[VIDEO_TO_TEXT]:,} videos, scores tie at the last place: those listed "
            "first are candidates"
        )
    for name, stage in zip(("first", "second"), found["stages"], strict=True):
        yield (f"{name} stage: {stage['pairs']:,} pairs with {stage['run']}, {work(stage['flops'])}, {stage['measured']['seconds']:.2f} s")
