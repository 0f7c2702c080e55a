"""The events of the demo videos, and the statements that captions make about them.

A video is a sequence of 3 to 5 events. An event is one object (size, colour, shape) with a motion, at a place, over a background:
2 * 8 * 8 * 5 * 5 * 6 = 19,200 kinds. Everything in a caption is visible in stills or in their order: a moving object leaves a trail.

Captions have different scopes (KINDS): one event, several in no stated order, two in a stated order, or the whole video. Every video has a
sibling, a hard negative: two of its events come in the other order, and each of the rest differs in one attribute. So a caption of kind
"order", about the two, tells the siblings apart by the order alone. Some events recur in many videos of a split (RECURRING).

`make_split` guarantees that each caption is true of only one video of its split.

Shape suffixes: V videos, E events of a video (padded with -1 to 5), K attributes of an event, P pairs of siblings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

VERSION = 2
"""Of the videos and captions that a seed stands for: raised whenever they change, so that no folder mixes those of two versions."""

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": ("small", "large"),
    "colour": ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white"),
    "shape": ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart"),
    "motion": ("resting", "rising", "falling", "moving left", "moving right"),
    "place": ("in the middle", "at the top", "at the bottom", "on the left", "on the right"),
    "background": ("plain", "striped", "dotted", "checkered", "gridded", "shaded"),
}
NAMES = tuple(ATTRIBUTES)
CARDINALITIES = np.array([len(values) for values in ATTRIBUTES.values()])
MAX_EVENTS = 5

KINDS = {"one": 0.45, "several": 0.2, "order": 0.2, "whole": 0.15}
"""The kinds of captions and their shares."""
FACTS = {"one": (3, 5), "several": (4, 6), "order": (4, 6), "whole": (0, 0)}
"""A caption of each kind states at least this many facts (drawn between the two), and more until it is true of one video alone. It states
at least one of every event that it mentions."""
RECURRING = 0.4
"""Probability that an event of a pair's first video is one of the COMMON ones of its split, apart from two that do not recur. In the
sibling, those in the other order stay, and the rest is changed. So about 15% of all events recur."""
COMMON = 24
MAX_VIDEOS = 12_000
"""Maximum size of a split: with more, the events that occur in one pair of siblings alone would run out."""

Description = dict[str, int]
"""Some attributes of one event: name to index of the value, such as {"colour": 0} for red."""


@dataclass(frozen=True)
class Statement:
    """What a caption claims: events that fit these descriptions occur, in this order unless the kind is "several"."""

    kind: str
    events: tuple[Description, ...]

    def readings(self) -> Iterator[tuple[Description, ...]]:
        """The orders in which the events may occur, possibly with others between them."""
        return permutations(self.events) if self.kind == "several" else iter((self.events,))


@dataclass(frozen=True)
class DemoSplit:
    """The videos of one split: attribute indices [V, E, K], seconds of each event [V, E] (0 for padding), and statements per video."""

    events_VEK: NDArray[np.int8]
    seconds_VE: NDArray[np.int8]
    statements: list[list[Statement]]


def random_events(rng: np.random.Generator, count: int) -> NDArray[np.int8]:
    """`count` independent events [count, K]."""
    return rng.integers(0, CARDINALITIES, size=(count, len(NAMES))).astype(np.int8)


def change_one_attribute(rng: np.random.Generator, events_NK: NDArray[np.int8]) -> NDArray[np.int8]:
    """A copy of the events with one attribute of each changed to another value."""
    changed_NK = events_NK.copy()
    for event_K in changed_NK:
        k = rng.integers(len(NAMES))
        event_K[k] = (event_K[k] + rng.integers(1, CARDINALITIES[k])) % CARDINALITIES[k]
    return changed_NK


def describe(event_K: NDArray[np.int8], names: list[str]) -> Description:
    """The named attributes of an event."""
    return {name: int(event_K[NAMES.index(name)]) for name in names}


def matches(description: Description, events: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Mask [...] of the events [..., K] that fit the description."""
    fits = events[..., 0] >= 0
    for name, value in description.items():
        fits = fits & (events[..., NAMES.index(name)] == value)
    return fits


