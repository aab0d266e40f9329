"""Arms, legs, hands and feet with what is worn on them."""

import numpy as np

from .garments import sleeve_length, top_colours
from .patterns import draw_pattern
from .person import Item, Mark, Part, Person
from .shapes import Colour, across, capsule, disc, hull, shade

SOLE_LIGHT, SOLE_DARK = (245, 245, 245), (190, 190, 195)


def leg_items(person: Person, side: str) -> list[Item]:
    """Thigh, shin and foot of one side ("L" or "R") with their depths."""
    z = person.z
    return [
        Item(f"thigh{side}", (z[f"hi{side}"] + z[f"kn{side}"]) / 2, lambda: _draw_thigh(person, side)),
        Item(f"shin{side}", (z[f"kn{side}"] + z[f"an{side}"]) / 2, lambda: _draw_shin(person, side)),
        Item(f"foot{side}", (z[f"he{side}"] + z[f"to{side}"]) / 2 + 0.02, lambda: _draw_foot(person, side)),
    ]


def arm_items(person: Person, side: str) -> list[Item]:
    """Upper arm and forearm with hand of one side, with their depths."""
    z = person.z
    return [
        Item(f"upper{side}", (z[f"sh{side}"] + z[f"el{side}"]) / 2, lambda: _draw_upper_arm(person, side)),
        Item(
            f"fore{side}", (z[f"el{side}"] + z[f"wr{side}"]) / 2 + 0.03, lambda: _draw_forearm(person, side)
        ),
    ]


def _draw_thigh(person: Person, side: str) -> None:
    identity, canvas = person.identity, person.canvas
    hip, knee = person.at[f"hi{side}"], person.at[f"kn{side}"]
    hip_radius, knee_radius = person.thick(0.09 if person.woman else 0.086), person.thick(0.062)
    cloth, line = identity.bottom_rgb, shade(identity.bottom_rgb, 0.6)
    with canvas.tagged(part=Part.LOWER, attribute=Mark.BOTTOM):
        if identity.bottom == "trousers":
            canvas.polygon(capsule(hip, knee, hip_radius, knee_radius * 1.06), cloth, line)
            return
        with canvas.tagged(attribute=Mark.SKIN):
            canvas.polygon(capsule(hip, knee, hip_radius, knee_radius), identity.skin_rgb, person.skin_line)
        if identity.bottom == "shorts":
            hem = hip + (knee - hip) * 0.66
            canvas.polygon(capsule(hip, hem, hip_radius * 1.06, knee_radius * 1.3), cloth, line)


def _draw_shin(person: Person, side: str) -> None:
    identity, canvas = person.identity, person.canvas
    knee, ankle = person.at[f"kn{side}"], person.at[f"an{side}"]
    knee_radius, ankle_radius = person.thick(0.062), person.thick(0.044)
    with canvas.tagged(part=Part.LOWER, attribute=Mark.SKIN):
        if identity.bottom == "trousers":
            cloth = identity.bottom_rgb
            with canvas.tagged(attribute=Mark.BOTTOM):
                shape = capsule(knee, ankle, knee_radius * 1.06, ankle_radius * 1.3)
                canvas.polygon(shape, cloth, shade(cloth, 0.6))
                _hide_seam(person, person.at[f"hi{side}"], knee, knee_radius * 1.0, cloth)
        else:
            shape = capsule(knee, ankle, knee_radius, ankle_radius)
            canvas.polygon(shape, identity.skin_rgb, person.skin_line)
            _hide_seam(person, person.at[f"hi{side}"], knee, knee_radius * 0.95, identity.skin_rgb)
    if identity.shoes == "boots":
        with canvas.tagged(part=Part.FEET, attribute=Mark.SHOES):
            shaft = capsule(knee + (ankle - knee) * 0.52, ankle, ankle_radius * 1.45, ankle_radius * 1.3)
            canvas.polygon(shaft, identity.shoe_rgb, shade(identity.shoe_rgb, 0.58))


def _draw_foot(person: Person, side: str) -> None:
    identity, canvas = person.identity, person.canvas
    heel, toe, ankle = (person.at[f"{name}{side}"] for name in ("he", "to", "an"))
    bare = identity.shoes == "sandals"
    shape = hull(
        np.concatenate(
            [
                disc(heel, person.thick(0.046)),
                disc(toe, person.thick(0.038)),
                disc(ankle, person.thick(0.036)),
            ]
        )
    )
    with canvas.tagged(part=Part.FEET, attribute=Mark.SKIN if bare else Mark.SHOES):
        if bare:
            canvas.polygon(shape, identity.skin_rgb, person.skin_line)
            _draw_sandal(person, side)
            return
        leather, line = identity.shoe_rgb, shade(identity.shoe_rgb, 0.58)
        canvas.polygon(shape, leather, line)
        if identity.shoes == "boots":
            canvas.circle(ankle, person.thick(0.05), leather)  # hides the seam between shaft and foot
        else:
            _draw_sneaker(person, side)


def _draw_sneaker(person: Person, side: str) -> None:
    """A light sole along the lower edge and two laces."""
    canvas, foot = person.canvas, f"foot{side}"
    sole = SOLE_LIGHT if sum(person.identity.shoe_rgb) < 600 else SOLE_DARK
    down = np.array([[0.0, -0.03, 0.0]])
    heel = person.local(foot, person.joints[f"he{side}"], down)
    toe = person.local(foot, person.joints[f"to{side}"], down * 0.83)
    canvas.line(np.concatenate([heel, toe]), sole, person.unit * 0.019)
    if person.camera.depth(person.frames[foot][:, 1]) > -0.2:
        ankle = person.joints[f"an{side}"]
        laces = [[[x, y, z] for x in (-0.022, 0.022)] for y, z in ((-0.006, 0.045), (-0.012, 0.075))]
        lines = person.local(foot, ankle, np.array(laces).reshape(4, 3)).reshape(2, 2, 2)
        canvas.line(lines, sole, person.unit * 0.011)


