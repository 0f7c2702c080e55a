"""Rankings by each of a head's scores, counted in the same pass as the one by their mean."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.metrics import Metrics, RankCounter, Ranks, Ties
from train_head.scoring.pairs import RankedScores


class Rankings:
    """By the retrieval score; and for a head with several scores by each alone, and by the mean of the others.

    Of two scores, the mean of the others is the other alone, and is not counted twice.
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
        """The figures of the retrieval score."""
        return self._counter.metrics()

    def ranks(self) -> tuple[Ranks, Ranks]:
        """Its ranks, text to video first."""
        return self._counter.ranks()

    def rows(self) -> list[dict[str, Any]]:
        """The figures of the other rankings, with their names and the scores that they read."""
        return [{"name": name, "scores": scores, **self._counter.metrics(1 + i)} for i, (name, scores) in enumerate(self._scores.items())]
