"""Hips and skirts: the lower garments that are not drawn limb by limb."""

import numpy as np

from .patterns import draw_pattern
from .person import Mark, Part, Person
from .shapes import disc, hull, shade
from .torso import Torso


def draw_pelvis(person: Person, torso: Torso, cover: bool) -> None:
    """The hips in the bottom's colour: outlined under the thighs, or plain as the cover over their seams."""
    cloth = person.identity.bottom_rgb
    with person.canvas.tagged(part=Part.LOWER, attribute=Mark.BOTTOM):
        person.canvas.polygon(torso.pelvis, cloth, None if cover else shade(cloth, 0.6))


def draw_skirt(person: Person, torso: Torso) -> None:
    """A skirt (to half the thigh) or a long one (to half the shin); of a dress too."""
    identity, canvas = person.identity, person.canvas
    cloth, line = identity.bottom_rgb, shade(identity.bottom_rgb, 0.6)
    long = identity.bottom == "long skirt"
    hem = _skirt_hem(person, 1.55 if long else 0.6)
    with canvas.tagged(part=Part.LOWER, attribute=Mark.BOTTOM):
        if long:
            knees = np.concatenate([disc(person.at[f"kn{side}"], person.thick(0.085)) for side in "LR"])
            pieces = [
                hull(np.concatenate([knees, hem])),
                hull(np.concatenate([torso.waist, torso.hips, knees])),
            ]
        else:
            pieces = [hull(np.concatenate([torso.waist, torso.hips, hem]))]
        with canvas.merged():
            for piece in pieces:
                canvas.polygon(piece, cloth, line)
        if identity.top == "dress":
            for piece in pieces:
                draw_pattern(person, piece, torso.waist_at, hem.mean(0), 0.45 * person.unit)


def _skirt_hem(person: Person, share: float) -> np.ndarray:
    """Points [N,2] round the legs at that share of thigh (up to 1) and shin (1 to 2), flared when upright."""
    ends = []
    for side in "LR":
        hip, knee, ankle = (person.joints[f"{name}{side}"] for name in ("hi", "kn", "an"))
        ends.append(hip + (knee - hip) * min(share, 1) + (ankle - knee) * max(share - 1, 0))
    centre = (ends[0] + ends[1]) / 2
    radius = 0.1 if share < 1 else 0.085
    discs = [disc(point, person.thick(radius)) for point in person.camera.project(np.stack(ends))]
    upright = max(0.0, float((person.joints["pel"] - centre) @ person.frames["root"][:, 1]) / (0.43 * share))
    spread = float(np.linalg.norm(ends[0] - ends[1])) / 2
    flare = person.ring("root", centre, spread + 0.12 * upright, 0.05 + 0.12 * upright)
    return np.concatenate([*discs, flare])
