"""The pose of one person: 18 OpenPose key-points, their picture, their names and their proportions.

Key-points are float arrays [18, 3] in the order of `JOINTS`. x, y lie in [0, 1] (x by the picture's width, y
by its height; joints outside the frame may leave that range). The third value is the confidence in [0, 1]:
0 unknown (not drawn, not used), 0.5 hidden but its place is known, 1 seen. Left and right are the person's
own.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

PARTS = ("head", "upper", "lower", "feet")  # label map: 0 is background, part i has label i + 1
JOINTS = (
    "nose", "neck", "shR", "elR", "wrR", "shL", "elL", "wrL", "hiR",
    "knR", "anR", "hiL", "knL", "anL", "eyeR", "eyeL", "earR", "earL",
)  # fmt: skip
MIRROR = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
BODY12 = (
    5,
    2,
    6,
    3,
    7,
    4,
    11,
    8,
    12,
    9,
    13,
    10,
)  # COCO 5-16: shoulders ... ankles, left before right (Eq. 3's joints)
FACE = (0, 14, 15, 16, 17)
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
# OpenPose's colours: joint i and limb i share the hue 20 degrees x i; limbs are drawn at 0.6 of it.
COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0),
    (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255),
    (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
DRAWN = 0.05  # confidence above which a joint is drawn
SEEN = 0.75  # confidence from which a joint is drawn at full brightness
DIM = 0.6  # brightness of limbs against joints, and of hidden joints and limbs against seen ones


def _load_poses() -> Mapping[str, np.ndarray]:
    table = json.loads((Path(__file__).parent / "poses.json").read_text())
    poses = {name: np.asarray(rows, np.float32) for name, rows in table.items()}
    for array in poses.values():
        array.setflags(write=False)
    return MappingProxyType(poses)


POSES: Mapping[str, np.ndarray] = _load_poses()  # made by bolid/avatars/named_poses.py, in a frame of 2:3
POSE_NAMES: tuple[str, ...] = tuple(POSES)


@dataclass(frozen=True, eq=False)
class Pose:
    """One person's key-points.

    keypoints: float32 [18, 3], see the module's docstring.
    Raises ValueError when the shape is wrong, a value is not finite or a confidence leaves [0, 1].
    """

    keypoints: np.ndarray

    def __post_init__(self) -> None:
        points = np.array(self.keypoints, dtype=np.float32)
        if points.shape != (18, 3):
            raise ValueError(
                f"key-points have shape {points.shape}; a pose is [18, 3]: x, y, confidence per joint"
            )
        if not np.isfinite(points).all():
            raise ValueError("key-points hold NaN or infinity; give an unknown joint as (0, 0, 0)")
        if points[:, 2].min() < 0 or points[:, 2].max() > 1:
            raise ValueError("the third value of a key-point is its confidence and lies in [0, 1]")
        points.setflags(write=False)
        object.__setattr__(self, "keypoints", points)

    @classmethod
    def named(cls, name: str) -> Pose:
        """The pose called `name` (see POSE_NAMES), for a picture of 2:3. Raises ValueError for an unknown
        name.
        """
        key = " ".join(name.lower().replace("_", " ").split())
        if key not in POSES:
            near = difflib.get_close_matches(key, POSE_NAMES, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"no pose is called {name!r}.{hint} Names: {', '.join(POSE_NAMES)}")
        return cls(POSES[key])

    def mirrored(self) -> Pose:
        """The same pose seen in a mirror: x flipped, left and right swapped."""
        points = self.keypoints[list(MIRROR)].copy()
        placed = points[:, :2].any(axis=1)  # (0, 0) is unknown and stays
        points[placed, 0] = 1 - points[placed, 0]
        return Pose(points)


def known(keypoints: np.ndarray) -> np.ndarray:
    """Mark joints that are hidden but whose place is known with confidence 0.5.

    keypoints: [..., 18, 3]. A body joint of confidence 0 in or near the frame (-0.25 ... 1.25) and not at (0,
    0)
    gets 0.5. Face joints stay 0 when hidden: that tells a front view from a back view. Returns a new float32
    array.
    """
    points = np.array(keypoints, dtype=np.float32)
    place = points[..., :2]
    near = ((place > -0.25) & (place < 1.25)).all(-1) & (place != 0).any(-1)
    near[..., list(FACE)] = False
    points[..., 2] = np.where((points[..., 2] <= 0) & near, 0.5, points[..., 2])
    return points


def stick_width(height: int) -> int:
    """Width in pixels of a drawn limb in a picture of this height."""
    return max(2, round(height / 64))


def skeleton_map(keypoints: np.ndarray, height: int, width: int) -> np.ndarray:
    """Draw skeletons in the standard OpenPose colours on black.

    keypoints: [B, 18, 3]; joints of confidence <= 0.05 are left out, those below 0.75 are drawn dimmer.
    Returns uint8 [B, height, width, 3] RGB. Raises ValueError when the shape is wrong.
    """
    points = np.asarray(keypoints, dtype=np.float32)
    if points.ndim != 3 or points.shape[1:] != (18, 3):
        raise ValueError(
            f"key-points have shape {points.shape}; skeleton_map takes [B, 18, 3]: add the batch axis"
        )
    canvas = np.zeros((len(points), height, width, 3), np.uint8)
    for picture, person in zip(canvas, points, strict=True):
        _draw_skeleton(picture, person)
    return canvas


def _draw_skeleton(picture: np.ndarray, person: np.ndarray) -> None:
    height, width = picture.shape[:2]
    stick = stick_width(height)
    # cv2 takes fixed-point coordinates with 4 fractional bits; -0.5 because pixel centres are whole numbers
    # there
    places = np.round((np.clip(person[:, :2], -4, 5) * (width, height) - 0.5) * 16).astype(int)
    confidence = person[:, 2]
    for colour, (a, b) in zip(COLOURS, LIMBS, strict=False):
        least = min(confidence[a], confidence[b])
        if least > DRAWN:
            shade = DIM if least >= SEEN else DIM * DIM
            cv2.line(
                picture, places[a].tolist(), places[b].tolist(), _shade(colour, shade), stick, cv2.LINE_AA, 4
            )
    for colour, place, sure in zip(COLOURS, places, confidence, strict=True):
        if sure > DRAWN:
            shade = 1.0 if sure >= SEEN else DIM
            cv2.circle(
                picture, place.tolist(), round(stick * 0.75 * 16), _shade(colour, shade), -1, cv2.LINE_AA, 4
            )


def _shade(colour: tuple[int, int, int], brightness: float) -> tuple[int, ...]:
    return tuple(round(value * brightness) for value in colour)


def read_skeleton_map(image: np.ndarray) -> Pose | None:
    """Recover the joints from a skeleton map drawn in the standard colours on black.

    image: uint8 [H, W, 3] RGB. Returns None when the picture is not such a map. A joint covered by another
    one is taken from the end of its limb where that can be seen (confidence 0.5), else left out.
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"the picture has shape {image.shape}; read_skeleton_map takes RGB [H, W, 3]")
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL).astype(np.float32)
    hue, saturation, value = hsv[..., 0] * (18 / 256), hsv[..., 1] / 255, hsv[..., 2] / 255
    ink = value > 0.15
    pure = ink & (saturation > 0.9) & (np.abs(hue - np.round(hue)) < 0.25)
    if not 0.0005 < ink.mean() < 0.4 or pure.sum() < 0.6 * ink.sum() or value[~ink].mean() > 0.03:
        return None
    index = np.where(pure, np.round(hue) % 18, -1)
    points = np.zeros((18, 3), np.float32)
    discs = [_without_specks((index == joint) & (value > 0.9)) for joint in range(18)]
    areas = np.array([disc.sum() for disc in discs])
    usual = float(np.median(areas[areas > 0])) if areas.any() else 0.0
    whole = areas >= max(2.0, 0.25 * usual)  # less is the rest of a covered disc or a blend at an edge
    for joint in np.flatnonzero(whole):
        points[joint] = (*_centre(discs[joint]), 1.0)
    for joint in np.flatnonzero(~whole):
        points[joint] = _hidden_joint(points, int(joint), index, value)
    points[:, :2] /= (image.shape[1], image.shape[0])
    return Pose(points) if (points[:, 2] > 0).sum() >= 4 else None


