"""The split of a row: as the table names it, or by a hash of the file name if the table lacks splits."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.base.errors import UserError
from data.datasets.types import SPLITS

SYNONYMS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}

OFFER = "--split-by-hash 80,10,10"
"""The option that commands suggest if splits are missing."""


@dataclass(frozen=True)
class Shares:
    """The shares of train, val and test of `--split-by-hash`.

    text: the value of the option.
    followed: the option was given when the table was extracted before, and not now.
    """

    train: float
    val: float
    test: float
    text: str
    followed: bool = False

    def of(self, split: str) -> float:
        """The share of a split."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]


def split_named(word: str) -> str | None:
    """The split that a table's word stands for, such as val for "dev"; None if it stands for none."""
    return SYNONYMS.get(word.strip().casefold())


def shares_of(text: str, followed: bool = False) -> Shares:
    """Parse `TRAIN,VAL,TEST`: percentages, or any numbers in that ratio. Raises UserError if the text is invalid."""
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(0 <= number < 1e9 for number in numbers) or numbers[0] <= 0 or numbers[1] + numbers[2] <= 0:
        raise UserError(
            f"--split-by-hash {text}: write the shares of train, val and test with commas, such as 80,10,10; train and one of the others "
            "must be more than 0"
        )
    return Shares(numbers[0], numbers[1], numbers[2], text, followed)


def missing_splits(splits: Sequence[str]) -> list[str]:
    """The splits that a table with rows of `splits` lacks."""
    return [split for split in SPLITS if split not in splits]


def divide(files: Sequence[str], shares: Mapping[str, float]) -> dict[str, str]:
    """Assign every file to a split by the SHA-256 of its name.

    The split of a file does not depend on other files: when a table grows, no video moves from test to train. The shares are therefore met
    on average, not exactly. One exception keeps small tables usable: a split that would be empty borrows the file with the nearest hash
    from the largest split, until it has files itself.

    Raises UserError if there are fewer files than splits.
    """
    wanted = {split: share for split, share in shares.items() if share > 0}
    names = sorted(set(files))
    if len(names) < len(wanted):
        *first, last = wanted
        count = f"{len(names)} video file{'s' * (len(names) != 1)}"
        raise UserError(
            f"--split-by-hash: {count} cannot be divided into {', '.join(first)} and {last}: add videos, or give a split the share 0; for "
            "search, which needs no splits, extract under another --name"
        )
    total = sum(wanted.values())
    ends: dict[str, float] = {}
    for split, share in wanted.items():
        ends[split] = max(ends.values(), default=0.0) + share / total
    place = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64 for name in names}
    made = {name: next((split for split, end in ends.items() if place[name] < end), list(wanted)[-1]) for name in names}
    for split, share in wanted.items():
        if split not in made.values():
            counts = Counter(made.values())
            largest = max(wanted, key=lambda other: counts[other])
            middle = ends[split] - share / total / 2
            made[min((name for name in names if made[name] == largest), key=lambda name: abs(place[name] - middle))] = split
    return made
