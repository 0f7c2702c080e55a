"""Arithmetic of blocks: a file is divided into blocks of equal size, of which the last may be shorter."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple


class Range(NamedTuple):
    """Bytes start:stop of a file."""

    name: str
    start: int
    stop: int


class Block(NamedTuple):
    """A block of a file, counted from 0."""

    name: str
    number: int


def blocks_of(ranges: Iterable[Range], block_bytes: int) -> list[Block]:
    """The blocks that hold these ranges, each once, in the order of the ranges."""
    numbers = ((one.name, range(one.start // block_bytes, -(-one.stop // block_bytes))) for one in ranges if one.start < one.stop)
    return list(dict.fromkeys(Block(name, number) for name, of_range in numbers for number in of_range))


def runs_of(blocks: Iterable[Block], most: int) -> Iterator[list[Block]]:
    """The blocks in the order of files and numbers, split into runs of neighbours with at most `most` blocks each."""
    run: list[Block] = []
    for block in sorted(blocks):
        if run and (len(run) == most or block != Block(run[-1].name, run[-1].number + 1)):
            yield run
            run = []
        run.append(block)
    if run:
        yield run


def outside(bulk: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """The byte ranges of a file of this size that none of the `bulk` ranges covers."""
    edges = [(0, 0), *sorted(bulk), (size, size)]
    reached, found = 0, []
    for (_, stop), (start, _) in pairwise(edges):
        reached = max(reached, stop)
        if reached < start:
            found.append((reached, start))
    return found
