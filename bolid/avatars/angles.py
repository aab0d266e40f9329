"""A posed body as joint angles in degrees, and the names of pose families and views."""

from dataclasses import dataclass
from typing import Literal

VIEWS = ("front", "side", "back")
POSE_FAMILIES = (
    "standing",
    "walking",
    "running",
    "sitting on a chair",
    "sitting on the floor",
    "lying down",
    "kneeling",
    "crouching",
    "jumping",
    "arms raised",
    "waving",
    "dancing",
)
Ground = Literal["feet", "chair", "any", "air"]
"""What the body rests on: its feet, a chair under the pelvis, whatever is lowest, or nothing (a jump)."""


@dataclass(frozen=True)
class Arm:
    """Degrees: shoulder `forward` and `out`, `elbow` flexion, `turn` of the forearm's plane (inward < 0)."""

    forward: float
    out: float
    elbow: float
    turn: float = 0.0


@dataclass(frozen=True)
class Leg:
    """Degrees: hip `forward` and `out`, `knee` flexion, `turn` of the shin's plane, `toe` (> 0 away)."""

    forward: float
    out: float
    knee: float
    turn: float = 0.0
    toe: float = 0.0


@dataclass(frozen=True)
class BodyAngles:
    """A posed body in degrees. `yaw`, `pitch`, `roll` turn the whole; `camera` is the viewer's elevation."""

    family: str
    view: str
    yaw: float
    arm_left: Arm
    arm_right: Arm
    leg_left: Leg
    leg_right: Leg
    pitch: float = 0.0  # -90 on the back, 90 on the belly
    roll: float = 0.0  # 90 or -90 on a side
    lean: float = 0.0  # torso forward
    side: float = 0.0  # torso to its right
    twist: float = 0.0  # torso to its left
    neck_yaw: float = 0.0
    neck_pitch: float = 0.0
    neck_roll: float = 0.0
    camera: float = 6.0
    ground: Ground = "feet"
