"""Head and face, placed on a sphere in the head's own axes (left, up, forward; 1 = its radius)."""

import math

import numpy as np

from .person import Mark, Person
from .shapes import UNIT_CIRCLES, Colour, blend, disc, hull, shade

# The part of the sphere that is face: all within that cosine of this direction. The rest can carry hair.
FACE_DIRECTION = np.array([0.0, -0.5, 0.866])
LIPS: Colour = (196, 56, 78)
LENS_LINE: Colour = (25, 25, 30)


def unit(x: float, y: float, z: float) -> np.ndarray:
    """A direction from the head's centre as a unit vector [3]."""
    return np.array([x, y, z]) / math.sqrt(x * x + y * y + z * z)


def spot(
    direction: np.ndarray, half_width: float, half_height: float, count: int = 12, reach: float = 1.0
) -> np.ndarray:
    """Points [count,3] of an upright ellipse that touches the sphere at a direction [3]."""
    aside = unit(direction[2], 0.0, -direction[0])
    upward = np.cross(direction, aside)
    circle = UNIT_CIRCLES[count]
    return direction * reach + circle[:, :1] * half_width * aside + circle[:, 1:] * half_height * upward


class Head:
    """The head's sphere as the camera sees it."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.turn = person.camera.turn @ person.frames["head"]  # [3,3] head axes -> camera axes
        self.centre = person.at["head"]
        self.radius = person.skeleton.head_radius * person.unit
        self.facing = float(self.turn[2, 2])  # 1 seen from the front, -1 from behind
        self.jaw_radius = 0.64 if person.woman else 0.76
        self.jaw = self.points(np.array([[0.0, -0.46 if person.woman else -0.42, 0.2]]))[0]

    def points(self, local: np.ndarray) -> np.ndarray:
        """Head coordinates [N,3] -> frame units [N,2]."""
        seen = local @ self.turn[:2].T
        return self.centre + seen * (self.radius, -self.radius)

    def depth(self, local: np.ndarray) -> float:
        """How far a point or direction [3] reaches towards the viewer, in head radii."""
        return float(self.turn[2] @ local)

    def cap(self, direction: np.ndarray, cosine: float, reach: float = 1.0) -> np.ndarray | None:
        """The hull [N,2] of the seen part of a spherical cap about a unit direction; None if nothing is."""
        aside = unit(direction[2] + 1e-3, 0.0, -direction[0])
        turn = UNIT_CIRCLES[28]
        rim = turn[:, :1] * aside + turn[:, 1:] * np.cross(direction, aside)
        rim = direction * cosine + rim * math.sqrt(1 - cosine * cosine)
        outline = np.concatenate([turn, np.zeros((28, 1))], 1) @ self.turn  # the silhouette, in head axes
        seen = np.concatenate([rim[rim @ self.turn[2] > -0.03], outline[outline @ direction > cosine]])
        return hull(self.points(seen * reach)) if len(seen) > 2 else None


def draw_skull(head: Head) -> None:
    """The bare head: skull and jaw in the skin's colour."""
    person, canvas = head.person, head.person.canvas
    skin, line = person.identity.skin_rgb, person.skin_line
    with canvas.merged():
        canvas.circle(head.centre, head.radius, skin, line)
        chin = np.concatenate(
            [disc(head.jaw, head.jaw_radius * head.radius, 18), disc(head.centre, head.radius * 0.93, 18)]
        )
        canvas.polygon(hull(chin), skin, line)


def draw_ear(head: Head, side: int) -> None:
    """side: 1 the person's left, -1 the right."""
    person = head.person
    place = head.points(np.array([[side * 1.0, -0.1, -0.02]]))[0]
    person.canvas.circle(place, head.radius * 0.2, person.identity.skin_rgb, person.skin_line, 0.7)
    person.canvas.circle(place, head.radius * 0.1, shade(person.identity.skin_rgb, 0.85))


