"""What a user hands to the pipeline, checked and brought to one form, row by row."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from bolid.identity import Identity
from bolid.pictures import PictureSource, load_picture, whole_frame
from bolid.pose import PARTS, Pose, known, read_skeleton_map
from bolid.reference import Reference

ID_STRENGTH = 1.0  # of parts that a dict of strengths leaves out, and of a call that says nothing
PIXEL_LIKE = 4  # a coordinate beyond this cannot be a share of the picture
LARGEST_MAP = 1024  # pixels; skeleton maps are read at this height at most

PoseSource = str | Path | Image.Image | Pose | np.ndarray | Sequence[Any] | None
PersonSource = PictureSource | Reference | Identity


def number(value: Any, what: str, least: float = 0.0) -> float:
    """A finite number of at least `least`. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise ValueError(f"{what} is {value!r}; it must be a number of {least:g} or more")
    if value < least:
        raise ValueError(f"{what} is {value:g}; it must be {least:g} or more")
    return float(value)


def share(value: Any, what: str) -> float:
    """A number in [0, 1]. Raises ValueError."""
    found = number(value, what)
    if found > 1:
        raise ValueError(f"{what} is {found:g}; it must be in [0, 1]")
    return found


def count(value: Any, what: str) -> int:
    """A whole number of at least 1. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{what} is {value!r}; it must be a whole number of 1 or more")
    return int(value)


def picture_size(
    height: int | None, width: int | None, default: tuple[int, int], factor: int
) -> tuple[int, int]:
    """(height, width) in pixels. Raises ValueError unless both are positive multiples of `factor`."""
    size = (default[0] if height is None else height, default[1] if width is None else width)
    for name, value, usual in zip(("height", "width"), size, default, strict=True):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < factor or value % factor:
            near = max(factor, round(value / factor) * factor) if whole else usual
            raise ValueError(
                f"{name} is {value!r}; it must be a positive multiple of {factor}, for example {near}"
            )
    return int(size[0]), int(size[1])


def row_count(prompt: Any, embeds: torch.Tensor | None, *lists: list[Any] | None) -> int:
    """How many prompts the call has. Raises ValueError when there is no prompt, or the lists disagree."""
    if embeds is not None:
        sizes = {len(embeds)}
    elif isinstance(prompt, str):
        sizes = {1}
    elif isinstance(prompt, list) and prompt and all(isinstance(text, str) for text in prompt):
        sizes = {len(prompt)}
    else:
        raise ValueError(f"prompt is {prompt!r}; give a text, or a list of texts")
    sizes |= {len(each) for each in lists if each is not None}
    sizes.discard(1)
    if len(sizes) > 1:
        raise ValueError(
            f"prompts, references, poses and image prompts come in lists of {sorted(sizes)}; "
            "give one of each, or as many as prompts"
        )
    rows = sizes.pop() if sizes else 1
    if embeds is not None and len(embeds) != rows:
        raise ValueError(f"prompt_embeds have {len(embeds)} rows, the lists {rows}; repeat the embeddings")
    return rows


def text_rows(text: str | list[str] | None, rows: int, as_list: bool = False) -> str | list[str] | None:
    """A text for every row; a single one stays what it is, unless a list is wanted."""
    if text is None or (rows == 1 and not as_list):
        return text
    texts = [text] if isinstance(text, str) else text
    return texts * rows if len(texts) == 1 else texts


def part_strengths(value: Any, rows: int) -> np.ndarray:
    """id_strength -> float32 [rows, 4], one column per part of `PARTS`.

    value: a number, {part: number} (parts left out keep `ID_STRENGTH`), or a list of those, one per prompt.
    Raises ValueError for a negative number or an unknown part.
    """
    if isinstance(value, list | tuple):
        values = list(value)
        if len(values) != rows:
            raise ValueError(
                f"id_strength lists {len(values)} values for {rows} prompts; give one, or one per prompt"
            )
    else:
        values = [value] * rows
    return np.array([_strength_row(each) for each in values], np.float32).reshape(rows, len(PARTS))


def _strength_row(value: Any) -> list[float]:
    if not isinstance(value, Mapping):
        return [number(value, "id_strength")] * len(PARTS)
    for part in value:
        if part not in PARTS:
            raise ValueError(f"id_strength names the part {part!r}; the parts are {', '.join(PARTS)}")
    return [number(value.get(part, ID_STRENGTH), f"id_strength of {part}") for part in PARTS]


def as_list(value: Any, what: str, rows: int) -> list[Any]:
    """One value for every row, or a list with one per row. Raises ValueError for another length."""
    if not isinstance(value, list | tuple):
        return [value] * rows
    if len(value) not in (1, rows):
        raise ValueError(f"{what} lists {len(value)} values for {rows} prompts; give one, or one per prompt")
    return list(value) * (rows if len(value) == 1 else 1)


def person_rows(reference: Any) -> list[list[PersonSource]]:
    """References -> per person the list of sources.

    One source or a flat list of pictures is one person; a list of lists or of `Identity` is one person per
    prompt.
    Raises ValueError for an empty list.
    """
    if isinstance(reference, list | tuple):
        if not reference:
            raise ValueError("reference is an empty list; give at least one picture of the person")
        several = any(isinstance(each, list | tuple | Identity) for each in reference)
        people = [list(each) if isinstance(each, list | tuple) else [each] for each in reference]
        if several and not all(people):
            raise ValueError("reference holds an empty list; give at least one picture of each person")
        return people if several else [list(reference)]
    return [[reference]]


def pose_rows(pose: Any) -> list[Any]:
    """Poses -> one source per row; key-points [18, 2|3] are one pose, [B, 18, 2|3] are B of them."""
    if isinstance(pose, torch.Tensor):
        pose = pose.detach().cpu().numpy()
    if isinstance(pose, np.ndarray) and pose.dtype != np.uint8 and pose.ndim == 3 and pose.shape[1] == 18:
        return list(pose)
    if isinstance(pose, list | tuple) and _keypoints(pose) is None:
        if not pose:
            raise ValueError("pose is an empty list; give one pose, or one per prompt, or None")
        return list(pose)
    return [pose]


def _keypoints(value: Any) -> np.ndarray | None:
    """A float array [18, 2] or [18, 3] if that is what `value` is."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, str | Path | Image.Image | Pose) or value is None:
        return None
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        return None
    return array if array.shape in ((18, 2), (18, 3)) else None


