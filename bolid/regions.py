"""Where each person of a picture may act: regions around skeletons, and columns that several people share."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bolid.pose import FACE, LIMBS

FRAME = 3 / 2  # height / width of the frame that one person stands in
REACH = (
    0.55  # a region reaches this far from the skeleton, in torso lengths: hair, skirts and bags are off it
)
SOFT = 0.25  # of the reach: the border over which a region fades out
HEAD_ROOM = 1.9  # a head region's radius over the largest distance between the head's joints
HEAD_SHARE = 0.16  # of the body's extent: the head's radius where fewer than two of its joints are known
SMALLEST = 1e-4  # shares of the picture's height; keeps a body of one point from dividing by 0


def group_width(height: int, width: int, people: int, factor: int) -> int:
    """Width in pixels at which every person has a column of 2:3: never less than `width`."""
    return max(width, math.ceil(people * height / FRAME / factor) * factor)


def in_column(points: np.ndarray, index: int, people: int) -> np.ndarray:
    """Key-points [18, 3] of a column's own frame -> of the whole picture of `people` columns side by side."""
    placed = points.copy()
    known = placed[:, 2] > 0
    placed[known, 0] = (placed[known, 0] + index) / people
    return placed


def person_regions(poses: np.ndarray, height: int, width: int) -> Tensor:
    """Regions [P, 1, height, width] in [0, 1] of people with key-points [P, 18, 3], at the latents' size.

    A pixel belongs to the nearest skeleton, measured in that body's own size, up to a soft border at half a
    torso's length. A body without known joints has no region.
    """
    distances = np.stack([body_distance(points, height, width) for points in poses])  # [P, h, w]
    nearest = distances.argmin(axis=0)
    inside = np.clip((REACH - distances) / (SOFT * REACH), 0, 1)
    own = nearest[None] == np.arange(len(poses))[:, None, None]
    return torch.from_numpy((inside * own).astype(np.float32))[:, None]


def body_distance(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each pixel's distance to a skeleton [18, 3] in its torso's lengths, [height, width]; inf: no body."""
    places = points[:, :2] * (width, height)
    known = points[:, 2] > 0
    distances = np.full((height, width), np.inf)
    if not known.any():
        return distances
    y, x = np.mgrid[:height, :width] + 0.5
    pixels = np.stack([x, y], axis=-1)
    limbs = [(a, b) for a, b in LIMBS if known[a] and known[b]] or [(i, i) for i in np.flatnonzero(known)]
    for a, b in limbs:
        along = places[b] - places[a]
        share = ((pixels - places[a]) @ along / max(float(along @ along), SMALLEST)).clip(0, 1)
        distances = np.minimum(
            distances, np.linalg.norm(pixels - places[a] - share[..., None] * along, axis=-1)
        )
    return distances / (_torso(places, known) or SMALLEST * height)


def _torso(places: np.ndarray, known: np.ndarray) -> float:
    """Pixels from the neck to the hips; where they are not known, a third of the body's extent."""
    hips = [joint for joint in (8, 11) if known[joint]]
    extent = float(np.ptp(places[known], axis=0).max()) / 3
    if not known[1] or not hips:
        return extent
    return max(float(np.linalg.norm(places[hips].mean(axis=0) - places[1])), extent)


def head_circle(points: np.ndarray, aspect: float) -> tuple[np.ndarray, float] | None:
    """Centre (x, y in [0, 1]) and radius (share of the height) of the head of a pose [18, 3]; None: unknown.

    aspect: width / height of the picture.
    """
    known = points[:, 2] > 0
    joints = [joint for joint in FACE if known[joint]]
    if not joints:
        return None
    places = points[:, :2] * (aspect, 1)
    centre = places[joints].mean(axis=0)
    spread = max(float(np.linalg.norm(places[a] - places[b])) for a in joints for b in joints)
    body = float(np.ptp(places[known], axis=0).max())
    radius = max(HEAD_ROOM * spread, HEAD_SHARE * body / 2, SMALLEST)
    return centre / (aspect, 1), radius


def head_regions(poses: np.ndarray, height: int, width: int) -> Tensor:
    """Discs [P, 1, height, width] of 0 and 1 around the heads of poses [P, 18, 3]; all 1 without a head."""
    y, x = (np.mgrid[:height, :width] + 0.5) / height  # both in shares of the height
    regions = np.ones((len(poses), 1, height, width), np.float32)
    for row, points in enumerate(poses):
        head = head_circle(points, width / height)
        if head is not None:
            (cx, cy), radius = head
            regions[row, 0] = np.hypot(x - cx * width / height, y - cy) <= max(radius, 1 / height)
    return torch.from_numpy(regions)
