"""One row of a dataset as arrays of the working size: pictures decoded and cropped, key-points and masks
following."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from bolid.pictures import READ_FORMATS, Frame, cut, load_picture, whole_frame
from bolid.pose import PARTS

FARTHEST = 4.0  # a coordinate beyond it, in pictures, is a pixel's or an error
ROOM = 0.04  # around the joints, as a share of the picture, that a crop keeps if it can


class RowError(ValueError):
    """What is wrong with one row of a dataset, and what cures it."""


@dataclass(frozen=True)
class View:
    """One picture at working size. image: uint8 [H, W, 3]; keypoints: float32 [18, 3], x, y in [0, 1] of this
    window; masks: uint8 [H, W], part labels; window: (height, width) of the source, (top, left) of the window
    in it, px.
    """

    image: np.ndarray
    keypoints: np.ndarray
    masks: np.ndarray
    window: tuple[int, int, int, int]


def read_view(
    cells: Mapping[str, Any], prefix: str, row: int, height: int, width: int, *, crop: bool = True
) -> View:
    """The picture of a row with its key-points and masks.

    cells: by our names (`sources.Columns.read`); prefix: "" or "reference_"; crop: fill the frame around the
    person, where it fits; False keeps the whole picture in view, its border continued, as a user's reference.
    Raises RowError that names row and column.
    """
    name = "reference" if prefix else "image"
    where = place_of(cells, row)
    image = np.asarray(read_picture(cells[name], f"{name} of {where}"))
    points = read_keypoints(cells[f"{prefix}keypoints"], f"{prefix}keypoints of {where}")
    masks = read_labels(cells[f"{prefix}masks"], image.shape[:2], f"{prefix}masks of {where}")
    size = (image.shape[0], image.shape[1])
    frame = person_frame(size, points, height, width) if crop else whole_frame(size, height, width)
    placed = points[:, :2].any(axis=1)
    points[placed, :2] = frame.to_frame(points[placed, :2], size)
    return View(
        image=cut(image, frame, height, width),
        keypoints=points,
        masks=cut(masks, frame, height, width, labels=True),
        window=(*size, max(0, round(frame.top)), max(0, round(frame.left))),
    )


def place_of(cells: Mapping[str, Any], row: int) -> str:
    """How messages name a row."""
    file = cells.get("file")
    return f"row {row:,}" + (f" ({file})" if file else "")


def person_frame(size: tuple[int, int], points: np.ndarray, height: int, width: int) -> Frame:
    """The largest window of the proportions height : width inside a picture, moved so that it holds the
    person.

    size: (height, width) of the picture; points: [18, 3] in its shares. A person that fits into no such
    window gets the smallest frame around the whole picture.
    """
    scale = min(size[0] / height, size[1] / width)
    tall, wide = height * scale, width * scale
    seen = points[points[:, :2].any(axis=1), :2].clip(0, 1)
    if not len(seen):
        return Frame((size[1] - wide) / 2, (size[0] - tall) / 2, wide, tall)
    low = (seen.min(0) - ROOM).clip(0) * (size[1], size[0])
    high = (seen.max(0) + ROOM).clip(max=1) * (size[1], size[0])
    if (high - low > (wide + 1, tall + 1)).any():
        return whole_frame(size, height, width)
    left, top = np.clip((low + high - (wide, tall)) / 2, 0, (size[1] - wide, size[0] - tall))
    return Frame(float(left), float(top), wide, tall)


def read_picture(cell: Any, what: str) -> Image.Image:
    """An undecoded cell (path, bytes, {"bytes", "path"}) or a decoded one as 8-bit RGB, upright.

    Raises RowError naming `what`.
    """
    try:
        return load_picture(_opened(cell, what), what)
    except RowError:
        raise
    except ValueError as error:
        raise RowError(
            f"{error}; mend or remove that row, or go on without it: data.on_error=skip"
        ) from error


def _opened(cell: Any, what: str) -> Any:
    """The cell as `load_picture` takes it; a picture from bytes is opened, not yet decoded."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, str) and "://" in cell:  # inside an archive, or on the Hub
        import fsspec

        with fsspec.open(cell, "rb") as file:
            cell = file.read()  # pyright: ignore[reportAttributeAccessIssue] - one path gives one file
    if cell is None:
        raise RowError(f"{what} is empty; mend or remove that row, or go on without it: data.on_error=skip")
    if not isinstance(cell, bytes | bytearray):
        return cell
    try:
        Image.init()
        return Image.open(io.BytesIO(cell), formats=[name for name in READ_FORMATS if name in Image.OPEN])
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RowError(
            f"{what} is not a picture, or is damaged; mend or remove that row, or go on without it: "
            "data.on_error=skip"
        ) from error


def read_keypoints(cell: Any, what: str) -> np.ndarray:
    """float32 [18, 3], a copy. Raises RowError for another shape, NaN, pixels, or a confidence beyond [0,
    1]."""
    try:
        points = np.array(cell, np.float32)
    except (TypeError, ValueError):
        points = np.empty(0, np.float32)
    if points.shape != (18, 3):
        raise RowError(
            f"{what} have shape {list(points.shape)}; [18, 3] is needed: x, y, confidence per joint."
        )
    if not np.isfinite(points).all():
        raise RowError(f"{what} hold NaN or infinity; write an unknown joint as (0, 0, 0).")
    if np.abs(points[:, :2]).max() > FARTHEST:
        raise RowError(
            f"{what} reach {np.abs(points[:, :2]).max():.6g}: x and y lie in [0, 1]; if they are pixels, "
            "divide x by the picture's width and y by its height."
        )
    if points[:, 2].min() < 0 or points[:, 2].max() > 1:
        raise RowError(f"{what}: the third value is {points[:, 2].max():.6g}; it is a confidence in [0, 1].")
    return points


def read_labels(cell: Any, size: tuple[int, ...], what: str) -> np.ndarray:
    """uint8 [H, W] of part labels. Raises RowError for another size than `size` or labels beyond 4."""
    if isinstance(cell, Mapping) and not cell.get("bytes") and cell.get("path"):
        cell = Path(cell["path"]).read_bytes() if Path(cell["path"]).is_file() else cell
    opened = _opened(cell, what)
    try:
        labels = np.asarray(Image.open(opened) if isinstance(opened, str | Path) else opened)
    except (OSError, SyntaxError, ValueError) as error:
        raise RowError(
            f"{what} are damaged ({error}); data.on_error=skip goes on without that row."
        ) from error
    if labels.ndim != 2 or labels.max(initial=0) > len(PARTS):
        raise RowError(
            f"{what} are {list(labels.shape)} with values up to {labels.max(initial=0)}; one channel of part "
            f"labels 0 ... {len(PARTS)} is needed (a PNG of mode L)."
        )
    if labels.shape != tuple(size):
        raise RowError(
            f"{what} are {labels.shape[0]} x {labels.shape[1]}, their picture {size[0]} x {size[1]} "
            "(height x width): save them at the picture's own size."
        )
    return labels.astype(np.uint8)