def is_true_of(statement: Statement, events_VEK: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Mask [V] of the videos that the statement is true of."""
    true_V = np.zeros(len(events_VEK), dtype=bool)
    for reading in statement.readings():
        fits_V = np.ones(len(events_VEK), dtype=bool)
        last_V = np.full(len(events_VEK), -1)
        for description in reading:
            later_VE = matches(description, events_VEK) & (np.arange(MAX_EVENTS) > last_V[:, None])
            fits_V &= later_VE.any(axis=1)
            last_V = later_VE.argmax(axis=1)
        true_V |= fits_V
    return true_V


def make_split(rng: np.random.Generator, videos: int, captions_per_video: int) -> DemoSplit:
    """Make videos in sibling pairs, and statements that are each true of their own video alone.

    Of the events that come in the other order in the sibling, one occurs in no other pair; of the rest, one occurs in no other video. So
    each kind of caption can be true of one video alone.
    """
    assert videos <= MAX_VIDEOS
    pairs = (videos + 1) // 2
    every = np.arange(pairs)
    count_P = rng.integers(3, MAX_EVENTS + 1, size=pairs)
    swapped_P2 = np.stack([np.sort(rng.choice(count, size=2, replace=False)) for count in count_P])
    own_P = np.array([min({0, 1, 2} - {*swapped}) for swapped in swapped_P2.tolist()])
    own_PK, changed_PK, ordered_PK = _own_events(rng, pairs)
    taken = np.zeros(CARDINALITIES.prod(), dtype=bool)
    taken[_code(np.concatenate([own_PK, changed_PK, ordered_PK]))] = True
    shape = (pairs, MAX_EVENTS, len(NAMES))
    # Different ones in each video.
    drawn_PE = rng.permuted(np.tile(np.arange(COMMON), (pairs, 1)), axis=1)[:, :MAX_EVENTS]
    common_PEK = _changed(rng, random_events(rng, COMMON), taken)[drawn_PE]
    base_PEK = _changed(rng, random_events(rng, pairs * MAX_EVENTS), taken).reshape(shape)
    base_PEK = np.where(rng.random((*shape[:2], 1)) < RECURRING, common_PEK, base_PEK)
    sibling_PEK = _changed(rng, base_PEK.reshape(-1, len(NAMES)), taken).reshape(shape)
    base_PEK[every, own_P], sibling_PEK[every, own_P] = own_PK, changed_PK
    base_PEK[every, swapped_P2[every, rng.integers(2, size=pairs)]] = ordered_PK
    sibling_PEK[every[:, None], swapped_P2] = base_PEK[every[:, None], swapped_P2[:, ::-1]]
    events_VEK = np.stack([base_PEK, sibling_PEK], axis=1).reshape(2 * pairs, MAX_EVENTS, -1)[:videos]
    present_VE = np.arange(MAX_EVENTS) < np.repeat(count_P, 2)[:videos, None]
    events_VEK[~present_VE] = -1
    seconds_VE = rng.integers(2, 4, size=present_VE.shape).astype(np.int8) * present_VE
    kinds, shares = list(KINDS), list(KINDS.values())
    statements = [
        [make_statement(rng, events_VEK, v, str(rng.choice(kinds, p=shares)), swapped_P2[v // 2]) for _ in range(captions_per_video)]
        for v in range(videos)
    ]
    return DemoSplit(events_VEK, seconds_VE, statements)


def _changed(rng: np.random.Generator, events_NK: NDArray[np.int8], taken: NDArray[np.bool_]) -> NDArray[np.int8]:
    """A copy of the events with one attribute of each changed, such that none is taken. Near MAX_VIDEOS some take more changes."""
    changed_NK = change_one_attribute(rng, events_NK)
    tries = 0
    while (again_N := taken[_code(changed_NK)]).any():
        changed_NK[again_N] = change_one_attribute(rng, (events_NK if tries < 100 else changed_NK)[again_N])
        tries += 1
    return changed_NK


def _code(events_NK: NDArray[np.int8]) -> NDArray[np.int64]:
    """A number for each event."""
    return np.asarray(np.ravel_multi_index(tuple(events_NK.T.astype(np.int64)), tuple(CARDINALITIES)))


def _own_events(rng: np.random.Generator, pairs: int) -> tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.int8]]:
    """Distinct events for each pair of siblings: one [P, K], a copy with one attribute changed [P, K], and another [P, K]."""
    taken = np.zeros(CARDINALITIES.prod(), dtype=bool)
    shuffled_NK = np.stack(np.unravel_index(rng.permutation(len(taken)), tuple(CARDINALITIES)), axis=1).astype(np.int8)
    changed_NK = change_one_attribute(rng, shuffled_NK)
    chosen: list[int] = []
    for n, two in enumerate(np.stack([_code(shuffled_NK), _code(changed_NK)], axis=1)):
        if len(chosen) < pairs and not taken[two].any():
            taken[two] = True
            chosen.append(n)
    return shuffled_NK[chosen], changed_NK[chosen], shuffled_NK[~taken[_code(shuffled_NK)]][:pairs]


def make_statement(
    rng: np.random.Generator, events_VEK: NDArray[np.int8], video: int, kind: str, swapped_2: NDArray[np.int64]
) -> Statement:
    """A statement of this kind that is true of `video` alone: it starts vague and gains facts until no other video fits.

    Statements of kind "order" are about the two events that the sibling has in the other order.
    """
    count = int((events_VEK[video, :, 0] >= 0).sum())
    # An attempt fails if the complete description of the chosen events also fits another video, as it does where the sibling has the
    # event too, or where it recurs.
    for attempt in range(1000):
        if kind == "order" and attempt == 20:
            # One of the two occurs a second time in these videos by chance, as it does in few of thousands.
            kind = "one"
        if kind == "order":
            positions = swapped_2.tolist()
        else:
            mentioned = {"one": 1, "several": 2, "whole": count}[kind]
            positions = np.sort(rng.choice(count, size=mentioned, replace=False)).tolist()
        stated: dict[int, Description] = {position: {} for position in positions}
        unstated = [(position, name) for position in positions for name in NAMES]
        rng.shuffle(unstated)
        minimum = int(rng.integers(FACTS[kind][0], FACTS[kind][1] + 1))
        remaining_N = np.arange(len(events_VEK))
        while unstated:
            position, name = unstated.pop()
            stated[position] |= describe(events_VEK[video, position], [name])
            statement = Statement(kind, tuple(stated[position] for position in positions))
            if sum(map(len, statement.events)) >= minimum and all(statement.events):
                # Another fact never makes a statement true of more videos, so check only the remaining videos.
                remaining_N = remaining_N[is_true_of(statement, events_VEK[remaining_N])]
                if len(remaining_N) == 1:
                    return statement
    raise AssertionError(f"no statement is true of video {video} alone")
