"""What is said beside a query: where it was cut, and whether its results may mean nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from extract.encode.tokens import Cut

SHOWN = 40
"""Letters of a word."""


@dataclass(frozen=True)
class Notes:
    """What is known of a query. `why` says, after the number of tokens, why it was cut there."""

    cut: Cut | None
    why: str
    no_known_word: bool
    no_better_than_random: bool

    def lines(self) -> Iterator[str]:
        """In sentences, for people; a word is as it was written and may hold anything."""
        if self.cut is not None and not self.cut.word:
            yield f"nothing of the query was read ({self.cut.tokens} tokens{self.why})"
        elif self.cut is not None:
            word = self.cut.word if len(self.cut.word) <= SHOWN else f"{self.cut.word[:SHOWN]}…"
            yield f"the query was cut {'within' if self.cut.within else 'after'} '{word}' ({self.cut.tokens} tokens{self.why})"
        if self.no_known_word:
            yield "no word of this query is one that the model's vocabulary has: its results may mean nothing"
        if self.no_better_than_random:
            yield "these results are no better than those of random words"

    def plain(self) -> dict[str, Any]:
        """For programs; `notes` are the sentences."""
        cut = None if self.cut is None else {("within" if self.cut.within else "after"): self.cut.word, "tokens": self.cut.tokens}
        return {
            "cut": cut,
            "no_known_word": self.no_known_word,
            "no_better_than_random": self.no_better_than_random,
            "notes": list(self.lines()),
        }
