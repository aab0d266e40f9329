"""Hair styles: the cover of the skull, what hangs behind, and what falls before the shoulders."""

from dataclasses import dataclass

import numpy as np

from .head import FACE_DIRECTION, Head, unit
from .person import Mark
from .shapes import disc, hull, shade


@dataclass(frozen=True)
class Style:
    """How a hair style covers the head."""

    hairline: float  # cosine about FACE_DIRECTION where hair begins; larger = lower on the forehead
    volume: float  # radius of the hair over the skull's
    ears: bool  # whether the ears show


STYLES = {
    "short hair": Style(0.3, 1.07, True),
    "spiky hair": Style(0.3, 1.07, True),
    "a ponytail": Style(0.2, 1.05, True),
    "a hair bun": Style(0.2, 1.05, True),
    "an afro": Style(0.36, 1.13, False),
    "bob hair": Style(0.44, 1.11, False),
    "long hair": Style(0.4, 1.1, False),
}
_BALD = Style(0.05, 1.0, True)
_SPIKES = np.linspace(-1.2, 1.2, 7)
_AFRO_BUMPS = 10
LOCK_LENGTHS = {"bob hair": 0.02, "long hair": 0.3}  # of the hair before the shoulders, body units


def style_of(head: Head) -> Style:
    """The style of the person's hair."""
    return STYLES.get(head.person.identity.hair, _BALD)


def hanging_hair(head: Head) -> np.ndarray | None:
    """The shape [N,2] of what hangs down the back, None for styles without."""
    person = head.person
    name = person.identity.hair
    down = person.frames["torso"] @ np.array([0, -1, -0.14])
    if name == "a ponytail":
        knot = head.points(np.array([[0, 0.4, -1.05]]))[0]
        tip = (
            person.joints["head"]
            + person.frames["head"] @ np.array([0, 0, -1.3]) * person.skeleton.head_radius
        )
        tip = person.camera.project((tip + down * 0.3)[None])[0]
        middle = (knot + tip) / 2
        discs = [
            disc(point, head.radius * size) for point, size in ((knot, 0.26), (middle, 0.36), (tip, 0.13))
        ]
        return hull(np.concatenate(discs))
    if name not in ("long hair", "bob hair"):
        return None
    length, spread = (0.33, 1.0) if name == "long hair" else (0.06, 1.12)
    root = head.points(_DRAPE_ROOTS)
    ends = (
        person.joints["head"]
        + (_DRAPE_ENDS * (spread, 1, 1)) @ person.frames["head"].T * person.skeleton.head_radius
    )
    ends = person.camera.project(ends + down * length)
    return hull(np.concatenate([root, *(disc(end, head.radius * 0.46) for end in ends)]))


def draw_hanging_hair(head: Head, shape: np.ndarray) -> None:
    """Draws `hanging_hair`'s shape."""
    hair = head.person.identity.hair_rgb
    with head.person.canvas.tagged(attribute=Mark.HAIR):
        head.person.canvas.polygon(shape, shade(hair, 0.93), shade(hair, 0.62))
        if head.person.identity.hair == "a ponytail":
            knot = head.points(np.array([[0, 0.4, -1.05]]))[0]
            head.person.canvas.circle(knot, head.radius * 0.14, shade(hair, 0.6))


def draw_hair_behind(head: Head, far: int) -> None:
    """What is drawn before the skull: afro, bun, spikes, and the lock on the far side (1 left, -1 right)."""
    person, canvas = head.person, head.person.canvas
    name, hair = person.identity.hair, person.identity.hair_rgb
    line, bare = shade(hair, 0.62), person.identity.hat == "none"
    with canvas.tagged(attribute=Mark.HAIR):
        if name in LOCK_LENGTHS and head.facing > 0:
            _draw_lock(head, far)
        if name == "an afro":
            _draw_afro(head, 1.0 if bare else 0.86)
        elif name == "a hair bun" and bare:
            canvas.circle(head.points(np.array([[0, 1.05, -0.5]]))[0], head.radius * 0.44, hair, line)
        elif name == "spiky hair" and bare:
            tips = np.stack([np.sin(_SPIKES) * 1.45, np.cos(_SPIKES) * 1.45, np.full(7, -0.12)], 1)
            feet = [
                np.stack([np.sin(_SPIKES + turn), np.cos(_SPIKES + turn), np.full(7, -0.1)], 1)
                for turn in (-0.24, 0.24)
            ]
            corners = head.points(np.concatenate([tips, *feet])).reshape(3, 7, 2).transpose(1, 0, 2)
            with canvas.merged():
                canvas.polygon(corners, hair, line, 0.7)


