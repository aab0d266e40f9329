"""Makes `bolid/poses.json`, the poses that users call by name, from the avatar skeleton.

`python -m bolid.avatars.named_poses` writes the file anew. Every name is one canonical set of joint angles,
seen in a frame of 2:3; joints the body itself hides have confidence 0.5, hidden face joints 0.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from bolid.pose import known

from .angles import Arm, BodyAngles, Leg
from .identity import AvatarIdentity, sample_identity
from .render import render

_ARM, _LEG = Arm(4, 9, 12), Leg(1, 6, 3, toe=-2)
_STAND = BodyAngles("standing", "front", 8, _ARM, _ARM, _LEG, _LEG, lean=1)
_WALK = replace(
    _STAND,
    family="walking",
    leg_left=Leg(25, 3, 7),
    leg_right=Leg(-18, 3, 24, toe=-5),
    arm_left=Arm(-22, 8, 15),
    arm_right=Arm(23, 8, 24),
    lean=3,
)
_RUN = replace(
    _STAND,
    family="running",
    view="side",
    yaw=62,
    leg_left=Leg(60, 4, 80),
    leg_right=Leg(-17, 4, 68, toe=25),
    arm_left=Arm(-40, 14, 90, -10),
    arm_right=Arm(44, 10, 90, -15),
    lean=12,
)
_SIT = replace(
    _STAND,
    family="sitting on a chair",
    yaw=24,
    leg_left=Leg(87, 8, 87),
    leg_right=Leg(87, 8, 87),
    arm_left=Arm(33, 10, 45),
    arm_right=Arm(33, 10, 45),
    ground="chair",
    camera=16,
)
_FLOOR = replace(
    _SIT,
    family="sitting on the floor",
    yaw=30,
    leg_left=Leg(128, 6, 106, toe=22),
    leg_right=Leg(126, 6, 102, toe=24),
    arm_left=Arm(45, 10, 30),
    arm_right=Arm(-35, 18, 4),
    lean=-4,
    ground="any",
)
_LIE = replace(
    _STAND,
    family="lying down",
    yaw=90,
    pitch=-90,
    arm_left=Arm(6, 28, 15),
    arm_right=Arm(6, 28, 15),
    leg_left=Leg(2, 7, 5, toe=20),
    leg_right=Leg(2, 7, 5, toe=20),
    lean=0,
    ground="any",
    camera=52,
)
_KNEEL = replace(
    _STAND,
    family="kneeling",
    yaw=34,
    leg_left=Leg(2, 7, 92, toe=45),
    leg_right=Leg(2, 7, 92, toe=45),
    ground="any",
    camera=10,
)
_CROUCH = replace(
    _STAND,
    family="crouching",
    yaw=32,
    leg_left=Leg(108, 17, 124, toe=-16),
    leg_right=Leg(108, 17, 124, toe=-16),
    arm_left=Arm(58, 12, 38),
    arm_right=Arm(58, 12, 38),
    lean=22,
)
_JUMP = replace(
    _STAND,
    family="jumping",
    yaw=10,
    leg_left=Leg(28, 18, 70, toe=25),
    leg_right=Leg(10, 24, 60, toe=25),
    arm_left=Arm(5, 125, 20),
    arm_right=Arm(5, 125, 20),
    ground="air",
)
_ARMS_UP = replace(_STAND, family="arms raised", arm_left=Arm(3, 150, 20), arm_right=Arm(3, 150, 20))
_DANCE = replace(
    _STAND,
    family="dancing",
    yaw=14,
    leg_left=Leg(50, 25, 65, toe=20),
    arm_left=Arm(10, 110, 40),
    arm_right=Arm(-10, 75, 50),
    side=6,
    twist=10,
)

ANGLES: Mapping[str, BodyAngles] = MappingProxyType(
    {
        "standing": _STAND,
        "standing from the side": replace(_STAND, view="side", yaw=76),
        "standing from behind": replace(_STAND, view="back", yaw=172),
        "hands on hips": replace(
            _STAND, yaw=-6, arm_left=Arm(-14, 38, 88, -62), arm_right=Arm(-14, 38, 88, -62)
        ),
        "walking": replace(_WALK, yaw=28),
        "walking from the side": replace(_WALK, view="side", yaw=75),
        "walking from behind": replace(_WALK, view="back", yaw=160),
        "running": _RUN,
        "running towards the viewer": replace(_RUN, view="front", yaw=18),
        "sitting": _SIT,
        "sitting from the side": replace(_SIT, view="side", yaw=76),
        "sitting from behind": replace(_SIT, view="back", yaw=158),
        "sitting on the floor": _FLOOR,
        "lying": _LIE,
        "kneeling": _KNEEL,
        "kneeling on one knee": replace(_KNEEL, view="side", yaw=58, leg_left=Leg(86, 6, 88, toe=-2)),
        "crouching": _CROUCH,
        "jumping": _JUMP,
        "arms raised": _ARMS_UP,
        "arms raised from behind": replace(_ARMS_UP, view="back", yaw=174),
        "waving": replace(_STAND, family="waving", arm_left=Arm(10, 95, 90, 90)),
        "dancing": _DANCE,
    }
)


def named_poses() -> dict[str, np.ndarray]:
    """The key-points, float32 [18, 3], of every name, on an average body in plain, close-fitting clothes."""
    body = _plain_identity()
    return {name: _centred(body, angles) for name, angles in ANGLES.items()}


def _centred(body: AvatarIdentity, angles: BodyAngles) -> np.ndarray:
    points = known(render(body, angles, "studio", np.random.default_rng(0)).keypoints)
    points[:, 0] += 0.5 - (points[:, 0].min() + points[:, 0].max()) / 2
    return points


def _plain_identity() -> AvatarIdentity:
    average = {"height": 1.0, "weight": 0.9, "shoulder": 1.0, "hip": 1.0, "leg": 1.0}
    plain = {"hair": "short hair", "hat": "none", "glasses": "none", "top": "t-shirt", "bottom": "trousers"}
    return replace(sample_identity(np.random.default_rng(0)), **average, **plain, bag="none")


def main() -> None:
    """Write bolid/poses.json."""
    table = {
        name: [[round(float(value), 4) for value in joint] for joint in points]
        for name, points in named_poses().items()
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(joints)}" for name, joints in table.items()]
    path = Path(__file__).parent.parent / "poses.json"
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
