"""Which split a row is in: by its own word, or where a table has no word, by a hash of its file."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.base.errors import UserError
from data.datasets.types import SPLITS

WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}

OFFER = "--split-by-hash 80,10,10"
"""What the commands propose where splits are lacking."""


@dataclass(frozen=True)
class Shares:
    """The parts of train, val and test that `--split-by-hash` asks for, as `text` writes them.

    `followed`: not asked for now, but when the table was extracted before.
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
    """The split that a table means by a word; None where it is none."""
    return WORDS.get(word.strip().casefold())


def shares_of(text: str, followed: bool = False) -> Shares:
    """The shares that `TRAIN,VAL,TEST` writes, in percent or as any numbers in this ratio. Raises UserError if they are none."""
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


def lacking(splits: Sequence[str]) -> list[str]:
    """The splits that a table with rows of `splits` lacks."""
    return [split for split in SPLITS if split not in splits]


def divide(files: Sequence[str], shares: Mapping[str, float]) -> dict[str, str]:
    """The split of every file, by the SHA-256 of its name.

    A file stays in its split whatever other files there are, so that a table may grow and no video moves from the test split into training.
    The shares are therefore met on average, and not to the video. The one exception keeps small tables usable: a split that would have no
    file takes the one nearest to it from the largest split, until files of its own are there. Raises UserError if there are fewer files
    than splits.
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
