"""The eight scenes behind the avatars, drawn into a canvas in frame units."""

from collections.abc import Callable

import numpy as np

from .canvas import FRAME_HEIGHT, Canvas
from .shapes import Colour, disc, jitter, shade

WHITE: Colour = (250, 252, 255)


class _Painter:
    """A canvas with the few shapes that scenes are made of, and the random numbers that vary them."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator, horizon: float) -> None:
        self.canvas, self.rng, self.horizon = canvas, rng, horizon
        self.width = canvas.width

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def anywhere(self) -> float:
        """An x inside the frame."""
        return self.between(0, self.width)

    def vary(self, colour: Colour, spread: float = 8) -> Colour:
        return jitter(colour, self.rng, spread)

    def one_of(self, colours: tuple[Colour, ...], spread: float = 8) -> Colour:
        return self.vary(colours[int(self.rng.integers(len(colours)))], spread)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.canvas.polygon(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), colour)

    def band(self, top: float, bottom: float, colour: Colour) -> None:
        """A strip over the frame's whole width."""
        self.box(-1, top, self.width + 1, bottom, colour)

    def ground(self, colour: Colour) -> None:
        self.band(self.horizon, FRAME_HEIGHT + 1, colour)

    def windows(
        self,
        columns: np.ndarray,
        rows: np.ndarray,
        size: tuple[float, float],
        colour: Colour,
        lit: float = 1.0,
    ) -> None:
        """Boxes of one size with their upper left corners on a grid; each is there with probability `lit`."""
        corners = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 1, 2)
        corners = corners[self.rng.random(len(corners)) < lit]
        if len(corners):
            self.canvas.polygon(corners + np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * size, colour)

    def dots(self, centres: np.ndarray, radius: float, colour: Colour) -> None:
        """Small discs about points [N,2], as lines of no length: one operation."""
        self.canvas.line(np.stack([centres, centres], 1), colour, radius * 2)

    def ball(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.canvas.circle(np.array([x, y]), radius, colour)

    def stroke(self, points: list[tuple[float, float]], colour: Colour, width: float) -> None:
        self.canvas.line(np.array(points), colour, width)


def draw_scene(canvas: Canvas, name: str, rng: np.random.Generator) -> float:
    """Draws the scene and returns its horizon (y in frame units); a person's feet belong below it.

    Raises:
        ValueError: the scene is not one of SCENES.
    """
    if name not in _SCENES:
        raise ValueError(f"unknown scene {name!r}: choose one of {', '.join(SCENES)}")
    painter = _Painter(canvas, rng, horizon=float(rng.uniform(112, 150)))
    _SCENES[name](painter)
    return painter.horizon


def _studio(p: _Painter) -> None:
    paper = (
        (205, 215, 225),
        (225, 210, 200),
        (200, 225, 205),
        (215, 205, 230),
        (238, 238, 235),
        (120, 130, 150),
    )
    colour = p.one_of(paper)
    p.canvas.gradient(colour, shade(colour, 0.9))
    p.ground(shade(colour, 0.86))


def _clouds(p: _Painter) -> None:
    for _ in range(3):
        x, y = p.anywhere(), p.between(8, 42)
        for dx, dy, radius in ((0, 0, 6), (7, 1, 5), (-7, 1, 4)):
            p.ball(x + dx, y + dy, radius, WHITE)


def _park(p: _Painter) -> None:
    p.canvas.gradient(p.vary((150, 205, 245)), (215, 238, 250))
    _clouds(p)
    grass = p.vary((110, 180, 90))
    for _ in range(int(p.rng.integers(2, 5))):
        x, tall = p.anywhere(), p.between(14, 28)
        leaves = p.vary((60, 135, 65), 12)
        top = p.horizon - tall
        p.box(x - 2.5, top, x + 2.5, p.horizon + 2, (110, 80, 55))
        p.ball(x - 6, top - 3, 9, shade(leaves, 0.92))
        p.ball(x + 7, top - 2, 9, shade(leaves, 0.92))
        p.ball(x, top - 9, p.between(10, 15), leaves)
    p.ground(grass)
    for _ in range(10):
        x, y = p.anywhere(), p.between(p.horizon + 5, FRAME_HEIGHT)
        p.stroke([(x - 1.5, y - 2), (x, y), (x + 1.5, y - 2.4)], shade(grass, 0.86), 0.8)


def _street(p: _Painter) -> None:
    p.canvas.gradient(p.vary((185, 205, 225)), (230, 232, 235))
    facades = ((190, 140, 115), (175, 175, 185), (215, 195, 165), (150, 160, 175))
    left = -5.0
    while left < p.width:
        wide, top = p.between(18, 38), p.horizon - p.between(40, 100)
        facade = p.one_of(facades, 10)
        p.box(left, top, left + wide, p.horizon, facade)
        p.windows(
            np.arange(left + 4, left + wide - 6, 10),
            np.arange(top + 6, p.horizon - 9, 14),
            (5, 7),
            shade(facade, 0.72),
        )
        left += wide
    p.ground(p.vary((128, 130, 135), 5))
    p.band(p.horizon, p.horizon + 6, (200, 200, 196))


def _beach(p: _Painter) -> None:
    p.canvas.gradient(p.vary((120, 200, 245)), (205, 236, 250))
    p.ball(p.between(15, p.width - 15), p.between(14, 40), 9, (255, 235, 150))
    p.band(p.horizon - 24, p.horizon + 1, p.vary((50, 140, 195)))
    p.ground(p.vary((238, 218, 165)))
    p.stroke([(-1, p.horizon), (p.width + 1, p.horizon)], (235, 245, 250), 2.4)


def _room(p: _Painter) -> None:
    wall = p.one_of(((232, 222, 205), (205, 220, 222), (225, 205, 205), (215, 222, 200)))
    p.band(-1, p.horizon, wall)
    x, y = p.between(2, p.width - 38), p.between(8, 36)
    p.box(x, y, x + 32, y + 36, WHITE)
    p.box(x + 2.5, y + 2.5, x + 29.5, y + 33.5, p.vary((160, 205, 235)))
    p.stroke([(x + 16, y + 2), (x + 16, y + 34)], WHITE, 1.6)
    floor = p.vary((178, 132, 92))
    p.ground(floor)
    p.band(p.horizon - 3, p.horizon, shade(wall, 0.85))
    for row in np.arange(p.horizon + 8, FRAME_HEIGHT, 14):
        p.stroke([(-1, row), (p.width + 1, row)], shade(floor, 0.88), 1)


def _night_city(p: _Painter) -> None:
    p.canvas.gradient((18, 22, 58), (62, 52, 105))
    p.ball(p.between(15, p.width - 15), p.between(12, 40), 7, (240, 238, 205))
    p.dots(p.rng.random((14, 2)) * (p.width, 70), 0.7, (235, 235, 235))
    left = -5.0
    while left < p.width:
        wide, top = p.between(16, 32), p.horizon - p.between(40, 100)
        p.box(left, top, left + wide, p.horizon, p.vary((36, 38, 66), 5))
        columns, rows = np.arange(left + 3, left + wide - 5, 9), np.arange(top + 6, p.horizon - 8, 13)
        p.windows(columns, rows, (4, 5), (248, 212, 112), lit=0.5)
        left += wide
    p.ground((74, 74, 94))


def _snow(p: _Painter) -> None:
    p.canvas.gradient(p.vary((180, 200, 222)), (225, 232, 240))
    for _ in range(int(p.rng.integers(2, 5))):
        x, tall, needles = p.anywhere(), p.between(30, 55), p.vary((58, 105, 88))
        for tier in range(3):
            y, half = p.horizon + 1 - tier * tall * 0.28, tall * 0.34 * (1 - tier * 0.22)
            p.canvas.polygon(
                np.array([(x - half, y), (x, y - tall * 0.48), (x + half, y)]),
                shade(needles, 1 + tier * 0.05),
            )
    p.ground((240, 245, 250))
    p.dots(p.rng.random((18, 2)) * (p.width, FRAME_HEIGHT), 1.1, WHITE)


def _desert(p: _Painter) -> None:
    p.canvas.gradient(p.vary((245, 190, 120)), (250, 225, 180))
    for _ in range(2):
        x, half, tall, rock = p.anywhere(), p.between(30, 60), p.between(20, 45), p.vary((200, 120, 75))
        top = p.horizon - tall
        outline = [
            (x - half, p.horizon),
            (x - half * 0.4, top),
            (x + half * 0.35, top),
            (x + half, p.horizon),
        ]
        p.canvas.polygon(np.array(outline), rock)
    p.ground(p.vary((228, 178, 112)))
    x, green = p.between(5, p.width - 5), (70, 135, 75)
    p.stroke([(x, p.horizon + 4), (x, p.horizon - 20)], green, 5)
    p.stroke([(x, p.horizon - 6), (x + 8, p.horizon - 6), (x + 8, p.horizon - 15)], green, 3.4)


def draw_shadow(canvas: Canvas, centre: tuple[float, float], radius_x: float, radius_y: float) -> None:
    """The soft patch under a person."""
    canvas.shadow(disc(np.zeros(2), 1.0, 20) * (radius_x, radius_y) + centre)


_SCENES: dict[str, Callable[[_Painter], None]] = {
    "studio": _studio,
    "park": _park,
    "street": _street,
    "beach": _beach,
    "room": _room,
    "night city": _night_city,
    "snow": _snow,
    "desert": _desert,
}
SCENES = tuple(_SCENES)