def _without_specks(mask: np.ndarray) -> np.ndarray:
    """Only the connected components of a fifth of the largest one's area or more."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    area = stats[:, cv2.CC_STAT_AREA]
    keep = np.flatnonzero(area >= 0.2 * area[1:].max(initial=0))
    return mask & np.isin(labels, keep[keep > 0]) if count > 1 else mask


def _centre(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return columns.mean() + 0.5, rows.mean() + 0.5


def _hidden_joint(
    points: np.ndarray, joint: int, index: np.ndarray, value: np.ndarray
) -> tuple[float, float, float]:
    """(x, y, 0.5) of a dim disc that touches a limb of this joint; else of the far ends of its limbs; else
    zeros.
    """
    tips = []
    for limb, ends in enumerate(LIMBS):
        bone = _without_specks((index == limb) & (value < 0.75) & (value > 0.3))
        if joint not in ends or bone.sum() < 6:
            continue
        near = cv2.dilate(bone.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        disc = near & (index == joint) & (value > 0.5) & (value < 0.75)
        if joint != limb and disc.sum() >= 4:
            return (*_centre(disc), 0.5)
        other = points[ends[0] if ends[1] == joint else ends[1]]
        if other[2] > 0:
            rows, columns = np.nonzero(bone)
            far = np.hypot(columns + 0.5 - other[0], rows + 0.5 - other[1])
            tips.append((columns[far.argmax()] + 0.5, rows[far.argmax()] + 0.5))
    return (*np.mean(tips, axis=0), 0.5) if tips else (0.0, 0.0, 0.0)


# A projection shortens what points at the viewer, so limbs tell no proportions that hold: of 512 validation
# pairs with estimated references the bone-ratio error rises from .0323 to .0459 where all bones take half of
# what is measured, and falls to .0291 by these widths alone (docs/LOG.md, eleventh session).
WIDTHS = MappingProxyType({"shoulders": 0.33, "hips": -0.5})
"""Powers of the measured shoulders over hips: the two are nearly parallel, so turning shortens both alike."""
WIDE = 0.35
"""Shoulders of less than this share of the torso are seen from the side and say nothing; hips: 0.6 of it."""
_TRUNK = ((2, 5), (8, 11), (1, 18))  # shoulders, hips, torso
# (parent, joint, whose ratio the bone takes); 18 is the middle of the hips, where the walk starts.
_TREE = (
    (18, 8, "hips"), (18, 11, "hips"), (8, 9, None), (9, 10, None), (11, 12, None), (12, 13, None),
    (18, 1, None), (1, 2, "shoulders"), (1, 5, "shoulders"), (2, 3, None), (3, 4, None),
    (5, 6, None), (6, 7, None), (1, 0, None), (0, 14, None), (0, 15, None), (14, 16, None),
    (15, 17, None),
)  # fmt: skip


def retarget(target: np.ndarray, reference: np.ndarray, aspect: float = 2 / 3) -> np.ndarray:
    """Give the target pose the reference's proportions.

    target, reference: [18, 3]; aspect: width / height of both pictures. Walking from the mid-hip, each bone
    keeps its direction and length in the target; only shoulders and hips become wider or narrower, by how
    wide they are against each other in the two pictures (`WIDTHS`), where both show it. The result stands on
    the same ground, at the same centre, and is shrunk if it would leave the frame.
    Returns float32 [18, 3] with the target's confidences.
    """
    points, valid = _with_mid_hip(target, aspect)
    if not (valid[1] and valid[18]):
        return np.array(target, dtype=np.float32)
    ratios = _width_ratios(points, valid, *_with_mid_hip(reference, aspect))
    moved = points.copy()
    for parent, joint, bone in _TREE:
        ratio = ratios.get(bone, 1.0) if valid[parent] and valid[joint] else 1.0
        moved[joint] = moved[parent] + ratio * (points[joint] - points[parent])
    moved = _refit(moved[:18], points[:18], valid[:18], aspect)
    result = np.array(target, dtype=np.float32)
    result[valid[:18], :2] = (moved / (aspect, 1.0))[valid[:18]]
    return result


def _with_mid_hip(keypoints: np.ndarray, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """Places [19, 2] in units of the picture's height and which are known [19]; row 18 is the middle of the
    hips.
    """
    points = known(keypoints)
    places = points[:, :2] * (aspect, 1.0)
    valid = (points[:, 2] > DRAWN) | (np.isin(np.arange(18), FACE) & (places != 0).any(-1))
    places = np.concatenate([places, places[[8, 11]].mean(0, keepdims=True)])
    return places, np.append(valid, valid[8] and valid[11])


def _width_ratios(
    target: np.ndarray, target_valid: np.ndarray, reference: np.ndarray, reference_valid: np.ndarray
) -> dict[str | None, float]:
    """What the target's shoulders and hips are multiplied by; nothing where a picture does not tell.

    People differ by less than the clamp: beyond it a joint was misread.
    """
    ours = _shoulders_over_hips(reference, reference_valid)
    theirs = _shoulders_over_hips(target, target_valid)
    if ours is None or theirs is None:
        return {}
    return {bone: float(np.clip(ours / theirs, 0.6, 1.7)) ** power for bone, power in WIDTHS.items()}


def _shoulders_over_hips(places: np.ndarray, valid: np.ndarray) -> float | None:
    """Shoulders' width over the hips'; None where they are not seen, or from the side."""
    if not valid[[1, 2, 5, 8, 11]].all():
        return None
    shoulders, hips, torso = (float(np.linalg.norm(places[a] - places[b])) for a, b in _TRUNK)
    if shoulders <= WIDE * torso or hips <= 0.6 * WIDE * torso:
        return None
    return shoulders / hips


def _refit(moved: np.ndarray, original: np.ndarray, valid: np.ndarray, aspect: float) -> np.ndarray:
    """Same lowest point and same middle as the original; shrunk about that point to stay inside the frame.

    The frame is widened to the original's own box, so a pose that is cropped by the frame stays cropped.
    """
    box = original[valid]
    low = np.minimum(box.min(0), (0.02 * aspect, 0.02))
    high = np.maximum(box.max(0), (0.98 * aspect, 0.98))
    anchor = np.array([(box[:, 0].min() + box[:, 0].max()) / 2, box[:, 1].max()])
    mine = moved[valid]
    foot = np.array([(mine[:, 0].min() + mine[:, 0].max()) / 2, mine[:, 1].max()])
    reach = np.maximum(mine - foot, 1e-6), np.maximum(foot - mine, 1e-6)
    # Feet at the frame's edge leave no room below, and need none.
    room = np.maximum(high - anchor, 1e-6), np.maximum(anchor - low, 1e-6)
    scale = min(1.0, (room[0] / reach[0]).min(), (room[1] / reach[1]).min())
    return (moved - foot) * max(scale, 0.1) + anchor