def _draw_afro(head: Head, size: float) -> None:
    canvas, hair = head.person.canvas, head.person.identity.hair_rgb
    up = head.points(np.array([[0, 0.2, -0.1]]))[0]
    turn = np.arange(_AFRO_BUMPS) * 2 * np.pi / _AFRO_BUMPS
    bumps = up + np.stack([np.cos(turn), np.sin(turn)], 1) * head.radius * 1.12 * size
    with canvas.merged():
        canvas.circle(up, head.radius * 1.3 * size, hair, shade(hair, 0.62))
        for bump in bumps:
            canvas.circle(bump, head.radius * 0.46 * size, hair, shade(hair, 0.62))


def draw_hair_cover(head: Head) -> None:
    """The hair on the skull; the face is drawn over it afterwards."""
    style, identity = style_of(head), head.person.identity
    shape = head.cap(-FACE_DIRECTION, -style.hairline, style.volume)
    if shape is None or identity.hair == "bald":
        return
    with head.person.canvas.tagged(attribute=Mark.HAIR):
        afro = identity.hair == "an afro"
        head.person.canvas.polygon(shape, identity.hair_rgb, None if afro else shade(identity.hair_rgb, 0.62))
        if afro and head.facing < 0:
            _draw_afro(head, 1.0 if identity.hat == "none" else 0.86)


def draw_hair_front(head: Head) -> None:
    """What falls over the face's edge: a fringe for a bob, locks before the shoulders for long hair."""
    person, canvas = head.person, head.person.canvas
    hair, name = person.identity.hair_rgb, person.identity.hair
    with canvas.tagged(attribute=Mark.HAIR):
        if name == "bob hair" and head.facing > -0.1 and person.identity.hat == "none":
            fringe = _FRINGE[_FRINGE @ head.turn[2] > -0.1]
            canvas.polygon(hull(head.points(fringe * 1.04)), hair)
        if name in LOCK_LENGTHS and head.facing > -0.25:
            for side in (-1, 1):
                if head.depth(np.array([side, 0.0, 0.0])) > -0.4:
                    _draw_lock(head, side)


def _draw_lock(head: Head, side: int) -> None:
    """The hair at one side of the face, from the parting to before the shoulder, back to behind the ear."""
    person, hair = head.person, head.person.identity.hair_rgb
    radius, length = person.skeleton.head_radius, LOCK_LENGTHS[person.identity.hair]
    edge = head.points(_LOCK * (side, 1, 1))
    end = person.joints["head"] + person.frames["head"] @ np.array([side * 1.0, -0.75, 0.0]) * radius
    end = end + person.frames["torso"] @ np.array([0.0, -1.0, 0.1]) * length
    tip = disc(person.camera.project(end[None])[0], head.radius * 0.2)
    shape = hull(np.concatenate([edge, disc(edge[1], head.radius * 0.14), tip]))
    person.canvas.polygon(shape, hair, shade(hair, 0.62), 0.7)


_DRAPE_ROOTS = np.array([[x, y, z] for x in (-0.85, 0, 0.85) for y in (0.2, -0.3) for z in (-0.75, -0.3)])
_DRAPE_ENDS = np.array([[x, -0.5, -0.6] for x in (-0.66, 0.66)])
_LOCK = np.array([[0.68, 0.7, 0.4], [0.97, -0.1, 0.22], [1.02, 0.2, -0.35], [1.0, -0.6, -0.3]])
_FRINGE = np.array(
    [unit(x, y, 1.0 - abs(x) * 0.55) for x in (-0.85, -0.45, 0.0, 0.45, 0.85) for y in (0.5, 1.15)]
)