def is_placed(pose: PoseSource) -> bool:
    """Whether a pose says by itself where in the picture the person is: key-points or a skeleton map."""
    if isinstance(pose, Pose) or _keypoints(pose) is not None:
        return True
    if isinstance(pose, str) and not _names_a_file(pose):
        return False
    if not isinstance(pose, str | Path | Image.Image | np.ndarray):
        return False
    return read_skeleton_map(np.asarray(load_picture(pose, "pose picture"))) is not None


def read_pose(
    pose: PoseSource, height: int, width: int, find: Callable[[PictureSource], Reference]
) -> np.ndarray | None:
    """One pose of any kind -> float32 [18, 3] in the frame of the picture to be made; None stays None.

    find: finds the person in a picture (only called for pictures that are no skeleton map).
    Raises ValueError for an unknown name, key-points that are no shares of the picture, a picture without a
    person.
    """
    if pose is None:
        return None
    if isinstance(pose, Pose):
        return pose.keypoints
    if isinstance(pose, str) and not _names_a_file(pose):
        frame = whole_frame((3, 2), height, width)  # named poses stand in a frame of 2:3
        points = known(Pose.named(pose).keypoints)
        placed = points[:, 2] > 0
        points[placed, :2] = frame.to_frame(points[placed, :2], (3, 2))
        return points
    points = _keypoints(pose)
    if points is not None:
        return _checked(points)
    if not isinstance(pose, str | Path | Image.Image | np.ndarray):
        raise ValueError(
            f"pose is {type(pose).__name__}; give a name, a picture of a person, a skeleton map, "
            "key-points [18, 2] or [18, 3] with x, y in [0, 1], or None"
        )
    picture = load_picture(pose, "pose picture")
    drawn = _read_map(picture, height, width)
    return drawn if drawn is not None else find(picture).keypoints


