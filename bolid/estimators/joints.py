"""Key-points of public estimators -> the 18 OpenPose joints of `bolid.pose`."""

from __future__ import annotations

from typing import Any

import numpy as np

from bolid.pose import FACE

# COCO-17: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles, left before right.
_FROM_COCO = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)  # -1: the neck, made below
_NECK = 1
_COCO_SHOULDERS = (5, 6)
# Score of the estimator -> confidence of bolid.pose: heat-map peaks of a joint in plain view are 0.5 to 1,
# those of a hidden one mostly 0.2 to 0.5.
LEAST, SEEN = 0.2, 0.5
_SCORES, _CONFIDENCES = (LEAST, SEEN, 0.9), (0.3, 0.75, 1.0)


def confidences(scores: np.ndarray) -> np.ndarray:
    """Scores [..., 18] of a heat-map network -> confidences as `bolid.pose` has them, float32.

    Below 0.2 a joint is unknown (0); 0.2 to 0.5 is hidden but placed (0.3 to 0.75), above it is seen. A joint
    of the face that is not seen is 0: that tells a back view from a front view.
    """
    sure = np.interp(scores, _SCORES, _CONFIDENCES)
    sure[scores < LEAST] = 0.0
    face = np.isin(np.arange(scores.shape[-1]), FACE)
    sure[(scores < SEEN) & face] = 0.0
    return sure.astype(np.float32)


def from_coco(points: np.ndarray, scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """COCO-17 joints in pixels [..., 17, 2] with scores [..., 17] -> float32 [..., 18, 3], x, y in [0, 1].

    size: (height, width) of the picture. The neck is the middle of the shoulders, as sure as the less sure of
    them. Unknown joints are (0, 0, 0). Raises ValueError for another number of joints.
    """
    if points.shape[-2:] != (17, 2) or scores.shape != points.shape[:-1]:
        raise ValueError(
            f"key-points are {list(points.shape)} with scores {list(scores.shape)}; a COCO body has [17, 2] "
            "and [17]: use a key-point model trained on COCO bodies"
        )
    left, right = _COCO_SHOULDERS
    places = points[..., _FROM_COCO, :].astype(np.float64)
    certain = scores[..., _FROM_COCO].astype(np.float64)
    places[..., _NECK, :] = (points[..., left, :] + points[..., right, :]) / 2
    certain[..., _NECK] = np.minimum(scores[..., left], scores[..., right])
    return _finished(places / (size[1], size[0]), confidences(certain))


def from_openpose(body: Any) -> np.ndarray:
    """One body of controlnet_aux's OpenPose (x, y in [0, 1], None where not found) -> float32 [18, 3].

    OpenPose drops what it is unsure of, so a joint that is there is seen.
    """
    points = np.zeros((18, 3), np.float64)
    for joint, found in enumerate(body.keypoints):
        if found is not None:
            points[joint] = (found.x, found.y, 1.0)
    return _finished(points[:, :2], points[:, 2])


def from_dwpose(points: np.ndarray, scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Whole bodies of controlnet_aux's DWPose -> float32 [N, 18, 3].

    points: [N, 134, 2] px, of which the first 18 are the body in OpenPose's order; scores [N, 134].
    """
    return _finished(points[:, :18] / (size[1], size[0]), confidences(scores[:, :18].astype(np.float64)))


def _finished(places: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Joins both, kept within a picture's width of the frame; unknown joints are zeros."""
    points = np.concatenate([np.clip(places, -1, 2), confidence[..., None]], axis=-1)
    points[confidence <= 0] = 0.0
    return points.astype(np.float32)
