"""How like the person a picture is, and how well it keeps the pose: figures with the networks' names."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from bolid.evaluators import AppearanceEvaluator, PoseEvaluator
from bolid.metrics import pck
from bolid.pose import PARTS
from bolid.reference import MIN_PART_PIXELS, PERSON, Reference

SHAPE_TOLERANCE = 0.02  # a picture of other proportions would be squeezed by the networks: not measured


@dataclass(frozen=True)
class Measured:
    """Figures of one picture; None where nothing could be measured.

    likeness: cosine of the appearance embeddings of picture and reference, -1 to 1, the mean over several
    references; accuracy: share of the pose's visible joints found within a tenth of the body's box.
    """

    likeness: float | None = None
    accuracy: float | None = None


class Networks(Protocol):
    """What looks at a picture."""

    by: str  # the networks' names, for the page and the API

    def look(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3] -> key-points [18, 3], and embeddings [K, E] of unit length; NaN rows: not seen."""
        ...


class MiniEvaluators:
    """The evaluators of `eval/run.py`: no part of the pipeline, seen by no loss."""

    by = "the evaluators of eval/run.py, which took no part in making the picture"

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.pose = PoseEvaluator.from_pretrained(Path(folder) / "pose").eval()
        self.appearance = AppearanceEvaluator.from_pretrained(Path(folder) / "appearance").eval()

    def look(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = self.pose.predict(picture[None])
        return points[0], self.appearance.predict(picture[None], points).body


class OwnNetworks:
    """The pipeline's own estimator and identity encoder: kinder to its pictures than a stranger would be."""

    by = "the pipeline's own estimator and encoder, which are kind to its own pictures"

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def look(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self.pipe.estimator.predict(picture)
        seen = np.bincount(found.parts[0].ravel(), minlength=len(PARTS) + 1)[1:] >= MIN_PART_PIXELS
        if found.person[0] < PERSON or not seen.any():
            return found.keypoints[0], np.full((1, 1), np.nan)
        person = self.pipe.encode_identity(Reference(picture, found.keypoints[0], found.parts[0]))
        rows = person.tokens.float().cpu().numpy()
        rows[~person.present.cpu().numpy()] = np.nan
        return found.keypoints[0], rows / np.linalg.norm(rows, axis=1, keepdims=True)


def choose_networks(pipe: Any, evaluators: Path) -> Networks | None:
    """The mini evaluators for avatars where their folder is there, else the pipeline's own; None without."""
    if pipe.draws_avatars and (evaluators / "pose" / "config.json").is_file():
        return MiniEvaluators(evaluators)
    complete = None not in (pipe.estimator, pipe.adapter, pipe.image_encoder)
    return OwnNetworks(pipe) if complete else None


def measure(
    networks: Networks | None, image: Image.Image, people: Sequence[Reference], target: np.ndarray | None
) -> Measured:
    """Figures of a drawn picture. target: key-points [18, 3] in its frame, or None for the free pose.

    people: the references, empty where nobody was to be kept.
    """
    if networks is None or not (people or target is not None):
        return Measured()
    picture = np.array(image.convert("RGB"))  # writable, as torch wants it
    points, embedding = networks.look(picture)
    alike = [
        similarity(embedding, networks.look(person.image)[1])
        for person in people
        if _same_shape(person.image, picture)
    ]
    accuracy = None
    if target is not None:
        accuracy = _finite(float(pck(points[None], target[None], picture.shape[:2])[0]))
    return Measured(_finite(float(np.mean(alike))) if alike else None, accuracy)


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over the rows that both have of their cosine; a, b [K, E], rows of unit length or NaN.

    NaN where they share no row.
    """
    if a.shape != b.shape:
        return math.nan
    cosines = (a * b).sum(1)
    known = np.isfinite(cosines)
    return float(cosines[known].mean()) if known.any() else math.nan


def _same_shape(a: np.ndarray, b: np.ndarray) -> bool:
    ratios = [each.shape[1] / each.shape[0] for each in (a, b)]
    return abs(ratios[0] / ratios[1] - 1) < SHAPE_TOLERANCE


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
