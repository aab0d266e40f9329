"""The trunk's shapes, which garments are cut from."""

from collections.abc import Sequence

import numpy as np

from .person import Person
from .shapes import hull

LONG_TOPS = ("sweater", "hoodie", "jacket", "dress")  # these reach over the hips


class Torso:
    """The torso's cross-sections as seen, and the shapes between them (frame units, [N,2] each)."""

    def __init__(self, person: Person) -> None:
        joints, root = person.joints, person.frames["root"]
        identity, bulk = person.identity, person.bulk
        self.chest_centre = joints["neck"] + person.frames["torso"] @ np.array(
            [0, -0.07 * identity.height, 0]
        )
        self.front = 0.085 * bulk + (0.02 if person.woman else 0.008)  # how far the chest reaches forward
        waist_width = (
            0.125 * bulk * (identity.hip * 0.4 + identity.shoulder * 0.55) * (0.86 if person.woman else 1.0)
        )
        hip_width = person.hip + 0.075 * bulk
        neck_base = joints["neck"] + person.frames["torso"] @ np.array([0, -0.01, 0])
        self.chest = np.concatenate(
            [
                person.ring("torso", self.chest_centre, person.shoulder * 1.02, 0.085 * bulk),
                person.ring("torso", neck_base, person.shoulder * 0.5, 0.05),
            ]
        )
        if person.woman:
            bust = np.array([[x, -0.075, self.front + 0.022] for x in (-0.065, 0.065)])
            self.chest = np.concatenate([self.chest, person.local("torso", self.chest_centre, bust)])
        self.waist = person.ring("root", joints["waist"], waist_width, 0.09 * bulk)
        self.hips = person.ring("root", joints["pel"] - root[:, 1] * 0.045, hip_width, 0.1 * bulk)
        hem = joints["pel"] + root[:, 1] * (-0.07 if identity.top in LONG_TOPS else 0.045)
        hem_width = hip_width * 1.03 if identity.top in LONG_TOPS else (hip_width * 0.55 + waist_width * 0.5)
        self.hem = person.ring("root", hem, hem_width, 0.1 * bulk)
        self.waist_at = person.at["waist"]
        self.upper = hull(np.concatenate([self.chest, self.waist]))
        self.lower = hull(np.concatenate([self.waist, self.hem]))
        self.pelvis = hull(np.concatenate([self.waist, self.hips]))
        self.facing = person.facing("torso")

    def chest_points(self, person: Person, offsets: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
        """Offsets [N,3] (left, up, forward) from the chest's centre, body units -> frame units [N,2]."""
        return person.local("torso", self.chest_centre, np.asarray(offsets, float))
