"""What the page shows of a person, a pose and the progress: pictures and small pieces of HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from bolid.pose import COLOURS, DRAWN, FACE, LIMBS, PARTS, POSES, SEEN, skeleton_map
from bolid.reference import Reference
from bolid.space.studio import Progress

PART_COLOURS = ((255, 190, 60), (235, 70, 90), (70, 130, 240), (60, 200, 120))  # head, upper, lower, feet
NAME_HEIGHT = 36  # pixels under a pose thumbnail
SHOWN_HEIGHT = 480  # pixels at least of a picture that is drawn over
PART_WORDS = ("head", "upper body", "lower body", "feet")


def found_picture(person: Reference) -> Image.Image:
    """The reference with its parts tinted, the box around them and the skeleton drawn over."""
    scale = max(1, -(-SHOWN_HEIGHT // person.image.shape[0]))
    size = (person.image.shape[1] * scale, person.image.shape[0] * scale)
    image = cv2.resize(person.image, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    parts = np.asarray(cv2.resize(person.parts, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    tints = np.array([(0, 0, 0), *PART_COLOURS], np.float32)[parts]
    image = np.where(parts[..., None] > 0, 0.6 * image + 0.4 * tints, 0.75 * image + 60)
    canvas = np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))
    rows, columns = np.nonzero(parts)
    if len(rows):
        corners = (int(columns.min()), int(rows.min())), (int(columns.max()), int(rows.max()))
        cv2.rectangle(canvas, *corners, (255, 255, 255), 3)
        cv2.rectangle(canvas, *corners, (20, 20, 20), 1)
    _draw_bones(canvas, person.keypoints)
    return Image.fromarray(canvas)


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image | None:
    """Pictures of one height in a row; None for none."""
    return Image.fromarray(np.hstack([np.asarray(each) for each in pictures])) if pictures else None


def _draw_bones(canvas: np.ndarray, points: np.ndarray) -> None:
    places = (points[:, :2] * canvas.shape[1::-1]).round().astype(int)
    width = max(2, canvas.shape[0] // 120)
    for colour, (a, b) in zip(COLOURS, LIMBS, strict=False):
        if min(points[a, 2], points[b, 2]) > DRAWN:
            cv2.line(canvas, places[a].tolist(), places[b].tolist(), colour, width, cv2.LINE_AA)
    for colour, place, sure in zip(COLOURS, places, points[:, 2], strict=True):
        if sure > DRAWN:
            cv2.circle(canvas, place.tolist(), width + 1, (20, 20, 20), -1, cv2.LINE_AA)
            cv2.circle(canvas, place.tolist(), width, colour, -1, cv2.LINE_AA)


def found_words(people: Sequence[Reference]) -> str:
    """One sentence per picture: parts and joints seen, and whether there is a face."""
    lines = []
    for place, person in enumerate(people, 1):
        names = [word for word, here in zip(PART_WORDS, person.present, strict=True) if here]
        gone = [word for word, here in zip(PART_WORDS, person.present, strict=True) if not here]
        joints = int((person.keypoints[:, 2] >= 0.3).sum())
        face = "face seen" if (person.keypoints[list(FACE)[:3], 2] >= SEEN).sum() >= 2 else "no face seen"
        start = f"Picture {place}: person found" if len(people) > 1 else "Person found"
        lines.append(f"{start}: {', '.join(names)}; {joints} of 18 joints; {face}.")
        if gone:
            lines[-1] += f" Not seen, so invented where the pose shows it: {', '.join(gone)}."
    return _box("<br>".join(map(html.escape, lines)), "good")


def trouble(sentence: str) -> str:
    """A mistake, told in the page."""
    return _box(html.escape(sentence[:1].upper() + sentence[1:]), "bad")


def note(sentence: str) -> str:
    return _box(html.escape(sentence), "")


def _box(inner: str, kind: str) -> str:
    return f'<div class="bolid-note {kind}" role="status" aria-live="polite">{inner}</div>'


def thumbnails(height: int = 144, width: int = 96) -> list[tuple[Image.Image, str]]:
    """Every named pose as (skeleton, name)."""
    maps = skeleton_map(np.stack(list(POSES.values())), height * 2, width * 2)
    room = np.zeros((NAME_HEIGHT * 2, width * 2, 3), np.uint8)  # where the page lays the name over
    size = (width, height + NAME_HEIGHT)
    small = [
        Image.fromarray(np.vstack([drawn, room])).resize(size, Image.Resampling.LANCZOS) for drawn in maps
    ]
    return list(zip(small, POSES, strict=True))


def progress_view(progress: Progress) -> str:
    """A bar, its words, and the picture as it looks now (inline: no file is written for it)."""
    done = (progress.picture - 1) * progress.steps + progress.step
    words = f"Picture {progress.picture} of {progress.pictures}, step {progress.step} of {progress.steps}"
    shown = ""
    if progress.preview is not None:
        shown = f'<img src="{data_address(progress.preview)}" alt="the picture as it looks now">'
    total = progress.pictures * progress.steps
    bar = f'<progress max="{total}" value="{done}" aria-label="drawing">{words}</progress>'
    return f'<div class="bolid-live">{shown}<div>{words}</div>{bar}</div>'


def data_address(image: Image.Image) -> str:
    """A picture as a data: address (JPEG)."""
    with io.BytesIO() as file:
        image.convert("RGB").save(file, "JPEG", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def strengths_words() -> dict[str, str]:
    """Label of every part's slider."""
    return dict(zip(PARTS, (word.capitalize() for word in PART_WORDS), strict=True))
