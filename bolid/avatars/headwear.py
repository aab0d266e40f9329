"""Hats, and the whole head in the order in which its pieces cover each other."""

import numpy as np

from .hair import draw_hair_behind, draw_hair_cover, draw_hair_front, style_of
from .head import Head, draw_ear, draw_face, draw_glasses, draw_skull, unit
from .person import Mark, Part
from .shapes import UNIT_CIRCLES, hull, shade

_CAP_AXIS, _BEANIE_AXIS, _CROWN_AXIS = unit(0, 1, -0.12), unit(0, 1, -0.3), unit(0, 1, -0.05)


def draw_head(head: Head) -> None:
    """Skull, hair, face, glasses and hat, from the farthest to the nearest."""
    person = head.person
    with person.canvas.tagged(part=Part.HEAD, attribute=Mark.SKIN):
        style = style_of(head)
        behind = head.facing < -0.1
        if behind:
            _draw_hat_behind(head)
        near, far = (1, -1) if head.turn[2, 0] > 0 else (-1, 1)
        draw_hair_behind(head, far)
        if style.ears:
            draw_ear(head, far)
        draw_skull(head)
        draw_hair_cover(head)
        if style.volume < 1.12 or head.facing > 0:
            draw_face(head, style.hairline)
        if style.ears:
            draw_ear(head, near)
            if abs(head.turn[2, 0]) < 0.25:  # both ears stand out at the sides
                draw_ear(head, far)
        draw_hair_front(head)
        draw_glasses(head)
        _draw_hat(head)


def _draw_hat_behind(head: Head) -> None:
    """The peak of a cap on a head turned away: hidden but for what sticks out."""
    if head.person.identity.hat == "cap":
        with head.person.canvas.tagged(attribute=Mark.HAT):
            _draw_peak(head)


def _draw_hat(head: Head) -> None:
    hat = head.person.identity.hat
    with head.person.canvas.tagged(attribute=Mark.HAT):
        if hat == "cap":
            _draw_cap(head)
        elif hat == "beanie":
            _draw_beanie(head)
        elif hat == "sun hat":
            _draw_sun_hat(head)


def _draw_dome(head: Head, axis: np.ndarray, cosine: float, reach: float, factor: float = 1.0) -> None:
    """The part of a hat that sits on the skull, in the hat's colour times a factor."""
    colour = head.person.identity.hat_rgb
    shape = head.cap(axis, cosine, reach)
    if shape is not None:
        head.person.canvas.polygon(shape, shade(colour, factor), shade(colour, 0.6))


def _draw_peak(head: Head) -> None:
    colour = head.person.identity.hat_rgb
    head.person.canvas.polygon(hull(head.points(_PEAK)), shade(colour, 0.85), shade(colour, 0.6))


def _draw_cap(head: Head) -> None:
    canvas, colour = head.person.canvas, head.person.identity.hat_rgb
    _draw_dome(head, _CAP_AXIS, 0.34, 1.13)
    button = unit(0, 1, -0.12) * 1.13
    if head.facing > -0.1:
        _draw_peak(head)
    else:  # from behind: the opening over the strap
        opening = head.points(_OPENING)
        canvas.polygon(
            opening,
            head.person.identity.skin_rgb
            if head.person.identity.hair == "bald"
            else head.person.identity.hair_rgb,
            shade(colour, 0.6),
            0.6,
        )
        canvas.line(head.points(_STRAP), shade(colour, 0.8), head.radius * 0.15)
    seam = _SEAM[_SEAM @ head.turn[2] > 0.0]
    if len(seam) > 1:
        canvas.line(head.points(seam), shade(colour, 0.78), head.radius * 0.06)
    if head.depth(button) > -0.3:
        canvas.circle(head.points(button[None])[0], head.radius * 0.11, shade(colour, 0.75))


def _draw_beanie(head: Head) -> None:
    colour = head.person.identity.hat_rgb
    bobble = head.points(np.array([[0, 1.25, -0.4]]))[0]
    light = (245, 245, 245) if sum(colour) < 640 else shade(colour, 0.7)
    head.person.canvas.circle(bobble, head.radius * 0.26, light, shade(colour, 0.6), 0.6)
    _draw_dome(head, _BEANIE_AXIS, 0.22, 1.15, 0.8)  # the fold
    _draw_dome(head, _BEANIE_AXIS, 0.46, 1.16)


def _draw_sun_hat(head: Head) -> None:
    """A wide brim, seen from above or from below, with a crown and its band."""
    canvas, colour = head.person.canvas, head.person.identity.hat_rgb
    line = shade(colour, 0.6)
    if head.turn[2, 1] < -0.05:  # from below: the crown, then the brim's front half before it
        _draw_dome(head, _CROWN_AXIS, 0.36, 1.14)
        front = _BRIM[_BRIM @ head.turn[2] > -0.15]
        canvas.polygon(hull(head.points(front)), shade(colour, 0.8), line)
        return
    canvas.polygon(hull(head.points(_BRIM)), colour, line)
    _draw_dome(head, _CROWN_AXIS, 0.36, 1.14, 0.5)  # its lowest strip stays as the band
    _draw_dome(head, _CROWN_AXIS, 0.5, 1.15, 1.05)


_TURN = np.linspace(-1.15, 1.15, 9)
_PEAK = np.concatenate(
    [
        np.stack([np.sin(_TURN) * 1.06, np.full(9, 0.42), np.cos(_TURN) * 1.04], 1),
        np.stack([np.sin(_TURN) * 0.98, np.full(9, 0.34), np.cos(_TURN) * 1.0 + 0.58], 1),
    ]
)
_OPENING = np.array(
    [unit(x, y, -1.0) * 1.13 for x, y in ((-0.42, 0.3), (-0.3, 0.5), (0.0, 0.6), (0.3, 0.5), (0.42, 0.3))]
)
_STRAP = np.array([unit(x, 0.29, -1.0) * 1.13 for x in (-0.45, -0.15, 0.15, 0.45)])
_SEAM = np.array([unit(0, np.cos(t), np.sin(t)) * 1.13 for t in np.linspace(-1.15, 1.1, 12)])
_BRIM = np.concatenate(
    [UNIT_CIRCLES[18][:, :1] * 1.8, np.full((18, 1), 0.36), UNIT_CIRCLES[18][:, 1:] * 1.8], 1
)
