"""One picture: the person found, framed, and described."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from bolid.pictures import Frame, PictureError, cut, load_picture
from bolid.preparation.gather import Photo
from bolid.preparation.settings import PictureFormat, Settings
from bolid.reference import MARGIN, SMALL, require_person

LARGEST = 4096  # px a side that a picture is worked on at; persons in larger ones are large enough
SECOND = 0.25  # a second person of this share of the first one's box makes a picture of two people


@dataclass(frozen=True, eq=False)
class Found:
    """One picture's person. image, masks: files (JPEG or PNG; masks are PNG, labels 0 ... 4); keypoints:
    float32 [18, 3]; face: float32 [D], None where no face was seen; digest: of the pixels.
    """

    image: bytes
    masks: bytes
    keypoints: np.ndarray
    face: np.ndarray | None
    caption: str
    digest: str


class Examiner:
    """Finds the person in pictures; holds the networks, so a process makes one and keeps it."""

    def __init__(self, settings: Settings, device: str = "cpu") -> None:
        from bolid.estimators.choice import open_estimator
        from bolid.estimators.photo import Networks

        self.settings, self.device = settings, device
        self.networks = Networks()
        self.estimator = open_estimator(
            settings.estimators, device=device, mini=settings.mini, people=settings.people,
            keypoints=settings.keypoints, parts=settings.parts,
        )  # fmt: skip

    def __call__(self, photo: Photo) -> Found:
        """Raises ValueError (a sentence) for a picture that gives no row."""
        source = read(photo)
        box = self._one_person(source)
        frame = person_frame(box, source.shape[:2], self.settings.height, self.settings.width)
        image = cut(source, frame, self.settings.height, self.settings.width)
        from bolid.estimator import Estimate  # brings torch, which a mistake need not wait for

        keypoints, parts = self.estimator.look(image, within(box, frame, image.shape[:2]))
        require_person(Estimate(keypoints[None], parts[None], np.ones(1, np.float32)), "picture")
        return Found(
            image=encoded(image, self.settings.picture_format),
            masks=encoded(parts, "png"),
            keypoints=keypoints,
            face=self._face(source, box),
            caption=self._caption(photo, image),
            digest=hashlib.sha256(image.tobytes()).hexdigest(),
        )

    def _one_person(self, source: np.ndarray) -> np.ndarray:
        """The person's box [4] in pixels."""
        boxes = self.estimator.people(source)
        if not len(boxes):
            raise ValueError("no person was found; give a picture that shows one person, best the whole body")
        count = int((boxes.areas >= SECOND * boxes.areas[0]).sum())
        if count > 1 and self.settings.several == "reject":
            raise ValueError(
                f"it shows {count} people; crop it to one, or take the largest person by --several largest"
            )
        tall = float(boxes.xyxy[0, 3] - boxes.xyxy[0, 1])
        wide = float(boxes.xyxy[0, 2] - boxes.xyxy[0, 0])
        if max(tall, wide) < self.settings.least_height:
            raise ValueError(
                f"the person is too small: {tall:.0f} pixels high, at least {self.settings.least_height} are "
                "wanted; give a larger picture, or lower --min_person"
            )
        return boxes.xyxy[0]

    def _face(self, source: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        """The embedding of the largest face whose middle lies in the person's box."""
        if self.settings.face is None:
            return None
        for face in self.networks.get("face", self.settings.face, self.device)(source):
            middle = (face.box[:2] + face.box[2:]) / 2
            if (middle >= box[:2]).all() and (middle <= box[2:]).all():
                return face.embedding
        return None

    def _caption(self, photo: Photo, image: np.ndarray) -> str:
        if photo.caption:
            return photo.caption
        if self.settings.captioner is not None:
            return self.networks.get("caption", self.settings.captioner, self.device)(image)
        return self.settings.caption_template.format(person=photo.person)


def read(photo: Photo) -> np.ndarray:
    """The picture as uint8 [H, W, 3], at most 4096 px a side. Raises ValueError (a sentence)."""
    if isinstance(photo.data, Path):
        picture = load_picture(photo.data, "picture")
    else:
        try:
            picture = load_picture(Image.open(io.BytesIO(photo.data)), f"picture {photo.key}")
        except PictureError:
            raise
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise PictureError(f"{photo.key} is not a picture, or is damaged ({error})") from error
    picture.thumbnail((LARGEST, LARGEST))
    return np.array(picture)  # a copy: torch wants it writable


def person_frame(box: np.ndarray, size: tuple[int, ...], height: int, width: int) -> Frame:
    """The window of a picture of `size` (height, width) that a row shows, of the proportions height : width.

    It holds the person's box with a margin of 12 %, is as large as the picture allows but no more than twice
    the person, and lies inside the picture where it can.
    """
    ratio = height / width
    extent = max(box[3] - box[1], (box[2] - box[0]) * ratio)  # height of the frame that the box just fills
    inside = min(size[0], size[1] * ratio)  # the largest frame that lies in the picture
    tall = max(extent * (1 + 2 * MARGIN), min(inside, extent / SMALL))
    if extent <= inside < tall:  # the margin alone reaches out of the picture: then without it
        tall = inside
    wide = tall / ratio
    left = _placed((box[0] + box[2]) / 2 - wide / 2, wide, size[1])
    top = _placed((box[1] + box[3]) / 2 - tall / 2, tall, size[0])
    return Frame(left, top, wide, tall)


def _placed(start: float, length: float, whole: float) -> float:
    """The start moved so that the window lies inside; a window longer than the picture is centred."""
    return float(np.clip(start, 0, whole - length)) if length <= whole else (whole - length) / 2


def within(box: np.ndarray, frame: Frame, size: tuple[int, ...]) -> np.ndarray:
    """A box in the source's pixels -> the frame's, clipped to the picture of `size`."""
    scale = np.array([size[1] / frame.width, size[0] / frame.height] * 2)
    moved = (box - np.array([frame.left, frame.top] * 2)) * scale
    return np.clip(moved, 0, (size[1], size[0], size[1], size[0])).astype(np.float32)


def encoded(image: np.ndarray, kind: PictureFormat) -> bytes:
    """The file of a picture uint8 [H, W, 3] or of labels uint8 [H, W]."""
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind == "jpeg" else {"optimize": False}
    Image.fromarray(image).save(file, format=kind.upper(), **options)
    return file.getvalue()


def scene_without(image: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The picture with the person blurred away: what a scene prompt may show. uint8 [H, W, 3].

    The hole is filled from its surroundings, coarse to fine: every level of a pyramid takes the mean of what
    is known, and hands it down to where nothing is.
    """
    reach = max(3, image.shape[0] // 40) | 1  # px that the silhouette is widened, so that no edge tells of it
    known = 1 - cv2.dilate((parts > 0).astype(np.uint8), np.ones((reach, reach), np.uint8)).astype(np.float32)
    colours = image.astype(np.float32) * known[..., None]
    return _filled(colours, known).round().clip(0, 255).astype(np.uint8)


def _filled(colours: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Colours (times their weight) [H, W, 3] and weights [H, W] -> colours everywhere."""
    height, width = known.shape
    own = colours / np.maximum(known, 1e-6)[..., None]
    if min(height, width) <= 2 or known.min() >= 1:
        weight = known.sum()
        mean = colours.sum((0, 1)) / weight if weight > 0 else np.full(3, 127.0)
        return np.where(known[..., None] > 0, own, mean)
    size = ((width + 1) // 2, (height + 1) // 2)
    coarse = _filled(
        cv2.resize(colours, size, interpolation=cv2.INTER_AREA),
        cv2.resize(known, size, interpolation=cv2.INTER_AREA),
    )
    wide = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    share = np.minimum(known, 1)[..., None]
    return own * share + wide * (1 - share)
