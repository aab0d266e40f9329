"""Labels of public segmentation models -> the four parts head, upper, lower and feet."""

from __future__ import annotations

import re
from collections.abc import Mapping

import cv2
import numpy as np

from bolid.pose import DRAWN, PARTS

HEAD, UPPER, LOWER, FEET = range(1, len(PARTS) + 1)
DRESS, PERSON = len(PARTS) + 1, len(PARTS) + 2  # labels that the key-points divide

# Asked in this order: "upper leg" is a leg, "dresses_only_torso_region" a torso, "hair accessory" hair.
_WORDS: tuple[tuple[int, str], ...] = (
    (FEET, "shoe shoes sock socks foot feet boot boots footwear sandal sandals"),
    (LOWER, "leg legs thigh tights stockings"),
    (UPPER, "arm arms hand hands glove gloves torso forearm sleeve"),
    (DRESS, "dress dresses jumpsuit jumpsuits romper robe"),
    (HEAD, "hat cap helmet hair face head headband headwear hood sunglasses glasses eyeglasses eyewear"),
    (HEAD, "neck lip lips teeth tongue beard ear eye eyebrow nose mouth mask"),
    (UPPER, "upper upperclothes shirt blouse top t sweatshirt sweater cardigan jacket vest coat cape tie"),
    (UPPER, "scarf bag wallet backpack handbag watch collar"),
    (LOWER, "pants trousers jeans shorts skirt skirts belt lower"),
    (PERSON, "person human people man woman pedestrian"),
)


def kind_of(label: str) -> int | None:
    """The part of a class name (1 ... 4), DRESS, PERSON, or None for what is no person.

    "Upper-clothes" -> 2, "Left-leg" -> 3, "Sunglasses" -> 1, "dress" -> DRESS, "person" -> PERSON.
    """
    words = set(re.findall(r"[a-z]+", label.lower().replace("_", " ")))
    return next((kind for kind, known in _WORDS if words & set(known.split())), None)


def label_table(names: Mapping[int, str]) -> np.ndarray:
    """Class number -> kind as uint8 [classes], 0 for background and things; from a model's id2label.

    Where parts are known, a bare "person" class is not needed and counts as background. Raises ValueError
    when no class is a part of a person.
    """
    table = np.zeros(max(names, default=0) + 1, np.uint8)
    for number, name in names.items():
        table[int(number)] = kind_of(name) or 0
    if {HEAD, UPPER, LOWER} <= set(table.tolist()):
        table[table == PERSON] = 0
    elif PERSON not in table:
        shown = ", ".join(list(names.values())[:8])
        raise ValueError(
            f"the segmentation model's classes ({shown}, ...) are no parts of a person; give a human-parsing "
            "model, for example mattmdjaga/segformer_b2_clothes, or one with the class 'person'"
        )
    else:
        table[table != PERSON] = 0
    return table


def divide(kinds: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Kinds uint8 [H, W] (0 ... 6) -> part labels uint8 [H, W] (0 ... 4).

    keypoints: [18, 3], x, y in [0, 1]. A dress is upper above the hips and lower below; a person as a whole
    goes to the nearest limb. Without key-points the proportions of a grown, upright body decide.
    """
    parts = np.where(kinds <= FEET, kinds, 0).astype(np.uint8)
    if (kinds == DRESS).any():
        rows = (np.arange(kinds.shape[0]) + 0.5) / kinds.shape[0]
        below = rows[:, None] > _hip_line(kinds, keypoints)
        parts[kinds == DRESS] = np.where(below, LOWER, UPPER).repeat(kinds.shape[1], 1)[kinds == DRESS]
    whole = kinds == PERSON
    if whole.any():
        parts[whole] = _nearest_limbs(whole, keypoints)[whole]
    return parts


def _hip_line(kinds: np.ndarray, keypoints: np.ndarray) -> float:
    """y in [0, 1] where a dress turns into a skirt."""
    hips = keypoints[[8, 11]]
    placed = hips[hips[:, 2] > DRAWN]
    if len(placed):
        return float(placed[:, 1].mean())
    rows = np.flatnonzero((kinds == DRESS).any(axis=1))
    return (rows[0] + 0.4 * (rows[-1] - rows[0])) / kinds.shape[0]  # a dress's bodice is its upper two fifths


_BONES = {
    UPPER: ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (2, 8), (5, 11)),
    LOWER: ((8, 9), (9, 10), (11, 12), (12, 13), (8, 11)),
}
# In trunks (neck to mid-hip, which hardly any pose hides): where the head's axis begins and ends above the
# neck, and how thick it is with its hair. In shins: how far the foot reaches below the ankle.
_HEAD_FROM, _HEAD_TO, _HEAD_RADIUS, _FOOT = 0.22, 0.62, 0.2, 0.25
_HEAD_SHARE, _UPPER_SHARE, _LOWER_SHARE = 0.16, 0.5, 0.93  # of a standing person's height, from the top


def _nearest_limbs(whole: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """The part of the nearest bone for every pixel, uint8 [H, W]; distances in pixels."""
    places = keypoints[:, :2] * (whole.shape[1], whole.shape[0])
    placed = keypoints[:, 2] > DRAWN
    if not placed[[1, 8, 11]].all():
        return _by_height(whole)
    bones = {part: [(places[a], places[b]) for a, b in pairs if placed[a] and placed[b]]
             for part, pairs in _BONES.items()}  # fmt: skip
    bones[FEET] = [
        (places[ankle], places[ankle] + _FOOT * (places[ankle] - places[knee]))
        for knee, ankle in ((9, 10), (12, 13))
        if placed[knee] and placed[ankle]
    ]
    trunk = float(np.linalg.norm(places[1] - places[[8, 11]].mean(0)))
    up = places[0] - places[1] if placed[0] else places[1] - places[[8, 11]].mean(0)
    up = up / max(float(np.linalg.norm(up)), 1e-6) * trunk
    bones[HEAD] = [(places[1] + _HEAD_FROM * up, places[1] + _HEAD_TO * up)]
    distance = np.stack([_distance(whole.shape, bones[part]) for part in (HEAD, UPPER, LOWER, FEET)])
    distance[0] -= _HEAD_RADIUS * trunk
    return (distance.argmin(0) + 1).astype(np.uint8)


def _distance(shape: tuple[int, ...], bones: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Distance of every pixel to the nearest of the bones, float32 [H, W]; infinite where there is none."""
    if not bones:
        return np.full(shape, np.inf, np.float32)
    drawn = np.ones(shape, np.uint8)
    for a, b in bones:
        cv2.line(drawn, a.round().astype(int).tolist(), b.round().astype(int).tolist(), 0, 1)
    if drawn.all():  # every bone lies outside of the picture
        return np.full(shape, np.inf, np.float32)
    return cv2.distanceTransform(drawn, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _by_height(whole: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(whole.any(axis=1))
    share = (np.arange(whole.shape[0]) - rows[0]) / max(1, rows[-1] - rows[0])
    parts = 1 + np.searchsorted((_HEAD_SHARE, _UPPER_SHARE, _LOWER_SHARE), share)
    return np.repeat(parts[:, None], whole.shape[1], axis=1).astype(np.uint8)
