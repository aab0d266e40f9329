"""How an avatar stands: forward kinematics from joint angles to a 3-D skeleton.

World axes: x to the right of the picture, y up, z toward the viewer. At yaw 0 the person faces the viewer,
so +x is the person's LEFT side. Lengths are in body units (a person is about 1.75 tall).
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .angles import POSE_FAMILIES, VIEWS, Arm, BodyAngles, Ground, Leg
from .identity import AvatarIdentity
from .poses import sample_angles

__all__ = [
    "FACE_JOINTS",
    "HEAD_RADIUS",
    "HIP_HALF_WIDTH",
    "POSE_FAMILIES",
    "SHOULDER_HALF_WIDTH",
    "VIEWS",
    "Arm",
    "BodyAngles",
    "Ground",
    "Leg",
    "Skeleton",
    "forward_kinematics",
    "rotation",
    "sample_angles",
]

HEAD_RADIUS = 0.144
SHOULDER_HALF_WIDTH = 0.185  # times AvatarIdentity.shoulder
HIP_HALF_WIDTH = 0.105  # times AvatarIdentity.hip
FACE_JOINTS = ("nose", "eyeL", "eyeR", "earL", "earR")


# Directions from the head's centre in the head's own frame (person's left = +x), not yet of unit length.
_FACE_DIRECTIONS = {
    "nose": (0.0, -0.02, 1.0),
    "eyeL": (0.36, 0.12, 0.92),
    "eyeR": (-0.36, 0.12, 0.92),
    "earL": (1.0, 0.0, 0.0),
    "earR": (-1.0, 0.0, 0.0),
}


@dataclass(frozen=True)
class Skeleton:
    """Joints in space.

    joints: name -> [3]: pel, waist, neck, head, nose and for each side (suffix L or R, the person's own) sh,
    el, wr, ha, hi, kn, an, he, to, eye, ear (shoulder, elbow, wrist, hand, hip, knee, ankle, heel, toe ...).
    frames: "root", "torso", "head", "footL", "footR" -> rotation [3, 3], whose columns are the part's left,
    up and forward. normals: outward unit vectors of the face joints.
    """

    joints: dict[str, np.ndarray]
    frames: dict[str, np.ndarray]
    normals: dict[str, np.ndarray] = field(default_factory=dict)
    head_radius: float = HEAD_RADIUS


def rotation(axis: Literal["x", "y", "z"], degrees: float) -> np.ndarray:
    """Right-handed rotation about a world axis: [3, 3]."""
    angle = degrees * math.pi / 180
    c, s = math.cos(angle), math.sin(angle)
    if axis == "x":
        return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
    if axis == "y":
        return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def forward_kinematics(identity: AvatarIdentity, angles: BodyAngles) -> Skeleton:
    """The person's joints with the pelvis at the origin, in world axes (no camera elevation applied)."""
    scale = identity.height
    root = rotation("y", angles.yaw) @ rotation("z", angles.roll) @ rotation("x", angles.pitch)
    torso = root @ rotation("x", angles.lean) @ rotation("z", angles.side) @ rotation("y", angles.twist)
    neck_turn = rotation("y", angles.neck_yaw) @ rotation("x", angles.neck_pitch)
    head = torso @ neck_turn @ rotation("z", angles.neck_roll)
    waist = root @ np.array([0.0, 0.12 * scale, 0.0])
    neck = waist + torso @ np.array([0.0, 0.40 * scale, -0.01])
    centre = neck + torso @ np.array([0.0, 0.06 * scale, 0.01]) + head @ np.array([0.0, 0.13, 0.02])
    joints = {"pel": np.zeros(3), "waist": waist, "neck": neck, "head": centre}
    frames = {"root": root, "torso": torso, "head": head}
    for side, arm, leg in (
        ("L", angles.arm_left, angles.leg_left),
        ("R", angles.arm_right, angles.leg_right),
    ):
        joints |= _arm_joints(identity, side, arm, neck, torso)
        leg_joints, frames[f"foot{side}"] = _leg_joints(identity, side, leg, root)
        joints |= leg_joints
    normals = {}
    for name, direction in _FACE_DIRECTIONS.items():
        normals[name] = head @ (np.array(direction) / math.hypot(*direction))
        joints[name] = centre + HEAD_RADIUS * normals[name]
    return Skeleton(joints, frames, normals)


def _arm_joints(
    identity: AvatarIdentity, side: str, arm: Arm, neck: np.ndarray, torso: np.ndarray
) -> dict[str, np.ndarray]:
    scale, sign = identity.height, 1 if side == "L" else -1
    half_width = SHOULDER_HALF_WIDTH * identity.shoulder
    shoulder = neck + torso @ np.array([sign * half_width, -0.055 * scale, 0.0])
    upper = (
        torso @ rotation("z", sign * arm.out) @ rotation("x", -arm.forward) @ rotation("y", sign * arm.turn)
    )
    fore = upper @ rotation("x", -arm.elbow)
    elbow = shoulder - 0.285 * scale * upper[:, 1]
    wrist = elbow - 0.25 * scale * fore[:, 1]
    hand = wrist - 0.07 * scale * fore[:, 1]
    return {f"sh{side}": shoulder, f"el{side}": elbow, f"wr{side}": wrist, f"ha{side}": hand}


def _leg_joints(
    identity: AvatarIdentity, side: str, leg: Leg, root: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Joints of one leg and the foot's frame [3, 3]."""
    scale, sign = identity.height * identity.leg, 1 if side == "L" else -1
    hip = root @ np.array([sign * HIP_HALF_WIDTH * identity.hip, -0.02, 0.0])
    thigh = (
        root @ rotation("z", sign * leg.out) @ rotation("x", -leg.forward) @ rotation("y", sign * leg.turn)
    )
    shin = thigh @ rotation("x", leg.knee)
    foot = shin @ rotation("x", leg.toe)
    knee = hip - 0.43 * scale * thigh[:, 1]
    ankle = knee - 0.41 * scale * shin[:, 1]
    heel = ankle + foot @ np.array([0.0, -0.05, -0.04])
    toe = ankle + foot @ np.array([0.0, -0.055, 0.15])
    joints = {f"hi{side}": hip, f"kn{side}": knee, f"an{side}": ankle, f"he{side}": heel, f"to{side}": toe}
    return joints, foot