def draw_face(head: Head, hairline: float) -> None:
    """The skin of the face over the hair, then beard, eyes, nose and mouth. hairline: cosine of its rim."""
    person, canvas = head.person, head.person.canvas
    skin = person.identity.skin_rgb
    shape = head.cap(FACE_DIRECTION, hairline)
    if shape is not None:
        with canvas.tagged(attribute=Mark.FACE if head.facing > -0.1 else Mark.SKIN):
            canvas.polygon(shape, skin)
    if head.facing > -0.2:
        with canvas.tagged(attribute=Mark.FACE):
            canvas.circle(head.jaw, head.jaw_radius * head.radius, skin)
        if person.identity.beard == "beard":
            _draw_beard(head)
        _draw_cheeks(head)
        with canvas.tagged(attribute=Mark.FACE):
            _draw_nose(head)
            _draw_mouth(head)
            for side in (-1, 1):
                _draw_eye(head, side)


def _draw_beard(head: Head) -> None:
    """Hair round the jaw up to the ears, the middle of the face left free, and a moustache."""
    person, canvas = head.person, head.person.canvas
    hair = person.identity.hair_rgb
    with canvas.tagged(attribute=Mark.BEARD):
        burns = np.array(
            [[s * 0.97, y, z] for s in (-1, 1) for y, z in ((-0.05, 0.1), (-0.2, 0.5), (-0.4, 0.1))]
        )
        burns = burns[burns @ head.turn[2] > -0.15]
        chin = disc(head.jaw, head.jaw_radius * head.radius * 1.06, 18)
        canvas.polygon(hull(np.concatenate([head.points(burns), chin])), hair, shade(hair, 0.62), 0.5)
    centre = head.cap(unit(0, 0.05, 1), 0.63)
    if centre is not None:
        with canvas.tagged(attribute=Mark.FACE):
            canvas.polygon(centre, person.identity.skin_rgb)
    if head.facing > 0.1:
        with canvas.tagged(attribute=Mark.BEARD):
            canvas.line(head.points(_MOUSTACHE), hair, head.radius * 0.16)


def _draw_cheeks(head: Head) -> None:
    skin = head.person.identity.skin_rgb
    if head.person.identity.beard == "beard":
        return
    colour = blend(skin, (235, 105, 105), 0.42 if head.person.woman else 0.18)
    for side in (-1, 1):
        if head.depth(_CHEEK * (side, 1, 1)) > 0.15:
            head.person.canvas.polygon(head.points(_CHEEK_SPOT * (side, 1, 1)), colour)


def _draw_nose(head: Head) -> None:
    person = head.person
    skin = person.identity.skin_rgb
    if head.facing < 0.05:
        return
    in_profile = head.facing < 0.75
    outline = person.skin_line if in_profile else None
    shape = hull(head.points(_NOSE))
    person.canvas.polygon(shape, shade(skin, 0.88), outline, 0.5)
    if in_profile:  # only the tip keeps its outline
        person.canvas.polygon(hull(head.points(_NOSE_ROOT)), skin)


def _draw_mouth(head: Head) -> None:
    identity, canvas = head.person.identity, head.person.canvas
    if head.depth(unit(0, -0.5, 0.86)) < 0.2:
        return
    if head.person.woman:
        canvas.polygon(head.points(_LIPS), LIPS, shade(LIPS, 0.75), 0.25)
    else:
        colour = (225, 150, 140) if identity.beard == "beard" else shade(identity.skin_rgb, 0.5)
        canvas.line(head.points(_SMILE), colour, head.radius * 0.11)


def _draw_eye(head: Head, side: int) -> None:
    """White, iris, pupil's glint and brow; for women a dark upper lid with lashes."""
    person, canvas = head.person, head.person.canvas
    mirror = np.array([side, 1, 1])
    if head.depth(_EYE * mirror) < 0.14:
        return
    big = 1 if person.woman else 0
    canvas.polygon(
        head.points(_EYE_WHITE[big] * mirror), (255, 255, 255), shade(person.identity.skin_rgb, 0.55), 0.3
    )
    iris = head.points(_IRIS[big] * mirror)
    canvas.polygon(iris, person.identity.eye_rgb)
    canvas.circle(iris.mean(0), head.radius * 0.06, (15, 12, 14))
    canvas.circle(iris.mean(0) + head.radius * np.array([-0.05, -0.06]), head.radius * 0.04, (255, 255, 255))
    if person.woman:
        canvas.line(head.points(_LID * mirror), (28, 20, 24), head.radius * 0.1)
    brow = (80, 60, 50) if person.identity.hair == "bald" else shade(person.identity.hair_rgb, 0.7)
    canvas.line(head.points(_BROW[big] * mirror), brow, head.radius * (0.08 if person.woman else 0.14))


