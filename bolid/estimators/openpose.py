"""Key-points by controlnet_aux: OpenPose, and DWPose where OpenMMLab's packages are installed."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
import torch

from bolid.estimators.catalogue import Weights, fetch_file, require_packages
from bolid.estimators.joints import from_dwpose, from_openpose

LEAST_OVERLAP = 0.1  # of a body's key-point box and a person's box (intersection over union) to be the same


class OpenPoseKeypoints:
    """controlnet_aux's OpenPose. It finds all bodies at once; each box takes the one that overlaps it most.

    CMU's licence of model and code allows non-commercial use only.
    """

    def __init__(self, detector: Any) -> None:
        self.detector = detector

    @classmethod
    def open(cls, weights: Weights, device: torch.device | str = "cpu") -> Self:
        require_packages(weights)
        path = fetch_file(weights, weights.repo, weights.files[0])
        with warnings.catch_warnings():  # its import tells of mediapipe and other optional parts
            warnings.simplefilter("ignore")
            from controlnet_aux.open_pose import OpenposeDetector  # pyright: ignore[reportMissingImports]
            from controlnet_aux.open_pose.body import Body  # pyright: ignore[reportMissingImports]
        return cls(OpenposeDetector(Body(path))).to(device)

    def to(self, device: torch.device | str) -> Self:
        self.detector.body_estimation.to(device)
        return self

    def __call__(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Key-points float32 [N, 18, 3] of the bodies in the boxes [N, 4] (px); zeros where there is none."""
        found = [from_openpose(pose.body) for pose in self.detector.detect_poses(image)]
        return matched(np.array(found, np.float32).reshape(-1, 18, 3), boxes, image.shape[:2])


class DWPoseKeypoints:
    """controlnet_aux's DWPose, which needs mmcv, mmdet and mmpose."""

    def __init__(self, detector: Any) -> None:
        self.detector = detector

    @classmethod
    def open(cls, weights: Weights, device: torch.device | str = "cpu") -> Self:
        require_packages(weights)
        path = fetch_file(weights, weights.repo, weights.files[0])
        from controlnet_aux import DWposeDetector  # pyright: ignore[reportMissingImports]

        return cls(DWposeDetector(pose_ckpt=path, device=str(device)))

    def to(self, device: torch.device | str) -> Self:
        self.detector.to(device)
        return self

    def __call__(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """As `OpenPoseKeypoints`."""
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        points, scores = self.detector.pose_estimation(bgr)
        return matched(from_dwpose(points, scores, (image.shape[0], image.shape[1])), boxes, image.shape[:2])


def matched(bodies: np.ndarray, boxes: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Bodies [M, 18, 3] -> [N, 18, 3], for every box (px) the body whose extent overlaps it most.

    A box that no body overlaps by a tenth (intersection over union) gets zeros.
    """
    result = np.zeros((len(boxes), 18, 3), np.float32)
    extents = [_extent(body, size) for body in bodies]
    for row, box in enumerate(boxes):
        overlaps = [_overlap(extent, box) for extent in extents]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if best >= 0 and overlaps[best] >= LEAST_OVERLAP:
            result[row] = bodies[best]
    return result


def _extent(body: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    places = body[body[:, 2] > 0, :2] * (size[1], size[0])
    return np.concatenate([places.min(0), places.max(0)]) if len(places) else np.zeros(4)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes [4]."""
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    shared = float(sides.prod())
    union = float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - shared
    return shared / union if union > 0 else 0.0
