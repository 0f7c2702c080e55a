"""Draw events of the demo world as stills.

A Look is what a recording makes of a scene. CLIP learns from clean pictures of many looks (`studio`); the data set is FOOTAGE: paler, with
a colour cast, out of focus, and with things in the background that no caption mentions.
"""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from demo.world import ATTRIBUTES, NAMES

SIDE = 128
"""Width and height of a video in pixels."""

_COLOURS = {
    "red": (225, 40, 40), "orange": (255, 140, 20), "yellow": (250, 230, 50), "green": (50, 190, 60),
    "cyan": (60, 220, 230), "blue": (50, 80, 230), "purple": (160, 60, 200), "white": (245, 245, 245),
}  # fmt: skip
_CENTRES = {
    "in the middle": (0.5, 0.5), "at the top": (0.5, 0.24), "at the bottom": (0.5, 0.76),
    "on the left": (0.24, 0.5), "on the right": (0.76, 0.5),
}  # fmt: skip
_DIRECTIONS = {"resting": (0, 0), "rising": (0, -1), "falling": (0, 1), "moving left": (-1, 0), "moving right": (1, 0)}
_RADII = {"small": 0.11, "large": 0.19}

Point = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """How pictures look: contrast about middle grey, factors of red, green and blue, radius of the blur in pixels, and the number of grey
    blobs in the background."""

    contrast: float = 1.0
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blur: float = 0.3
    clutter: int = 0

    def apply(self, image: Image.Image) -> Image.Image:
        """The picture as it would be recorded."""
        blurred = image.filter(ImageFilter.BoxBlur(self.blur)) if self.blur else image
        levels = np.arange(256)[None, :]
        grey = 128 + self.contrast * (levels * np.array(self.cast)[:, None] - 128)
        return blurred.point(np.clip(np.rint(grey), 0, 255).astype(int).ravel().tolist())


FOOTAGE = Look(contrast=0.85, cast=(1.0, 0.96, 0.9), blur=0.5, clutter=1)
"""The look of the data set."""


def studio(rng: np.random.Generator) -> Look:
    """A look of the pictures that CLIP learns from."""
    cast = rng.uniform(0.95, 1, size=3)
    return Look(float(rng.uniform(0.92, 1.05)), (float(cast[0]), float(cast[1]), float(cast[2])), float(rng.uniform(0.2, 0.5)))


def _corners(shape: str) -> list[Point]:
    """The outline of a shape of radius 1 around the origin, y downwards."""
    if shape == "square":
        return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    if shape == "diamond":
        return [(0, -1.1), (0.75, 0), (0, 1.1), (-0.75, 0)]
    if shape == "triangle":
        return [(0, -1), (0.95, 0.75), (-0.95, 0.75)]
    if shape == "star":
        radii = (1.1, 0.45) * 5
        return [(r * sin(i * pi / 5), -r * cos(i * pi / 5)) for i, r in enumerate(radii)]
    if shape == "cross":
        w = 0.33
        return [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w)]
    if shape == "heart":
        # The usual parametric heart, scaled to the radius of the others.
        angles = [i * pi / 16 for i in range(32)]
        return [
            (sin(t) ** 3, -(13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)) / 16) for t in angles
        ]  # fmt: skip
    count = 36  # circle and ring
    return [(cos(2 * pi * i / count), sin(2 * pi * i / count)) for i in range(count)]


def _background(name: str, tone: float, phase: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A faint grey pattern [SIDE, SIDE, 3]. `tone` (0 to 1) sets its brightness, `phase` [2] (0 to 1) its position."""
    dark, light = 35 + 20 * tone, 75 + 30 * tone
    x, y = np.arange(SIDE)[None, :] / SIDE, np.arange(SIDE)[:, None] / SIDE
    u, v = 6 * x + phase[0], 6 * y + phase[1]
    mask: NDArray[np.float64]
    if name == "striped":
        mask = (v % 1 < 0.5).astype(float)
    elif name == "dotted":
        mask = ((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.07).astype(float)
    elif name == "checkered":
        mask = ((u % 1 < 0.5) ^ (v % 1 < 0.5)).astype(float)
    elif name == "gridded":
        mask = ((u % 1 < 0.16) | (v % 1 < 0.16)).astype(float)
    elif name == "shaded":
        mask = y
    else:
        mask = np.full((1, 1), 0.3)
    grey = (dark + (light - dark) * mask).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(grey[..., None], (SIDE, SIDE, 3)))


def _scatter(image: Image.Image, count: int, rng: np.random.Generator) -> None:
    """Draw grey blobs: darker than any object, and of no colour."""
    draw = ImageDraw.Draw(image)
    for _ in range(count):
        x, y = rng.uniform(0, SIDE, size=2)
        width, height = rng.uniform(0.06, 0.16, size=2) * SIDE
        draw.ellipse((x - width, y - height, x + width, y + height), fill=(int(rng.integers(60, 130)),) * 3)


def render_event(event_K: NDArray[np.int8], progress: list[float], rng: np.random.Generator, look: Look) -> list[Image.Image]:
    """RGB stills of one event, each SIDE x SIDE, at the given times (0 is its start, 1 its end).

    `rng` draws what no caption mentions: the exact position and size, the tone and phase of the background, and the clutter.
    """
    value = {name: ATTRIBUTES[name][event_K[k]] for k, name in enumerate(NAMES)}
    background = Image.fromarray(_background(value["background"], float(rng.random()), rng.random(2)))
    _scatter(background, look.clutter, rng)
    radius = _RADII[value["size"]] * SIDE * float(rng.uniform(0.93, 1.07))
    jitter = rng.uniform(-0.025, 0.025, size=2)
    direction = _DIRECTIONS[value["motion"]]
    colour = _COLOURS[value["colour"]]
    corners = _corners(value["shape"])
    stills = []
    for moment in progress:
        image = background.copy()
        draw = ImageDraw.Draw(image)
        centre = [(_CENTRES[value["place"]][axis] + jitter[axis] + direction[axis] * 0.12 * (moment - 0.5)) * SIDE for axis in (0, 1)]
        moving = value["motion"] != "resting"
        # The trail, faintest first: it shows the direction of motion in a single still.
        for step, strength in ((3, 0.2), (2, 0.35), (1, 0.55), (0, 1.0)) if moving else ((0, 1.0),):
            at = [centre[axis] - direction[axis] * step * 0.5 * radius for axis in (0, 1)]
            ink = tuple(round(strength * c + (1 - strength) * 60) for c in colour)
            points = [(at[0] + radius * x, at[1] + radius * y) for x, y in corners]
            if value["shape"] == "ring":
                draw.line([*points, *points[:2]], fill=ink, width=round(0.42 * radius), joint="curve")
            else:
                draw.polygon(points, fill=ink)
        stills.append(look.apply(image))
    return stills
