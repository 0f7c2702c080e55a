"""Compares candidates of an index with scoring all pairs, in accuracy and time: `python -m evaluate --candidates`."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from data.base.errors import UserError
from data.cache import FeatureCache
from data.compute.processes import ProcessGroup
from data.metrics import MEDIAN_RANK, RECALL_NAMES, TEXT_TO_VIDEO
from search.index.candidates import FoundBy, candidate_index, check_candidates, find_candidates, index_for
from search.index.words import ContentWords
from train_head.heads import Head
from train_head.scoring.rerank import candidate_metrics, rerank
from train_head.scoring.splits import Split

CandidatesFrom = Literal["frames", "pooled", "both", "words"]


def parse_candidates(option: str, videos: int, texts: int = 0) -> list[int]:
    """Parse "10,50" as [10, 50]. Raises UserError if a value is not an integer from 1 to the number of videos.

    `texts`: the number of texts if they are candidates too, of the videos: the larger number is then the limit.
    """
    try:
        numbers = [int(text) for text in option.split(",")]
    except ValueError as error:
        raise UserError(f"--candidates {option} must be whole numbers separated by commas") from error
    for number in numbers:
        check_candidates(number, videos, texts)
    return numbers


def ways(made_from: CandidatesFrom) -> tuple[FoundBy, ...]:
    """The ways to find candidates that --candidates-from selects."""
    return ("frames", "pooled") if made_from == "both" else (made_from,)


def candidate_rows(
    numbers: Sequence[int],
    made_from: CandidatesFrom,
    cache: FeatureCache,
    head: Head,
    split: Split,
    exhaustive: dict[str, float],
    memory_budget: int,
    words: ContentWords | None = None,
    folder: Path | None = None,
    processes: ProcessGroup | None = None,
    quiet: bool = True,
) -> list[dict[str, Any]]:
    """One row per way to find candidates and number of them: metrics, points lost against `exhaustive`, seconds.

    If `numbers` is empty, no index is built. `words`: of the split's texts, for candidates by words. `folder` keeps the indexes, in
    FOLDER/frames and FOLDER/pooled. For answers that are not candidates, see `candidate_metrics`.
    """
    if not numbers:
        return []
    rows = []
    for found_by in ways(made_from):
        vectors = index_for(found_by)
        start = time.perf_counter()
        index = candidate_index(cache, split.videos, vectors, folder and folder / vectors, processes, quiet)
        opened = time.perf_counter() - start
        for number in numbers:
            start = time.perf_counter()
            candidate_AK = find_candidates(index, split.texts, number, processes, words if found_by == "words" else None)
            found = time.perf_counter()
            score_AK = rerank(head, split.texts, split.videos, candidate_AK, memory_budget, processes, quiet)
            ranked = time.perf_counter()
            metrics = candidate_metrics(candidate_AK, score_AK, split.answers, len(split.videos.ids))
            rows.append(
                {
                    "vectors": found_by,
                    "candidates": number,
                    **metrics,
                    "lost": {name: exhaustive[name] - metrics[TEXT_TO_VIDEO][name] for name in RECALL_NAMES},
                    "pairs": candidate_AK.numel(),
                    "index_seconds": round(opened, 3),
                    "search_seconds": round(found - start, 3),
                    "rerank_seconds": round(ranked - found, 3),
                }
            )
    return rows


def format_candidates(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a text table. Seconds are totals over all queries."""
    return "\n".join(_lines(rows))


def _lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    head = "".join(f"{name:>7}" for name in (*RECALL_NAMES, MEDIAN_RANK, *(f"-{name}" for name in RECALL_NAMES), "there"))
    yield f"{'re-ranked candidates per query':32}{head}  search s  re-rank s"
    for row in rows:
        figures = [*(row[TEXT_TO_VIDEO][name] for name in (*RECALL_NAMES, MEDIAN_RANK)), *(row["lost"][name] for name in RECALL_NAMES)]
        cells = "".join(f"{figure:7.1f}" for figure in (*figures, row["answers_among_candidates"]))
        name = f"{row['candidates']:,} by {row['vectors']}"
        yield f"{name:32}{cells}  {row['search_seconds']:8.2f}  {row['rerank_seconds']:9.2f}"
    yield "text to video; -R@K: points lost against scoring all pairs; there: % of queries with their answer among the candidates"
