"""Face embeddings: insightface's FaceAnalysis (non-commercial weights), or OpenCV's YuNet and SFace."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np

from bolid.estimators.catalogue import (
    OPENCV_FACE_FILES,
    MissingModel,
    Weights,
    fetch_file,
    hub_reachable,
    insightface_folder,
    missing_message,
    require_packages,
)

DETECTION_SIZE = (640, 640)  # px; insightface's automatic sizes would run twice
LARGEST = 1600  # px; larger pictures are shrunk before faces are looked for
NOTICE = (
    "insightface's models are for non-commercial research only; use face='opencv-face' (Apache-2.0) for "
    "anything else"
)


@dataclass(frozen=True, eq=False)
class FaceFound:
    """One face. box: float32 [4], x1 y1 x2 y2 in pixels; embedding: float32 [D], as the network gives it (not
    normalised: checkpoints differ in what they want); score: of the detection, in [0, 1]; points: float32
    [5, 2] in pixels, left and right eye, nose, left and right corner of the mouth, as seen in the picture.
    """

    box: np.ndarray
    embedding: np.ndarray
    score: float
    points: np.ndarray

    @property
    def normalised(self) -> np.ndarray:
        """The embedding at length 1, as IP-Adapter-FaceID takes it."""
        return self.embedding / max(float(np.linalg.norm(self.embedding)), 1e-12)


class InsightFaces:
    """insightface's FaceAnalysis: embeddings of 512 by ArcFace, not normalised (InstantID, PuLID)."""

    width = 512

    def __init__(self, analysis: Any) -> None:
        self.analysis = analysis

    @classmethod
    def open(
        cls, weights: Weights, device: Any = "cpu", notify: Callable[[str], None] = warnings.warn
    ) -> Self:
        """Opens the pack of models and says by `notify` what its licence allows."""
        require_packages(weights)
        folder = Path(weights.repo) if Path(weights.repo).is_dir() else insightface_folder(pack=weights.repo)
        if folder is None and not hub_reachable():  # a proxy for "no network": the pack lies on GitHub
            raise MissingModel(missing_message(weights))
        from insightface.app import FaceAnalysis  # pyright: ignore[reportMissingImports]

        cuda = str(device).startswith("cuda")
        providers = (["CUDAExecutionProvider"] if cuda else []) + ["CPUExecutionProvider"]
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints its download's path
                analysis = FaceAnalysis(
                    str(folder or weights.repo),
                    allowed_modules=["detection", "recognition"],
                    providers=providers,
                )
        except (OSError, AssertionError, RuntimeError) as error:  # requests' errors are OSErrors
            raise MissingModel(missing_message(weights)) from error
        notify(NOTICE)
        analysis.prepare(ctx_id=0 if cuda else -1, det_size=DETECTION_SIZE)
        return cls(analysis)

    def to(self, device: Any) -> Self:  # noqa: ARG002 - the ONNX session stays where it was opened
        return self

    def __call__(self, image: np.ndarray) -> list[FaceFound]:
        """Faces with an embedding, the largest first. image: uint8 RGB [H, W, 3]."""
        small, scale = shrunk(image)
        return faces_of(self.analysis.get(np.ascontiguousarray(small[:, :, ::-1])), scale)


def faces_of(found: Sequence[Any], scale: float = 1.0) -> list[FaceFound]:
    """insightface's `Face` objects -> `FaceFound`, largest first; those without an embedding are left out."""
    faces = [
        FaceFound(
            np.asarray(face.bbox, np.float32) / scale,
            np.asarray(face.embedding, np.float32).reshape(-1),
            float(face.det_score or 0.0),
            np.asarray(face.kps, np.float32) / scale,
        )
        for face in found
        if face.embedding is not None
    ]
    return sorted(faces, key=lambda face: -float((face.box[2:] - face.box[:2]).prod()))


class OpenCvFaces:
    """OpenCV's YuNet finds faces, its SFace embeds them: 128 values, weights under MIT and Apache-2.0."""

    width = 128

    def __init__(self, detector: Any, recogniser: Any) -> None:
        self.detector, self.recogniser = detector, recogniser

    @classmethod
    def open(cls, weights: Weights, device: Any = "cpu") -> Self:  # noqa: ARG003 - OpenCV runs on the CPU
        """weights.repo: the catalogue's, or a folder that holds both files."""
        folder = weights.repo if Path(weights.repo).is_dir() else None
        detector, recogniser = (fetch_file(weights, folder or repo, file) for repo, file in OPENCV_FACE_FILES)
        try:
            return cls(
                cv2.FaceDetectorYN.create(detector, "", DETECTION_SIZE, 0.7),
                cv2.FaceRecognizerSF.create(recogniser, ""),
            )
        except cv2.error as error:
            raise ValueError(
                f"{detector} or {recogniser} is no model that OpenCV {cv2.__version__} reads; "
                f"fetch them again: {weights.command}"
            ) from error

    def to(self, device: Any) -> Self:  # noqa: ARG002 - OpenCV runs on the CPU
        return self

    def __call__(self, image: np.ndarray) -> list[FaceFound]:
        """As `InsightFaces`."""
        small, scale = shrunk(image)
        bgr = np.ascontiguousarray(small[:, :, ::-1])
        self.detector.setInputSize((bgr.shape[1], bgr.shape[0]))
        _, rows = self.detector.detect(bgr)
        return [self._face(bgr, row, scale) for row in by_size(rows)]

    def _face(self, bgr: np.ndarray, row: np.ndarray, scale: float) -> FaceFound:
        embedding = self.recogniser.feature(self.recogniser.alignCrop(bgr, row)).reshape(-1)
        return FaceFound(
            box_of(row) / scale, embedding.astype(np.float32), float(row[14]), points_of(row) / scale
        )


def box_of(row: np.ndarray) -> np.ndarray:
    """One of YuNet's rows [15] (x, y, width, height, five points, score) -> x1 y1 x2 y2."""
    return np.array([row[0], row[1], row[0] + row[2], row[1] + row[3]], np.float32)


def points_of(row: np.ndarray) -> np.ndarray:
    """One of YuNet's rows -> its five points [5, 2]; the person's right eye first, which is seen left."""
    return np.asarray(row[4:14], np.float32).reshape(5, 2)


def by_size(rows: np.ndarray | None) -> list[np.ndarray]:
    """YuNet's rows, largest face first; it gives None where there is none."""
    return [] if rows is None else sorted(rows, key=lambda row: -float(row[2] * row[3]))


def shrunk(image: np.ndarray) -> tuple[np.ndarray, float]:
    """The picture at 1600 px a side at most, and by how much it was scaled."""
    scale = min(1.0, LARGEST / max(image.shape[:2]))
    if scale == 1.0:
        return image, 1.0
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale
