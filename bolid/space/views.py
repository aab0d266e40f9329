"""What the page shows of a person, a pose and the progress: pictures and small pieces of HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bolid.pose import COLOURS, DRAWN, FACE, LIMBS, PARTS, POSES, SEEN, skeleton_map
from bolid.reference import Reference
from bolid.space.measures import Measured
from bolid.space.studio import Progress

PART_COLOURS = ((255, 190, 60), (235, 70, 90), (70, 130, 240), (60, 200, 120))  # head, upper, lower, feet
NAME_HEIGHT = 34  # pixels under a pose thumbnail
THUMBNAIL_ROOM = 1.16  # side of a pose thumbnail over the skeleton's longer side
SHOWN_HEIGHT = 480  # pixels at least of a picture that is drawn over
PART_WORDS = ("head", "upper body", "lower body", "feet")
LABEL_HEIGHT = 22  # pixels over a picture of a strip
GAP = 6  # pixels between the pictures of a strip
PAPER, INK = (250, 250, 252), (20, 22, 30)  # of a strip


def found_picture(person: Reference) -> Image.Image:
    """The reference with its parts tinted, boxes around person and face, and the skeleton drawn over."""
    scale = max(1, -(-SHOWN_HEIGHT // person.image.shape[0]))
    size = (person.image.shape[1] * scale, person.image.shape[0] * scale)
    image = cv2.resize(person.image, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    parts = np.asarray(cv2.resize(person.parts, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    tints = np.array([(0, 0, 0), *PART_COLOURS], np.float32)[parts]
    image = np.where(parts[..., None] > 0, 0.6 * image + 0.4 * tints, 0.75 * image + 60)
    canvas = np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))
    rows, columns = np.nonzero(parts)
    if len(rows):
        _draw_box(canvas, (columns.min(), rows.min(), columns.max(), rows.max()), (255, 255, 255))
    if has_face(person):
        face = person.keypoints[list(FACE)]
        places = face[face[:, 2] >= SEEN, :2] * canvas.shape[1::-1]
        (left, top), (right, bottom) = places.min(0), places.max(0)
        half = 0.55 * max(right - left, bottom - top, 0.05 * canvas.shape[0])  # eyes and nose only: widen it
        x, y = (left + right) / 2, (top + bottom) / 2
        _draw_box(canvas, (x - half, y - half, x + half, y + half), (255, 235, 60))
    _draw_bones(canvas, person.keypoints)
    return Image.fromarray(canvas)


def _draw_box(canvas: np.ndarray, box: Sequence[Any], colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = (round(float(each)) for each in box)
    for inked, width in (((20, 20, 20), 5), (colour, 2)):
        cv2.rectangle(canvas, (left, top), (right, bottom), inked, width)


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


def has_face(person: Reference) -> bool:
    """Whether two of nose and eyes are seen."""
    return int((person.keypoints[list(FACE)[:3], 2] >= SEEN).sum()) >= 2


def found_words(people: Sequence[Reference]) -> str:
    """One sentence per picture: parts and joints seen, and whether there is a face."""
    lines = [
        found_line(person, f"Picture {place}: person" if len(people) > 1 else "Person")
        for place, person in enumerate(people, 1)
    ]
    return _box("<br>".join(map(html.escape, lines)), "good")


def found_line(person: Reference, start: str) -> str:
    """What was found in one picture, and what was not."""
    names = [word for word, here in zip(PART_WORDS, person.present, strict=True) if here]
    gone = [word for word, here in zip(PART_WORDS, person.present, strict=True) if not here]
    joints = int((person.keypoints[:, 2] >= 0.3).sum())
    face = "face seen" if has_face(person) else "no face seen"
    line = f"{start} found: {', '.join(names) or 'no part'}; {joints} of 18 joints; {face}."
    return f"{line} Not seen, so invented where the pose shows it: {', '.join(gone)}." if gone else line


def trouble(sentence: str, *more: str) -> str:
    """A mistake, told in the page; `more`: further sentences, a line each."""
    lines = (sentence[:1].upper() + sentence[1:], *more)
    return _box("<br>".join(map(html.escape, lines)), "bad")


def note(sentence: str) -> str:
    return _box(html.escape(sentence), "")


def _box(inner: str, kind: str) -> str:
    return f'<div class="bolid-note {kind}">{inner}</div>'


def thumbnails(side: int = 104) -> list[tuple[Image.Image, str]]:
    """Every named pose as (skeleton that fills a square of `side` pixels, name)."""
    maps = skeleton_map(np.stack([_filling(points) for points in POSES.values()]), side * 2, side * 2)
    room = np.zeros((NAME_HEIGHT * 2, side * 2, 3), np.uint8)  # where the page lays the name over
    size = (side, side + NAME_HEIGHT)
    small = [
        Image.fromarray(np.vstack([drawn, room])).resize(size, Image.Resampling.LANCZOS) for drawn in maps
    ]
    return list(zip(small, POSES, strict=True))


def _filling(points: np.ndarray) -> np.ndarray:
    """A named pose [18, 3] of its frame of 2:3 -> of a square that it fills but for a margin."""
    placed = points[:, 2] > DRAWN
    places = points[:, :2] * (2, 3)
    low, high = places[placed].min(0), places[placed].max(0)
    filled = points.copy()
    filled[:, :2] = (places - (low + high) / 2) / (THUMBNAIL_ROOM * (high - low).max()) + 0.5
    return filled


def progress_view(progress: Progress) -> str:
    """A bar, its words, and the picture as it looks now (inline: no file is written for it)."""
    done = (progress.picture - 1) * progress.steps + progress.step
    words = f"Picture {progress.picture} of {progress.pictures}, step {progress.step} of {progress.steps}"
    shown = ""
    if progress.preview is not None:
        shown = f'<img src="{data_address(progress.preview)}" alt="the picture as it looks now">'
    total = progress.pictures * progress.steps
    bar = f'<progress max="{total}" value="{done}" aria-label="drawing">{words}</progress>'
    return f'<div class="bolid-live" aria-live="off">{shown}<div>{words}</div>{bar}</div>'


def data_address(image: Image.Image) -> str:
    """A picture as a data: address (JPEG)."""
    with io.BytesIO() as file:
        image.convert("RGB").save(file, "JPEG", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def strengths_words() -> dict[str, str]:
    """Label of every part's slider."""
    return dict(zip(PARTS, (word.capitalize() for word in PART_WORDS), strict=True))


