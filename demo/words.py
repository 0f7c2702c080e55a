"""How the demo's captions are worded: every value has a usual wording and two unusual ones, and every kind of caption several forms.

No two values share a wording, and no wording is part of another, so a caption says exactly which facts it states.
"""

from dataclasses import dataclass

import numpy as np

from demo.world import ATTRIBUTES, NAMES, Description, Statement

UNUSUAL: dict[str, dict[str, tuple[str, str]]] = {
    "size": {"small": ("tiny", "little"), "large": ("huge", "giant")},
    "colour": {
        "red": ("crimson", "scarlet"),
        "orange": ("amber", "tangerine"),
        "yellow": ("golden", "lemon"),
        "green": ("emerald", "olive"),
        "cyan": ("turquoise", "teal"),
        "blue": ("navy", "azure"),
        "purple": ("violet", "lilac"),
        "white": ("ivory", "snowy"),
    },
    "shape": {
        "circle": ("disc", "ball"),
        "square": ("box", "block"),
        "triangle": ("wedge", "pyramid"),
        "star": ("asterisk", "spark"),
        "cross": ("plus", "crucifix"),
        "ring": ("hoop", "loop"),
        "diamond": ("rhombus", "lozenge"),
        "heart": ("valentine", "love symbol"),
    },
    "motion": {
        "resting": ("standing still", "motionless"),
        "rising": ("climbing", "going up"),
        "falling": ("sinking", "dropping"),
        "moving left": ("heading west", "sliding westward"),
        "moving right": ("heading east", "sliding eastward"),
    },
    "place": {
        "in the middle": ("at the centre", "halfway across"),
        "at the top": ("near the ceiling", "high above"),
        "at the bottom": ("near the floor", "low down"),
        "on the left": ("on the port side", "by the port edge"),
        "on the right": ("on the starboard side", "by the starboard edge"),
    },
    "background": {
        "plain": ("blank", "bare"),
        "striped": ("banded", "lined"),
        "dotted": ("spotted", "speckled"),
        "checkered": ("chequerboard", "tiled"),
        "gridded": ("meshed", "latticed"),
        "shaded": ("fading", "darkening"),
    },
}
"""Other wordings of each value."""

FORMS: dict[str, tuple[str, ...]] = {
    "several": ("{0} and {1}", "{0} and also {1}", "both {0} and {1}"),
    "order": ("first {0}, then {1}", "{0} and later {1}", "{0} before {1}", "{1} after {0}"),
}
"""How a caption joins two events; {0} is the earlier one if the caption says which."""


@dataclass(frozen=True)
class Voice:
    """A way of speaking: how often a value has an unusual wording, and how often that wording is wrong, one of another value."""

    unusual: float = 0.0
    wrong: float = 0.0

    def word(self, rng: np.random.Generator, name: str, value: int) -> str:
        """A wording of the value of an attribute."""
        values = ATTRIBUTES[name]
        if rng.random() >= self.unusual:
            return values[value]
        if rng.random() < self.wrong:
            value = (value + int(rng.integers(1, len(values)))) % len(values)
        return UNUSUAL[name][values[value]][int(rng.integers(2))]


def phrase(rng: np.random.Generator, description: Description, voice: Voice) -> str:
    """Describe one event in words, such as "a small red star rising on the left over a dotted background"."""
    word = {name: voice.word(rng, name, description[name]) for name in NAMES if name in description}
    noun = " ".join(part for part in (word.get("size"), word.get("colour"), word.get("shape", "object")) if part)
    article = "an" if noun[0] in "aeiou" else "a"
    thing = " ".join(part for part in (article, noun, word.get("motion"), word.get("place")) if part)
    if "background" not in word:
        return thing
    background = f"over a {word['background']} background"
    return f"{background} {thing}" if rng.random() < 0.25 else f"{thing} {background}"


def caption(rng: np.random.Generator, statement: Statement, voice: Voice) -> str:
    """The statement in words, in a form drawn at random."""
    parts = [phrase(rng, description, voice) for description in statement.events]
    if statement.kind == "one":
        return parts[0]
    if statement.kind == "whole":
        return _chain(parts)
    forms = FORMS[statement.kind]
    return forms[int(rng.integers(len(forms)))].format(*parts)


def _chain(parts: list[str]) -> str:
    return f"it starts with {parts[0]}, " + "".join(f"then {part}, " for part in parts[1:-1]) + f"and ends with {parts[-1]}"
