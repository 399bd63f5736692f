"""The generated training data of the built-in image model, and the reading of prompts into its vocabulary.

A picture is one coloured shape on a plain background, 64x64. A caption is six slots, each one word of a fixed
vocabulary or unspecified (index 0): size, colour, shape, horizontal place, vertical place, background colour.
"""

import math
import random
import re
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIZE = 64
COLOURS = {
    "red": (220, 30, 35),
    "green": (30, 160, 60),
    "blue": (35, 70, 220),
    "yellow": (250, 220, 30),
    "orange": (250, 135, 20),
    "purple": (125, 40, 165),
    "white": (255, 255, 255),
    "black": (12, 12, 12),
    "pink": (255, 150, 195),
    "cyan": (30, 215, 230),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = ("small", "large")
HORIZONTAL = ("left", "center", "right")
VERTICAL = ("top", "center", "bottom")
SLOTS: tuple[tuple[str, ...], ...] = (SIZES, tuple(COLOURS), SHAPES, HORIZONTAL, VERTICAL, tuple(COLOURS))
UNSPECIFIED = 0

_SYNONYMS = {
    "big": "large",
    "huge": "large",
    "little": "small",
    "tiny": "small",
    "disc": "circle",
    "dot": "circle",
    "ball": "circle",
    "box": "square",
    "plus": "cross",
    "donut": "ring",
    "violet": "purple",
    "centre": "center",
    "middle": "center",
    "upper": "top",
    "lower": "bottom",
}
_SUPERSAMPLING = 4


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture to draw: a word of the vocabulary for each slot."""

    size: str
    colour: str
    shape: str
    horizontal: str
    vertical: str
    background: str

    def slots(self) -> list[int]:
        """The slot indices, one per entry of `SLOTS`."""
        words = (self.size, self.colour, self.shape, self.horizontal, self.vertical, self.background)
        return [1 + SLOTS[slot].index(word) for slot, word in enumerate(words)]


def slots_of(prompt: str) -> list[int]:
    """Reads a prompt into slot indices; words outside the vocabulary are ignored.

    A colour is the background's when "background" follows it, or when it is the second one named; the first word
    of a kind wins. A prompt that names a shape or colour without a place means the center.
    """
    words = [_SYNONYMS.get(word, word) for word in re.findall(r"[a-z]+", prompt.lower())]
    found: dict[int, str] = {}
    for position, word in enumerate(words):
        if word in COLOURS:
            named = words[position + 1 : position + 2] == ["background"]
            found.setdefault(5 if named or 1 in found else 1, word)
        for slot in (0, 2, 3, 4):
            if word in SLOTS[slot] and word != "center":
                found.setdefault(slot, word)
    if found or "center" in words:
        found.setdefault(3, "center")
        found.setdefault(4, "center")
    return [1 + SLOTS[slot].index(found[slot]) if slot in found else UNSPECIFIED for slot in range(len(SLOTS))]


def random_scene(rng: random.Random) -> Scene:
    """A scene with every word equally likely, the shape's colour never the background's."""
    colour, background = rng.sample(list(COLOURS), 2)
    places = (rng.choice(HORIZONTAL), rng.choice(VERTICAL))
    return Scene(rng.choice(SIZES), colour, rng.choice(SHAPES), *places, background)


def draw(scene: Scene, rng: random.Random) -> Image.Image:
    """Draws the scene, anti-aliased, 64x64 RGB, with a little jitter in place and radius."""
    scale = _SUPERSAMPLING
    large = scene.size == "large"
    radius = (rng.uniform(18, 21) if large else rng.uniform(9, 11)) * scale
    reach = (9 if large else 17) * scale
    x = SIZE * scale / 2 + (HORIZONTAL.index(scene.horizontal) - 1) * reach + rng.uniform(-1, 1) * scale
    y = SIZE * scale / 2 + (VERTICAL.index(scene.vertical) - 1) * reach + rng.uniform(-1, 1) * scale
    image = Image.new("RGB", (SIZE * scale, SIZE * scale), COLOURS[scene.background])
    _draw_shape(ImageDraw.Draw(image), scene.shape, (x, y), radius, COLOURS[scene.colour])
    return image.reduce(scale)


def _draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, at: tuple[float, float], radius: float, fill: tuple[int, int, int]
) -> None:
    x, y = at
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif shape == "ring":
        width = round(radius * 0.38)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=fill, width=width)
    elif shape == "square":
        half = radius * 0.88
        pen.rectangle((x - half, y - half, x + half, y + half), fill=fill)
    elif shape == "cross":
        arm = radius * 0.32
        pen.rectangle((x - radius, y - arm, x + radius, y + arm), fill=fill)
        pen.rectangle((x - arm, y - radius, x + arm, y + radius), fill=fill)
    else:
        points = 3 if shape == "triangle" else 10
        radii = [radius * 1.1] if shape == "triangle" else [radius * 1.1, radius * 0.48]
        corners = []
        for corner in range(points):
            angle = 2 * math.pi * corner / points - math.pi / 2
            length = radii[corner % len(radii)]
            corners.append((x + length * math.cos(angle), y + length * math.sin(angle)))
        pen.polygon(corners, fill=fill)