def _draw_sandal(person: Person, side: str) -> None:
    """A sole, a strap over the toes, and one to the ankle."""
    identity, canvas = person.identity, person.canvas
    heel, toe, ankle = (person.at[f"{name}{side}"] for name in ("he", "to", "an"))
    with canvas.tagged(attribute=Mark.SHOES):
        sole = person.local(
            f"foot{side}", person.joints[f"he{side}"], np.array([[0, -0.036, -0.02], [0, -0.036, 0.2]])
        )
        canvas.line(sole, shade(identity.shoe_rgb, 0.7), person.unit * 0.018)
        half = across(toe - heel) * person.thick(0.04)
        for share, reach in ((0.72, 1.0), (0.4, 1.1)):
            middle = heel + (toe - heel) * share
            canvas.line(
                np.stack([middle - half * reach, middle + half * reach]),
                identity.shoe_rgb,
                person.unit * 0.026,
            )
        canvas.line(np.stack([heel + (toe - heel) * 0.4, ankle]), identity.shoe_rgb, person.unit * 0.022)


def _draw_upper_arm(person: Person, side: str) -> None:
    identity, canvas = person.identity, person.canvas
    shoulder, elbow = person.at[f"sh{side}"], person.at[f"el{side}"]
    shoulder_radius, elbow_radius = person.thick(0.056), person.thick(0.043)
    sleeve = sleeve_length(identity)
    cloth, line = top_colours(identity)
    with canvas.tagged(part=Part.UPPER, attribute=Mark.SKIN):
        if sleeve != "long":
            canvas.polygon(
                capsule(shoulder, elbow, shoulder_radius, elbow_radius), identity.skin_rgb, person.skin_line
            )
        if sleeve == "none":
            return
        with canvas.tagged(attribute=Mark.TOP):
            end = elbow if sleeve == "long" else shoulder + (elbow - shoulder) * 0.5
            end_radius = elbow_radius * (1.15 if sleeve == "long" else 1.35)
            shape = capsule(shoulder, end, shoulder_radius * 1.1, end_radius)
            canvas.polygon(shape, cloth, line)
            draw_pattern(person, shape, shoulder, end, shoulder_radius * 1.5)


def _draw_forearm(person: Person, side: str) -> None:
    identity, canvas = person.identity, person.canvas
    elbow, wrist, hand = (person.at[f"{name}{side}"] for name in ("el", "wr", "ha"))
    elbow_radius, wrist_radius = person.thick(0.043), person.thick(0.034)
    with canvas.tagged(part=Part.UPPER, attribute=Mark.SKIN):
        palm = capsule(wrist, wrist + (hand - wrist) * 0.75, wrist_radius * 0.95, person.thick(0.042))
        if sleeve_length(identity) == "long":
            cloth, line = top_colours(identity)
            canvas.polygon(palm, identity.skin_rgb, person.skin_line)
            with canvas.tagged(attribute=Mark.TOP):
                shape = capsule(elbow, wrist, elbow_radius * 1.15, wrist_radius * 1.3)
                canvas.polygon(shape, cloth, line)
                _hide_seam(person, person.at[f"sh{side}"], elbow, elbow_radius * 1.1, cloth)
                draw_pattern(person, shape, elbow, wrist, elbow_radius * 1.5)
            return
        with canvas.merged():
            canvas.polygon(palm, identity.skin_rgb, person.skin_line)
            canvas.polygon(
                capsule(elbow, wrist, elbow_radius, wrist_radius), identity.skin_rgb, person.skin_line
            )
        _hide_seam(person, person.at[f"sh{side}"], elbow, elbow_radius * 0.95, identity.skin_rgb)


def _hide_seam(person: Person, start: np.ndarray, joint: np.ndarray, radius: float, colour: Colour) -> None:
    """Covers the outline of a lower limb's round end where it lies on the upper limb (start to joint)."""
    along = start - joint
    length = float(np.hypot(*along)) + 1e-3
    reach = joint + along / length * min(length, radius * 0.75)
    person.canvas.polygon(capsule(joint, reach, radius, radius), colour)


def draw_shoulder_seam(person: Person, side: str, torso: np.ndarray) -> None:
    """Joins an arm to the torso behind it: covers the arm's outline around the shoulder, within the torso.

    torso: the torso's polygon [N,2].
    """
    identity, canvas = person.identity, person.canvas
    shoulder, elbow = person.at[f"sh{side}"], person.at[f"el{side}"]
    bare = sleeve_length(identity) == "none"
    radius = person.thick(0.056) * (1.0 if bare else 1.1)
    colour = identity.skin_rgb if bare else identity.top_rgb
    inward = person.at["neck"] * 0.12 + shoulder * 0.88
    shape = capsule(inward, shoulder + (elbow - shoulder) * 0.3, radius, radius * 0.9)
    attribute = Mark.SKIN if bare else Mark.TOP
    with canvas.tagged(part=Part.UPPER, attribute=attribute), canvas.clip(torso):
        canvas.polygon(shape, colour)
