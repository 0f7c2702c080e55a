"""Ablates a head's scores: ranks by each of them in the same pass as by their mean."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.metrics import Metrics, RankCounter, Ranks, Ties
from train_head.scoring.pairs import RankedScores


class Rankings:
    """Ranks by the retrieval score and, for a head with several scores, by subsets of them.

    With scores a, b and c, the subsets are a, b and c alone, and "without a" (the mean of b and c), "without b", "without c".
    With two scores, "without a" equals b, so only the single scores are ranked.
    """

    def __init__(self, names: Sequence[str], answers: NDArray[np.int64], videos: int, ties: Ties) -> None:
        """`names`: the head's scores, in their order."""
        places = range(len(names))
        chosen = {name: [i] for i, name in enumerate(names)} if len(names) > 1 else {}
        if len(names) > 2:
            chosen |= {f"without {name}": [j for j in places if j != i] for i, name in enumerate(names)}
        self._scores = {row: [names[i] for i in some] for row, some in chosen.items()}
        self._counter = RankCounter(answers, videos, ties, 1 + len(chosen))
        self.accumulator = RankedScores(self._counter, list(chosen.values()))

    def metrics(self) -> Metrics:
        """The metrics of the retrieval score."""
        return self._counter.metrics()

    def ranks(self) -> tuple[Ranks, Ranks]:
        """The ranks by the retrieval score, text to video first."""
        return self._counter.ranks()

    def rows(self) -> list[dict[str, Any]]:
        """The metrics of the other rankings, with their names and the scores that they average."""
        return [{"name": name, "scores": scores, **self._counter.metrics(1 + i)} for i, (name, scores) in enumerate(self._scores.items())]
