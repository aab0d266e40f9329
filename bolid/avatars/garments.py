"""Upper garments: their cut, colours and details."""

import numpy as np

from .identity import AvatarIdentity
from .patterns import draw_logo, draw_pattern
from .person import Mark, Part, Person
from .shapes import Colour, hull, shade
from .torso import Torso

_SLEEVES = {
    "t-shirt": "short",
    "sweater": "long",
    "tank top": "none",
    "hoodie": "long",
    "jacket": "long",
    "dress": "short",
}


def sleeve_length(identity: AvatarIdentity) -> str:
    """none, short or long."""
    return _SLEEVES[identity.top]


def top_colours(identity: AvatarIdentity) -> tuple[Colour, Colour]:
    """(cloth, outline) of the top."""
    return identity.top_rgb, shade(identity.top_rgb, 0.6)


def draw_top(person: Person, torso: Torso) -> None:
    """The garment on the torso with its pattern and details."""
    identity, canvas = person.identity, person.canvas
    cloth, line = top_colours(identity)
    with canvas.tagged(part=Part.UPPER, attribute=Mark.TOP):
        with canvas.merged():
            canvas.polygon(torso.upper, cloth, line)
            canvas.polygon(torso.lower, cloth, line)
        draw_pattern(
            person, torso.upper, person.at["neck"], torso.waist_at, person.shoulder * person.unit * 1.3
        )
        hem_at = torso.hem.mean(0)
        draw_pattern(person, torso.lower, torso.waist_at, hem_at, person.shoulder * person.unit * 1.3)
        if torso.facing > 0.15:
            _draw_front(person, torso)
        else:
            _draw_back(person, torso)


def _draw_front(person: Person, torso: Torso) -> None:
    identity, canvas = person.identity, person.canvas
    line = shade(identity.top_rgb, 0.6)
    if identity.top == "jacket":
        _draw_open_jacket(person, torso)
    elif identity.top == "hoodie":
        _draw_hoodie_front(person, torso)
    else:
        radius = 0.085 if identity.top == "tank top" else 0.05
        collar = torso.chest_points(person, [[0, 0.055, 0.06]])[0]
        with canvas.clip(torso.upper), canvas.tagged(attribute=Mark.SKIN):
            canvas.circle(collar, radius * person.unit, identity.skin_rgb, line)
    if identity.top == "sweater":
        canvas.line(_level(torso.hem, 0.25), line, 0.9)
    if identity.pattern == "logo":
        draw_logo(person, torso)


def _draw_back(person: Person, torso: Torso) -> None:
    identity, canvas = person.identity, person.canvas
    line = shade(identity.top_rgb, 0.6)
    if identity.top == "hoodie" and torso.facing < 0.1:
        hood = torso.chest_points(person, [[0, 0.0, -0.08]])[0]
        canvas.circle(hood, 0.085 * person.unit, shade(identity.top_rgb, 0.84), line)
    elif identity.top == "jacket" and torso.facing < -0.2:
        seam = torso.chest_points(person, [[-0.12, -0.1, -0.085], [0.12, -0.1, -0.085]])
        canvas.line(seam, line, 0.9)


def _level(ring: np.ndarray, share: float) -> np.ndarray:
    """A line across a cross-section [10,2] from its one side to the other, slightly bowed by `share`."""
    left, right, front = ring[0], ring[5], ring[2:4].mean(0)
    middle = (left + right) / 2
    return np.stack([left, middle + (front - middle) * share, right])


def _draw_open_jacket(person: Person, torso: Torso) -> None:
    identity, canvas = person.identity, person.canvas
    line = shade(identity.top_rgb, 0.6)
    upper = torso.chest_points(person, [[-0.05, 0.1, 0.08], [0.05, 0.1, 0.08]])
    lower = person.local("root", person.joints["pel"], np.array([[-0.05, -0.1, 0.1], [0.05, -0.1, 0.1]]))
    outline = hull(np.concatenate([torso.upper, torso.lower]))
    with canvas.clip(outline):
        canvas.polygon(np.stack([upper[0], upper[1], lower[1], lower[0]]), identity.pattern_rgb)
        canvas.line(np.stack([[upper[0], lower[0]], [upper[1], lower[1]]]), line, 1.3)
        lapel = torso.chest_points(
            person, [[s * x, y, 0.09] for s in (-1, 1) for x, y in ((0.05, 0.1), (0.1, 0.0), (0.05, -0.1))]
        )
        for points in (lapel[:3], lapel[3:]):
            canvas.polygon(points, shade(identity.top_rgb, 0.85), line, 0.5)


def _draw_hoodie_front(person: Person, torso: Torso) -> None:
    identity, canvas = person.identity, person.canvas
    cloth, line = top_colours(identity)
    collar = torso.chest_points(person, [[0, 0.055, 0.05]])[0]
    canvas.circle(collar, 0.07 * person.unit, shade(cloth, 0.8), line)
    with canvas.tagged(attribute=Mark.SKIN):
        canvas.circle(collar, 0.042 * person.unit, identity.skin_rgb)
    front = torso.front + 0.005
    strings = [[s * x, y, front] for s in (-1, 1) for x, y in ((0.022, 0.0), (0.027, -0.11))]
    cord = (245, 245, 245) if sum(cloth) < 600 else (120, 120, 125)
    canvas.line(torso.chest_points(person, strings).reshape(2, 2, 2), cord, person.unit * 0.012)
    pocket = [[-0.095, -0.32, front], [0.095, -0.32, front], [0.07, -0.23, front], [-0.07, -0.23, front]]
    canvas.polygon(torso.chest_points(person, pocket), shade(cloth, 0.86), line, 0.5)
