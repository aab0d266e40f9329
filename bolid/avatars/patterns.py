"""What is printed on tops and dresses: stripes, dots, plaid and logos."""

import math

import numpy as np

from .person import Mark, Person
from .shapes import UNIT_CIRCLES, across
from .torso import Torso

_PATTERN_STEP = 0.062  # body units from stripe to stripe


def draw_pattern(
    person: Person, shape: np.ndarray, start: np.ndarray, end: np.ndarray, half_width: float
) -> None:
    """Stripes, dots or plaid on a piece of cloth [N,2] that runs from start [2] to end [2]; frame units."""
    identity, canvas = person.identity, person.canvas
    if identity.pattern in ("plain", "logo"):
        return
    along = end - start
    length = math.hypot(along[0], along[1]) + 1e-3
    along = along / length
    aside, step = across(along), _PATTERN_STEP * person.unit
    with canvas.tagged(attribute=Mark.PATTERN), canvas.clip(shape):
        if identity.pattern == "dotted":
            _draw_dots(person, start, along, aside, int(length / step) + 3, int(half_width / step) + 1, step)
            return
        rows = start + along * (np.arange(-2, int(length / step) + 4)[:, None] * step + step * 0.4)
        width = step * (0.46 if identity.pattern == "striped" else 0.26)
        canvas.line(
            np.stack([rows - aside * half_width, rows + aside * half_width], 1), identity.pattern_rgb, width
        )
        if identity.pattern == "plaid":
            columns = start + aside * (np.arange(-4, 5)[:, None] * step)
            ends = np.stack([columns - along * step * 3, columns + along * (length + step * 3)], 1)
            canvas.line(ends, identity.pattern_rgb, width)


def _draw_dots(
    person: Person, start: np.ndarray, along: np.ndarray, aside: np.ndarray, rows: int, half: int, step: float
) -> None:
    row, column = np.meshgrid(np.arange(-1, rows), np.arange(-half, half + 1), indexing="ij")
    shift = column + 0.5 * (row % 2)
    centres = start + (along * row[..., None] + aside * shift[..., None]).reshape(-1, 2) * step
    # A line of no length is a dot, and all dots are one operation.
    person.canvas.line(np.stack([centres, centres], 1), person.identity.pattern_rgb, step * 0.54)


def _logo_outline(name: str) -> np.ndarray:
    """Points [N,2] of a logo in a square from -1 to 1, y up."""
    if name == "star":
        turn = np.arange(10) * math.pi / 5
        return np.stack([np.sin(turn), np.cos(turn)], 1) * np.where(np.arange(10) % 2, 0.42, 1.0)[:, None]
    if name == "heart":
        t = np.arange(16) * math.pi / 8
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        return np.stack([16 * np.sin(t) ** 3, y], 1) / 17
    if name == "circle":
        return UNIT_CIRCLES[14] * 0.85
    return np.array([(0, 1.05), (0.75, 0), (0, -1.05), (-0.75, 0)])


_LOGOS = {name: _logo_outline(name) for name in ("star", "heart", "circle", "diamond")}


def draw_logo(person: Person, torso: Torso) -> None:
    """The logo on the chest."""
    outline = _LOGOS[person.identity.logo] * 0.078
    height = -0.15 if person.identity.top == "hoodie" else -0.12
    offsets = np.concatenate([outline + np.array([0.0, height]), np.full((len(outline), 1), torso.front)], 1)
    with person.canvas.tagged(attribute=Mark.PATTERN):
        person.canvas.polygon(torso.chest_points(person, offsets), person.identity.pattern_rgb)