def figures(measured: Measured) -> list[str]:
    """What was measured, in a caption's words."""
    words = [] if measured.likeness is None else [f"ID {measured.likeness:.2f}"]
    return words if measured.accuracy is None else [*words, f"pose {round(100 * measured.accuracy)} %"]


def details(kept: Mapping[str, Any]) -> str:
    """A picture's settings and figures, from the text in its PNG, as a small table."""
    measured = kept.get("measured") or {}
    rows = [
        ("ID similarity", _figure(measured.get("id_similarity"), "{:.2f}")),
        ("Pose accuracy", _figure(measured.get("pose_accuracy"), "{:.0%}")),
        ("Seed", kept.get("seed")),
        ("Pose", kept.get("pose") or ("own skeleton" if kept.get("keypoints") else "free")),
        ("Prompt", kept.get("prompt") or "none"),
        ("Steps, guidance", f"{kept.get('steps')}, {kept.get('guidance')}"),
    ]
    cells = "".join(f"<dt>{name}</dt><dd>{html.escape(str(value))}</dd>" for name, value in rows)
    by = measured.get("measured_by")
    foot = (
        ""
        if by is None
        else f"<p>ID similarity is a cosine, pose accuracy the share of joints within a \
tenth of the body's box; both by {html.escape(str(by))}.</p>"
    )
    return f'<div class="bolid-details"><dl>{cells}</dl>{foot}</div>'


def _figure(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else "not measured"


def strip(pictures: Sequence[Image.Image], labels: Sequence[str]) -> Image.Image:
    """Pictures of one size in a row, a label over each."""
    width, height = pictures[0].size
    across = len(pictures) * (width + GAP) + GAP
    canvas = Image.new("RGB", (across, height + LABEL_HEIGHT + GAP), PAPER)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for place, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        left = GAP + place * (width + GAP)
        pen.text((left + width / 2, LABEL_HEIGHT / 2), label, INK, font, anchor="mm")
        canvas.paste(picture, (left, LABEL_HEIGHT))
    return canvas
