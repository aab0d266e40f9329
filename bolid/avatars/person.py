"""What every drawing function needs: the posed person as the camera sees it, and the labels of shapes."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from .camera import Camera
from .canvas import Canvas
from .identity import AvatarIdentity
from .shapes import UNIT_CIRCLES, Colour, shade
from .skeleton import HIP_HALF_WIDTH, SHOULDER_HALF_WIDTH, Skeleton


class Part(IntEnum):
    """The part label map's values."""

    BACKGROUND = 0
    HEAD = 1
    UPPER = 2
    LOWER = 3
    FEET = 4


class Mark(IntEnum):
    """What a pixel shows; `visible` is counted from these."""

    NOTHING = 0
    SKIN = 1
    FACE = 2
    HAIR = 3
    BEARD = 4
    GLASSES = 5
    HAT = 6
    TOP = 7
    PATTERN = 8
    BOTTOM = 9
    SHOES = 10
    BAG = 11


# What hides what: each drawn thing has a name here, and joints know by which of them they may be covered.
ITEM_NAMES = ("", "torso", "pelvis", "skirt", "head", "hair", "bag", "chair")
ITEM_NAMES += tuple(part + side for side in "LR" for part in ("upper", "fore", "thigh", "shin", "foot"))
ITEMS = {name: index for index, name in enumerate(ITEM_NAMES)}


@dataclass
class Item:
    """One thing to draw. Items are drawn from the smallest `order` (far) to the largest (near)."""

    name: str
    order: float
    draw: Callable[[], None]


class Person:
    """An identity in a pose before a camera: joints in the frame, depths, widths, and local axes."""

    def __init__(self, identity: AvatarIdentity, skeleton: Skeleton, camera: Camera, canvas: Canvas) -> None:
        self.identity, self.skeleton, self.camera, self.canvas = identity, skeleton, camera, canvas
        self.joints, self.frames = skeleton.joints, skeleton.frames
        names = list(self.joints)
        positions = np.stack([self.joints[name] for name in names])
        self.at = dict(zip(names, camera.project(positions), strict=True))  # name -> [2] frame units
        self.z = dict(
            zip(names, (positions @ camera.turn[2]).tolist(), strict=True)
        )  # name -> depth, body units
        self.woman = identity.gender == "woman"
        self.bulk = 0.55 + 0.45 * identity.weight  # factor on all thicknesses
        self.unit = camera.scale
        self.shoulder = SHOULDER_HALF_WIDTH * identity.shoulder
        self.hip = HIP_HALF_WIDTH * identity.hip
        self.skin_line: Colour = shade(identity.skin_rgb, 0.62)

    def thick(self, radius: float) -> float:
        """A limb's radius (body units at average weight) in frame units."""
        return radius * self.unit * self.bulk * (0.93 if self.woman else 1.04)

    def local(self, frame: str, origin: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Offsets [N,3] (left, up, forward) in a part's axes about a world point -> frame units [N,2]."""
        return self.camera.project(origin + offsets @ self.frames[frame].T)

    def ring(self, frame: str, centre: np.ndarray, half_width: float, half_depth: float) -> np.ndarray:
        """A cross-section of the body: a level ellipse about a world point, frame units [10,2]."""
        circle = UNIT_CIRCLES[10]
        offsets = np.stack([circle[:, 0] * half_width, np.zeros(10), circle[:, 1] * half_depth], 1)
        return self.local(frame, centre, offsets)

    def facing(self, frame: str) -> float:
        """How much a body part's front is turned to the viewer: 1 fully, 0 in profile, -1 away."""
        return self.camera.depth(self.frames[frame][:, 2])
