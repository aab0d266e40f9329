"""Projection of the skeleton's space to the frame, and the fit of a whole person into it."""

from dataclasses import dataclass

import numpy as np

from .canvas import FRAME_HEIGHT
from .skeleton import BodyAngles, Skeleton, rotation

MARGIN = 4.0  # frame units kept free at the sides, 1.5 times that above and below
LARGEST_SCALE = 98.0  # frame units per body unit: a crouching person does not fill the frame


@dataclass(frozen=True)
class Camera:
    """An orthographic view. `turn` [3,3] is world -> camera axes (x right, y up, z to the viewer)."""

    turn: np.ndarray
    scale: float  # frame units per body unit
    origin: np.ndarray  # [2] frame position of the camera-space point `low`
    low: np.ndarray  # [2] camera-space x, y

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points [N,3] -> frame units [N,2]."""
        seen = points @ self.turn.T
        return (seen[:, :2] - self.low) * (self.scale, -self.scale) + self.origin

    def depth(self, vector: np.ndarray) -> float:
        """How far a world point or vector [3] reaches towards the viewer, body units."""
        return float(self.turn[2] @ vector)


def fit_camera(
    skeleton: Skeleton, angles: BodyAngles, rng: np.random.Generator, frame_width: float, horizon: float
) -> Camera:
    """A camera that holds the whole person, at a random size and place, standing below the horizon."""
    turn = rotation("x", angles.camera)
    points = np.stack(list(skeleton.joints.values())) @ turn.T
    head = turn @ skeleton.joints["head"]
    # Flesh reaches 0.07 beyond the joints; hair and hats about 0.24 beyond the head's centre.
    low = np.minimum(points[:, :2].min(0) - 0.07, head[:2] - 0.2)
    high = np.maximum(points[:, :2].max(0) + 0.07, head[:2] + 0.24)
    size = high - low
    room = np.array([frame_width - 2 * MARGIN, FRAME_HEIGHT - 3 * MARGIN])
    scale = min(float((room / size).min()), LARGEST_SCALE) * rng.uniform(0.9, 1.0)
    slack = room - size * scale
    left = MARGIN + slack[0] * float(np.clip(rng.normal(0.5, 0.2), 0, 1))
    ground = FRAME_HEIGHT - 1.5 * MARGIN - slack[1] * rng.uniform(0.15, 0.5)
    ground = max(ground, min(horizon + 12, FRAME_HEIGHT - 1.5 * MARGIN))
    return Camera(turn, scale, np.array([left, ground]), low)