def _names_a_file(text: str) -> bool:
    return (
        Path(text).suffix.lower() in {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
        or Path(text).is_file()
    )


def _checked(points: np.ndarray) -> np.ndarray:
    """User's key-points; where no confidence is given, (0, 0) is unknown and all else is seen."""
    if points.shape[1] == 2:
        points = np.concatenate([points, points.any(axis=1, keepdims=True).astype(np.float32)], axis=1)
    if np.isfinite(points).all() and np.abs(points[:, :2]).max() > PIXEL_LIKE:
        raise ValueError(
            f"pose key-points reach {np.abs(points[:, :2]).max():g}; x and y must be shares of the picture "
            "in [0, 1]: divide pixels by its width and height"
        )
    return Pose(points).keypoints


def _read_map(picture: Image.Image, height: int, width: int) -> np.ndarray | None:
    """Key-points of a skeleton map, in the frame of the picture to be made; None if it is no such map."""
    image = np.asarray(picture)
    if image.shape[0] > LARGEST_MAP:
        shrunk = (max(1, round(image.shape[1] * LARGEST_MAP / image.shape[0])), LARGEST_MAP)
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    pose = read_skeleton_map(image)
    if pose is None:
        return None
    points = pose.keypoints.copy()
    placed = points[:, 2] > 0
    frame = whole_frame(image.shape[:2], height, width)
    points[placed, :2] = frame.to_frame(points[placed, :2], image.shape[:2])
    return points


def proportions_of(reference: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """The reference's key-points [18, 3] without the joints of parts at strength 0 (zeros), which may tell
    nothing.
    """
    points = reference.copy()
    for part, joints in (("upper", slice(1, 8)), ("lower", slice(8, 14))):
        if strength[PARTS.index(part)] <= 0:
            points[joints] = 0
    return points


def generators(generator: Any, rows: int, per_row: int) -> torch.Generator | list[torch.Generator] | None:
    """Generators in the order of the pictures, each prompt's pictures side by side.

    generator: an int seeds picture j of every prompt with generator + j, so neither the other prompts nor
    the number of pictures changes a picture; a list (of ints or torch.Generator) has one per picture; one
    torch.Generator and None go to the stock pipeline as they are.
    Raises ValueError for a list of another length.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if isinstance(generator, int | np.integer) and not isinstance(generator, bool):
        generator = [int(generator) + index for _ in range(rows) for index in range(per_row)]
    if not isinstance(generator, list | tuple):
        raise ValueError(
            f"generator is {generator!r}; give a seed, a torch.Generator, or a list with one per picture"
        )
    if len(generator) != rows * per_row:
        raise ValueError(
            f"generator lists {len(generator)} for {rows * per_row} pictures; give one per picture"
        )
    return [_seeded(each) for each in generator]


def _seeded(generator: Any) -> torch.Generator:
    if isinstance(generator, torch.Generator):
        return generator
    if (
        isinstance(generator, bool)
        or not isinstance(generator, int | np.integer)
        or not 0 <= generator < 2**63
    ):
        raise ValueError(f"a seed is {generator!r}; it must be a whole number of 0 or more")
    return torch.Generator().manual_seed(int(generator))  # on the CPU: the same noise on every device


def known_arguments(given: Iterable[str], valid: Iterable[str]) -> None:
    """Raises ValueError for an argument that no pipeline knows; the stock ones would swallow it silently."""
    names = sorted(valid)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(names)}"
            raise ValueError(f"unknown argument {name!r}{hint}")
