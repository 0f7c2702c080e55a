"""Rankings by each of a head's scores, counted in the same pass as the one by their mean."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.metrics import RankCounter, Ties
from train_head.pairs import RankedScore


class ScoreRankings:
    """By each score alone, and by the mean of the others; nothing for a head with one score.

    Of two scores, the mean of the others is the other alone, and is not counted twice.
    """

    def __init__(self, names: Sequence[str], answers: NDArray[np.int64], videos: int, ties: Ties) -> None:
        """`names`: the head's scores, in their order."""
        places = range(len(names))
        chosen = {name: [i] for i, name in enumerate(names)} if len(names) > 1 else {}
        if len(names) > 2:
            chosen |= {f"without {name}": [j for j in places if j != i] for i, name in enumerate(names)}
        self._scores = {row: [names[i] for i in some] for row, some in chosen.items()}
        self.accumulators = [RankedScore(RankCounter(answers, videos, ties), some) for some in chosen.values()]

    def rows(self) -> list[dict[str, Any]]:
        """The figures of each ranking, with its name and the scores that it reads."""
        return [
            {"name": name, "scores": scores, **accumulator.counter.metrics()}
            for (name, scores), accumulator in zip(self._scores.items(), self.accumulators, strict=True)
        ]
