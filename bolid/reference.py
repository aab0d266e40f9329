"""From a picture to a `Reference`: the person found, brought to the working size, with key-points and
parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bolid.pictures import NEUTRAL, Frame, PictureSource, cut, load_picture, whole_frame
from bolid.pose import PARTS, Pose

if TYPE_CHECKING:
    from bolid.estimator import Estimate, PersonEstimator

PERSON = 0.5  # probability from which a picture is held to show a person
CONFIDENT = 0.3  # confidence from which a joint counts as found
MIN_JOINTS = 5  # of 18: fewer do not place a body
MIN_PART_PIXELS = 12  # a part of fewer pixels counts as absent
SMALL = 0.5  # a person under this share of the frame, in height and width both, is looked at more closely
# Least `flatness` of a drawn picture. Avatars at their worst: 0.60 as PNG, 0.53 as a larger JPEG (q 60),
# 0.32 as a JPEG (quality 60) of 128 x 192. Photographs of people and places: 0.05 to 0.44.
FLAT_WHEN_SHRUNK = 0.47
FLAT_AS_IT_IS = 0.28
MARGIN = 0.12  # room left around such a person, in shares of the person's box


@dataclass(frozen=True, eq=False)
class Reference:
    """One picture of a person at working size, with what was found in it.

    image: uint8 [H, W, 3] RGB; keypoints: float32 [18, 3], x, y in [0, 1] and confidence (bolid.pose);
    parts: uint8 [H, W] label map, 0 background, i + 1 for part i of `PARTS`;
    frame: the window of the source picture that `image` shows.
    Raises ValueError when the shapes do not fit each other.
    """

    image: np.ndarray
    keypoints: np.ndarray
    parts: np.ndarray
    frame: Frame | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(
                f"image is {self.image.dtype} {list(self.image.shape)}; it must be uint8 RGB [H, W, 3]"
            )
        if self.parts.shape != self.image.shape[:2] or self.parts.max(initial=0) > len(PARTS):
            raise ValueError(
                f"parts are {list(self.parts.shape)}, labels up to {self.parts.max(initial=0)}; they must be "
                f"a label map of the image's size {list(self.image.shape[:2])} with labels 0 ... {len(PARTS)}"
            )
        object.__setattr__(self, "keypoints", Pose(self.keypoints).keypoints)
        object.__setattr__(self, "parts", self.parts.astype(np.uint8))

    @property
    def present(self) -> np.ndarray:
        """bool [4]: which parts can be seen."""
        counts = np.bincount(self.parts.ravel(), minlength=len(PARTS) + 1)
        return counts[1:] >= MIN_PART_PIXELS

    def without(self, absent: np.ndarray) -> Reference:
        """The same reference with the parts `absent` (bool [4]) taken out: pixels, labels, and the limbs'
        joints.
        """
        if not absent.any():
            return self
        gone = np.concatenate([[False], absent])[self.parts]
        image, parts, points = self.image.copy(), self.parts.copy(), self.keypoints.copy()
        image[gone], parts[gone] = NEUTRAL, 0
        if absent[1]:
            points[[3, 4, 6, 7]] = 0  # elbows and wrists; the torso's joints carry the head and the hips
        if absent[2] and absent[3]:
            points[[9, 10, 12, 13]] = 0  # knees and ankles
        return Reference(image, points, parts, self.frame)

    def resized(self, height: int, width: int) -> Reference:
        """The same reference in a picture of another size; the whole of it stays in view, its border
        continued.
        """
        size = self.image.shape[:2]
        if size == (height, width):
            return self
        frame = whole_frame(size, height, width)
        points = self.keypoints.copy()
        placed = points[:, :2].any(axis=1)
        points[placed, :2] = frame.to_frame(points[placed, :2], size)
        image, parts = (
            cut(self.image, frame, height, width),
            cut(self.parts, frame, height, width, labels=True),
        )
        return Reference(image, points, parts)  # `frame` speaks of the source picture and is lost here


def find_person(
    estimator: PersonEstimator,
    picture: PictureSource,
    height: int,
    width: int,
    *,
    avatars_only: bool = False,
    what: str = "reference",
) -> Reference:
    """Find the person in a picture and bring it to height x width.

    The whole picture is fitted in, its border continued; where the person is small in it, the frame closes
    in.
    avatars_only: refuse a photograph (the model knows drawn avatars only); what: the picture's name in
    messages.
    Raises ValueError when there is no picture, no person, or a photograph where only avatars are known.
    """
    source = np.asarray(load_picture(picture, what))
    frame = whole_frame(source.shape[:2], height, width)
    image = cut(source, frame, height, width)
    if avatars_only:
        refuse_photograph(image, frame.height / height, what)
    estimate = estimator.predict(image)
    require_person(estimate, what)
    closer = _closer_frame(estimate, frame, height / width)
    if closer is not None:
        nearer = cut(source, closer, height, width)
        second = estimator.predict(nearer)
        if second.person[0] >= PERSON and _joints(second) >= MIN_JOINTS:
            image, estimate, frame = nearer, second, closer
    return Reference(image, estimate.keypoints[0], estimate.parts[0], frame)


def _joints(estimate: Estimate) -> int:
    return int((estimate.keypoints[0, :, 2] >= CONFIDENT).sum())


def require_person(estimate: Estimate, what: str) -> None:
    """Raises ValueError unless the first picture of the estimate shows a person with enough of a body."""
    seen = int((estimate.parts[0] > 0).sum())
    if estimate.person[0] < PERSON or _joints(estimate) < MIN_JOINTS or seen < MIN_PART_PIXELS:
        raise ValueError(
            f"no person was found in the {what}; give a picture that shows one person, best the whole body, "
            "upright and not too small"
        )


def _closer_frame(estimate: Estimate, frame: Frame, ratio: float) -> Frame | None:
    """A frame of height / width `ratio` around a person that is small in `frame`; None where it is large
    enough.

    The proportions of `ratio` are those of the picture in pixels, so nothing is stretched.
    """
    points, parts = estimate.keypoints[0], estimate.parts[0]
    rows, columns = np.nonzero(parts)
    places = np.stack([(columns + 0.5) / parts.shape[1], (rows + 0.5) / parts.shape[0]], axis=1)
    found = np.concatenate([points[points[:, 2] >= CONFIDENT, :2], places])
    low, high = found.min(0), found.max(0)
    if (high - low).max() >= SMALL:
        return None
    size = (high - low) * (frame.width, frame.height) * (1 + 2 * MARGIN)
    tall = max(size[1], size[0] * ratio)
    middle = (low + high) / 2 * (frame.width, frame.height) + (frame.left, frame.top)
    return Frame(middle[0] - tall / ratio / 2, middle[1] - tall / 2, tall / ratio, tall)


def flatness(image: np.ndarray) -> float:
    """The share of pixels in flat patches: every channel varies by at most 4 levels over 3 x 3 pixels.

    image: uint8 [H, W, 3] at working size. Drawn surfaces are flat; sensor noise and texture are everywhere
    in a photograph.
    """
    kernel = np.ones((3, 3), np.uint8)
    spread = (cv2.dilate(image, kernel).astype(np.int16) - cv2.erode(image, kernel)).max(axis=-1)
    return float((spread <= 4).mean())


def refuse_photograph(image: np.ndarray, shrunk: float, what: str) -> None:
    """Raises ValueError when a picture looks like a photograph rather than a drawn avatar.

    image: uint8 [H, W, 3] at working size; shrunk: how many times larger its source is. A source of about the
    working size may carry a JPEG's blocks or a generator's softness, which shrinking would have removed, so
    less is asked of it.
    """
    if flatness(image) < (FLAT_WHEN_SHRUNK if shrunk >= 1.5 else FLAT_AS_IT_IS):
        raise ValueError(
            f"the {what} looks like a photograph, and this small model draws avatars only; "
            "give a picture of an avatar (examples/ has some), or load a model trained on photographs"
        )
