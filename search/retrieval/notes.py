"""Warnings about a query: where it was cut, and whether its results mean anything."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from extract.encode.tokens import Cut

MAX_WORD = 40
"""Letters of a word that a note quotes."""


@dataclass(frozen=True)
class Notes:
    """What there is to know about one query."""

    cut: Cut | None
    why: str
    """The reason for the cut, which follows the number of tokens."""
    no_known_word: bool
    no_better_than_random: bool

    def lines(self) -> Iterator[str]:
        """The notes as sentences. Words are quoted as the user wrote them, so they may contain any character."""
        if self.cut is not None and not self.cut.word:
            yield f"none of the query was read ({self.cut.tokens} tokens{self.why})"
        elif self.cut is not None:
            word = self.cut.word if len(self.cut.word) <= MAX_WORD else f"{self.cut.word[:MAX_WORD]}…"
            yield f"the query was cut {'within' if self.cut.within else 'after'} '{word}' ({self.cut.tokens} tokens{self.why})"
        if self.no_known_word:
            yield "the model's vocabulary has no word of this query: the results may be meaningless"
        if self.no_better_than_random:
            yield "these results are no better than those of random words"

    def as_dict(self) -> dict[str, Any]:
        """The notes for JSON output; `notes` holds the sentences."""
        cut = None if self.cut is None else {("within" if self.cut.within else "after"): self.cut.word, "tokens": self.cut.tokens}
        return {
            "cut": cut,
            "no_known_word": self.no_known_word,
            "no_better_than_random": self.no_better_than_random,
            "notes": list(self.lines()),
        }
