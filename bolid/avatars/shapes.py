"""Outlines of simple shapes as float32 point lists, and arithmetic on colours."""

import math

import cv2
import numpy as np

Colour = tuple[int, int, int]  # (red, green, blue), 0-255

_TURN = {n: np.arange(n) * (2 * math.pi / n) for n in (10, 12, 14, 18, 20, 28)}
UNIT_CIRCLES = {n: np.stack([np.cos(t), np.sin(t)], 1) for n, t in _TURN.items()}  # each [n,2]


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker (factor < 1) or lighter (factor > 1)."""
    return tuple(min(255, max(0, int(channel * factor))) for channel in colour)  # type: ignore[return-value]


def blend(first: Colour, second: Colour, amount: float) -> Colour:
    """The mixture of two colours: amount 0 gives the first, 1 the second."""
    return tuple(int(a * (1 - amount) + b * amount) for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def jitter(colour: tuple[int, int, int], rng: np.random.Generator, spread: float = 8) -> Colour:
    """The colour with Gaussian noise of that standard deviation (0-255 levels) on each channel."""
    noise = rng.normal(0, spread, 3)
    return tuple(min(255, max(0, int(c + n))) for c, n in zip(colour, noise, strict=True))  # type: ignore[return-value]


def hull(points: np.ndarray) -> np.ndarray:
    """The convex hull [M,2] of points [N,2]."""
    return cv2.convexHull(np.asarray(points, np.float32))[:, 0]


def disc(centre: np.ndarray, radius: float, count: int = 14) -> np.ndarray:
    """`count` points [count,2] on a circle; count is one of the keys of UNIT_CIRCLES."""
    return UNIT_CIRCLES[count] * radius + centre


def ellipse(centre: tuple[float, float], radius_x: float, radius_y: float) -> np.ndarray:
    """20 points [20,2] on an upright ellipse."""
    return UNIT_CIRCLES[20] * (radius_x, radius_y) + centre


def capsule(start: np.ndarray, end: np.ndarray, start_radius: float, end_radius: float) -> np.ndarray:
    """The hull [M,2] of two discs: a tapered limb with round ends."""
    return hull(np.concatenate([disc(start, start_radius), disc(end, end_radius)]))


def across(direction: np.ndarray) -> np.ndarray:
    """The unit vector [2] at right angles to a direction [2] (zero for a zero direction)."""
    return np.array([-direction[1], direction[0]]) / (math.hypot(direction[0], direction[1]) + 1e-6)