def draw_glasses(head: Head) -> None:
    """Frames or dark lenses, with the bridge and what is seen of the temples."""
    canvas, kind = head.person.canvas, head.person.identity.glasses
    if kind == "none" or head.facing < -0.3:
        return
    centres = []
    with canvas.tagged(attribute=Mark.GLASSES):
        for side in (-1, 1):
            mirror = np.array([side, 1, 1])
            if head.depth(_EYE * mirror) > 0.06:
                lens = head.points(_LENS * mirror)
                centres.append(lens.mean(0))
                if kind == "sunglasses":
                    canvas.polygon(lens, (28, 28, 32), LENS_LINE, 0.4)
                    canvas.line(head.points(_GLINT * mirror), (96, 96, 106), head.radius * 0.07)
                else:
                    canvas.line(np.concatenate([lens, lens[:1]]), LENS_LINE, head.radius * 0.1)
            if head.depth(np.array([side * 1.0, 0.1, 0.05])) > -0.15:
                canvas.line(head.points(_TEMPLE * mirror), LENS_LINE, head.radius * 0.09)
        if len(centres) == 2:
            canvas.line(head.points(_BRIDGE), LENS_LINE, head.radius * 0.1)


_EYE = unit(0.37, 0.06, 0.93)
_EYE_WHITE = (spot(_EYE, 0.18, 0.16), spot(_EYE, 0.19, 0.21))  # men's, women's
_IRIS = (spot(_EYE, 0.11, 0.125), spot(_EYE, 0.125, 0.15))
_LID = np.array(
    [unit(0.17, 0.17, 0.95), unit(0.34, 0.29, 0.9), unit(0.52, 0.21, 0.84), unit(0.66, 0.25, 0.72)]
)
_BROW = (
    np.array([unit(0.17, 0.31, 0.93), unit(0.56, 0.33, 0.77)]),
    np.array([unit(0.2, 0.43, 0.9), unit(0.38, 0.5, 0.8), unit(0.58, 0.42, 0.72)]),
)
_LENS = spot(_EYE, 0.3, 0.29, 14, 1.03)
_GLINT = np.array([unit(0.28, 0.2, 0.95), unit(0.4, 0.22, 0.9)]) * 1.03
_TEMPLE = np.array([[0.62, 0.1, 0.8], [1.02, 0.05, 0.05]])
_BRIDGE = np.array([[-0.1, 0.1, 1.02], [0.1, 0.1, 1.02]])
_CHEEK = unit(0.55, -0.3, 0.78)
_CHEEK_SPOT = spot(_CHEEK, 0.15, 0.11)
_NOSE_ROOT = np.array(
    [[0.0, 0.02, 1.0], [-0.1, -0.26, 0.97], [0.1, -0.26, 0.97], [0.0, -0.3, 0.98], [0, -0.05, 0.9]]
)
_NOSE = np.concatenate([_NOSE_ROOT[:4], [[0.0, -0.2, 1.16], [0.0, -0.12, 1.13]]])
_SMILE = np.array(
    [unit(-0.25, -0.46, 0.86), unit(-0.1, -0.54, 0.86), unit(0.1, -0.54, 0.86), unit(0.25, -0.46, 0.86)]
)
_MOUSTACHE = np.array(
    [unit(-0.3, -0.43, 0.86), unit(-0.1, -0.36, 0.92), unit(0.1, -0.36, 0.92), unit(0.3, -0.43, 0.86)]
)
_LIPS = np.array(
    [
        unit(*p)
        for p in (
            (-0.23, -0.46, 0.86),
            (-0.08, -0.42, 0.88),
            (0.0, -0.45, 0.88),
            (0.08, -0.42, 0.88),
            (0.23, -0.46, 0.86),
            (0.1, -0.57, 0.84),
            (-0.1, -0.57, 0.84),
        )
    ]
)
