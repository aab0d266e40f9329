"""Things that a person carries or sits on."""

import numpy as np

from .person import Item, Mark, Part, Person
from .shapes import Colour, hull, shade
from .torso import Torso

_BOX = np.array([[x, y, z] for x in (-1, 1) for y in (0, 1) for z in (0, 1)], float)  # corners


def chair_items(person: Person, wood: Colour) -> list[Item]:
    """Legs, seat and back of the chair under a seated person: background that hides the person."""
    canvas, line = person.canvas, shade(wood, 0.6)
    root = person.frames["root"]
    seat_at = person.joints["pel"] + root @ np.array([0, -0.1, 0.04])
    depth = person.camera.depth
    away = person.facing("root") < 0
    seat = hull(person.local("root", seat_at, _BOX * (0.22, -0.05, 0.46) + (0, 0, -0.22)))
    back = hull(person.local("root", seat_at, _BOX * (0.22, 0.5, -0.04) + (0, 0, -0.22)))
    back_depth = depth(seat_at + root @ np.array([0, 0.25, -0.24])) + (0.12 if away else 0.0)
    items = [
        Item(
            "chair",
            depth(seat_at) - 0.16,
            lambda: canvas.line(_chair_legs(person, seat_at), shade(wood, 0.75), 2.6),
        ),
        Item("chair", depth(person.joints["pel"]) - 0.12, lambda: canvas.polygon(seat, wood, line)),
        Item("chair", back_depth, lambda: canvas.polygon(back, shade(wood, 0.92), line)),
    ]
    return items


def _chair_legs(person: Person, seat_at: np.ndarray) -> np.ndarray:
    """Four lines [4,2,2] from the seat to the floor that the feet stand on."""
    floor = min(person.joints[name][1] for name in ("toL", "toR", "heL", "heR"))
    corners = np.array([[x, -0.05, z] for x in (-0.2, 0.2) for z in (-0.2, 0.22)])
    upper = seat_at + corners @ person.frames["root"].T
    lower = upper.copy()
    lower[:, 1] = floor
    return person.camera.project(np.concatenate([upper, lower])).reshape(2, 4, 2).transpose(1, 0, 2)


def draw_backpack(person: Person, torso: Torso) -> None:
    """The pack on the back, with its pocket when seen from behind."""
    canvas, colour = person.canvas, person.identity.bag_rgb
    line = shade(colour, 0.55)
    shape = hull(torso.chest_points(person, _BOX * (0.135, -0.36, -0.13) + (0, 0.03, -0.09)))
    with canvas.tagged(part=Part.UPPER, attribute=Mark.BAG):
        canvas.polygon(shape, colour, line, 1)
        if torso.facing < 0.1:
            pocket = torso.chest_points(person, _BOX * (0.09, -0.12, 0) + (0, -0.17, -0.22))
            canvas.polygon(hull(pocket), shade(colour, 0.85), line, 0.5)
            canvas.line(torso.chest_points(person, [[-0.09, -0.07, -0.22], [0.09, -0.07, -0.22]]), line, 1.2)


def draw_straps(person: Person, torso: Torso) -> None:
    """A backpack's straps over the chest."""
    colour = shade(person.identity.bag_rgb, 0.85)
    offsets = [
        [s * x, y, torso.front] for s in (-1, 1) for x, y in ((0.1, 0.075), (0.115, -0.06), (0.12, -0.22))
    ]
    with person.canvas.tagged(part=Part.UPPER, attribute=Mark.BAG):
        lines = torso.chest_points(person, offsets).reshape(2, 3, 2)
        person.canvas.line(lines, shade(colour, 0.6), 0.034 * person.unit)
        person.canvas.line(lines, colour, 0.026 * person.unit)


def draw_handbag(person: Person) -> None:
    """A bag that hangs from the left hand, always straight down."""
    canvas, colour, unit = person.canvas, person.identity.bag_rgb, person.unit
    hand = person.at["haL"]
    top = hand + np.array([0, 0.09 * unit])
    corners = np.array([(-0.085, 0), (0.085, 0), (0.105, 0.15), (-0.105, 0.15)]) * unit + top
    with canvas.tagged(part=Part.UPPER, attribute=Mark.BAG):
        ends = np.array([(0.05, 0), (0.02, 0)]) * unit
        handle = np.stack([top - ends[0], hand - ends[1], hand + ends[1], top + ends[0]])
        canvas.line(handle, shade(colour, 0.6), 0.022 * unit)
        canvas.polygon(corners, colour, shade(colour, 0.55))
        flap = corners.copy()
        flap[2:, 1] = top[1] + 0.06 * unit
        canvas.polygon(flap, shade(colour, 0.88), shade(colour, 0.55), 0.4)
