"""Texts as tokens: what every tokenizer here does, whichever library it comes from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SpecialTokens = Literal["letters", "tokens"]
"""Whether a special token inside a text, such as `<end_of_text>` or `</s>`, is spelled out in letters, or has the meaning it has for the
model."""

LETTERS_A_PIECE = 3
"""A word of several pieces counts as known if they have at least this many letters on average. That holds for 99.1% of the words in 9,201
captions of MSR-VTT and DiDeMo, and for 0.6% of strings of 4 to 10 random letters (tests/test_tokens.py bounds both)."""
SHORTEST_WHOLE_WORD = 3


@dataclass(frozen=True)
class Cut:
    """Where a text was cut: after `word`, or `within` it. It may have `tokens`, including the special tokens around it."""

    word: str
    within: bool
    tokens: int


class Tokenizer(ABC):
    """A tokenizer for one text at a time, without the cut to the model's context length.

    The *tokens* of a text are what the model has a feature of: its words and the special tokens around them, without padding. They are the
    first positions of the model's input:

        "a dog"  ->  encode: [start, a, dog, end]  ->  row: [start, a, dog, end, 0, 0, 0, 0]
    """

    special_tokens: SpecialTokens

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of rows that a table of token embeddings needs."""

    @property
    @abstractmethod
    def marks(self) -> tuple[int, int]:
        """Number of special tokens before the words of a text, and after them."""

    @property
    def empty_length(self) -> int:
        """Number of tokens of a text without words."""
        return sum(self.marks)

    @property
    def identity(self) -> str | None:
        """SHA-256 of what determines the tokens, or None if the model's own configuration determines them."""
        return None

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """All tokens of a text, without a limit."""

    def count(self, tokens: Sequence[int]) -> int:
        """Number of tokens that the model reads, without a limit."""
        return len(tokens)

    @abstractmethod
    def cut(self, tokens: Sequence[int], most: int) -> list[int]:
        """Cut tokens to at most `most`, as the model's own tokenizer does: the first words and all special tokens are kept."""

    @abstractmethod
    def row(self, tokens: Sequence[int], positions: int) -> list[int]:
        """The model's input of this many positions, for tokens from `cut`."""

    @abstractmethod
    def cut_of(self, text: str, most: int) -> Cut | None:
        """Where the text is cut if it may have `most` tokens; None if all of it is read."""

    @abstractmethod
    def knows_a_word(self, text: str) -> bool:
        """Whether the vocabulary knows at least one word of the text.

        A word is known if it is one piece, or if its pieces have at least LETTERS_A_PIECE letters on average: skate-boarder is known,
        x-q-z-vw is not.
        """

    @abstractmethod
    def random_words(self, count: int, seed: int) -> str:
        """A text of `count` unrelated words of one token each."""

    @abstractmethod
    def spell(self, text: str, most: int) -> list[str]:
        """The tokens of a text as strings, cut to `most` tokens. A token that ends a word ends with a space."""

    def save(self, folder: Path) -> None:  # noqa: B027 - a tokenizer without files writes none
        """Write the files that the tokenizer needs into a model's folder."""
