"""The events of the demo videos, and the statements that captions make about them.

A video is a sequence of 3 to 5 events. An event is one object (size, colour, shape) with a motion, at a place, over a background:
2 * 8 * 8 * 5 * 5 * 6 = 19,200 kinds. A caption describes one or two events in order, and only some attributes of each, so it covers a part
of the video. Every video has a sibling that differs in exactly one attribute of each event: a hard negative.

`make_split` guarantees that each caption is true of only one video of its split. Everything in a caption is visible in stills or in their
order: a moving object leaves a trail.

Shape suffixes: V videos, E events of a video (padded with -1 to 5), K attributes of an event.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

Description = dict[str, int]
"""Some attributes of one event: name to index of the value, such as {"colour": 0} for red."""

Statement = tuple[Description, ...]
"""What a caption claims: events that fit these descriptions occur in this order, possibly with others between them."""


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


def matches(description: Description, events: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Mask [...] of the events [..., K] that fit the description."""
    fits = events[..., 0] >= 0
    for name, value in description.items():
        fits = fits & (events[..., NAMES.index(name)] == value)
    return fits


def is_true_of(statement: Statement, events_VEK: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Mask [V] of the videos that the statement is true of: some of their events fit its descriptions, in order."""
    true_V = np.ones(len(events_VEK), dtype=bool)
    last_V = np.full(len(events_VEK), -1)
    for description in statement:
        later_VE = matches(description, events_VEK) & (np.arange(MAX_EVENTS) > last_V[:, None])
        true_V &= later_VE.any(axis=1)
        last_V = later_VE.argmax(axis=1)
    return true_V


def make_split(rng: np.random.Generator, videos: int, captions_per_video: int) -> DemoSplit:
    """Make videos in sibling pairs, and statements that are each true of their own video alone."""
    pairs = (videos + 1) // 2
    count_P = rng.integers(3, MAX_EVENTS + 1, size=pairs)
    base_PEK = random_events(rng, pairs * MAX_EVENTS).reshape(pairs, MAX_EVENTS, -1)
    sibling_PEK = change_one_attribute(rng, base_PEK.reshape(pairs * MAX_EVENTS, -1)).reshape(base_PEK.shape)
    events_VEK = np.stack([base_PEK, sibling_PEK], axis=1).reshape(2 * pairs, MAX_EVENTS, -1)[:videos]
    present_VE = np.arange(MAX_EVENTS) < np.repeat(count_P, 2)[:videos, None]
    events_VEK[~present_VE] = -1
    seconds_VE = rng.integers(2, 4, size=present_VE.shape).astype(np.int8) * present_VE
    statements = [[make_statement(rng, events_VEK, v) for _ in range(captions_per_video)] for v in range(videos)]
    return DemoSplit(events_VEK, seconds_VE, statements)


def make_statement(rng: np.random.Generator, events_VEK: NDArray[np.int8], video: int) -> Statement:
    """A statement true of `video` alone: it starts vague and gains facts until no other video fits."""
    count = int((events_VEK[video, :, 0] >= 0).sum())
    everything = [(position, name) for position in range(count) for name in NAMES]
    # An attempt fails only if the complete description of the chosen events also fits another video. With 10,000
    # videos that holds for about nine in ten single events, and for one in thousands of pairs.
    for _ in range(1000):
        # At most two events: a caption of three could describe a whole video.
        positions = np.sort(rng.choice(count, size=rng.integers(1, 3), replace=False)).tolist()
        stated: dict[int, Description] = {position: {} for position in positions}
        unstated = [fact for fact in everything if fact[0] in stated]
        rng.shuffle(unstated)
        # Start with enough facts that few captions need many more.
        minimum = int(rng.integers(4, 6))
        remaining_N = np.arange(len(events_VEK))
        while unstated:
            position, name = unstated.pop()
            stated[position][name] = int(events_VEK[video, position, NAMES.index(name)])
            statement = tuple(stated[position] for position in positions)
            facts = sum(len(description) for description in statement)
            if facts >= minimum and all(len(description) >= 2 for description in statement):
                # Another fact never makes a statement true of more videos, so check only the remaining videos.
                remaining_N = remaining_N[is_true_of(statement, events_VEK[remaining_N])]
                if len(remaining_N) == 1:
                    return statement
    raise AssertionError(f"no statement is true of video {video} alone")


def phrase(description: Description, background_first: bool = False) -> str:
    """Describe one event in words, such as "a small red star rising on the left over a dotted background"."""
    word = {name: ATTRIBUTES[name][value] for name, value in description.items()}
    noun = " ".join(part for part in (word.get("size"), word.get("colour"), word.get("shape", "object")) if part)
    article = "an" if noun[0] in "aeiou" else "a"
    thing = " ".join(part for part in (article, noun, word.get("motion"), word.get("place")) if part)
    if "background" not in word:
        return thing
    background = f"over a {word['background']} background"
    return f"{background} {thing}" if background_first else f"{thing} {background}"


def caption(rng: np.random.Generator, statement: Statement) -> str:
    """The statement in one of several wordings, chosen at random."""
    parts = [phrase(description, background_first=bool(rng.random() < 0.25)) for description in statement]
    if len(parts) == 1:
        return parts[0]
    return f"first {parts[0]}, then {parts[1]}" if rng.random() < 0.5 else f"{parts[0]} and later {parts[1]}"
