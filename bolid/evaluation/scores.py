"""From pictures to figures: one value per picture and figure, then means, intervals and differences."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from bolid import metrics
from bolid.evaluation.drawing import STRENGTHS
from bolid.evaluation.pairs import Pairs
from bolid.evaluation.probes import CLOTHES_COLUMNS
from bolid.evaluators import AppearanceEvaluator, PoseEvaluator, Reading
from bolid.pose import PARTS

MINIMUM_PART_PIXELS = 12  # fewer do not show a part


@dataclass(frozen=True)
class Evaluators:
    """The two mini networks."""

    pose: PoseEvaluator
    appearance: AppearanceEvaluator

    def read(self, pictures: np.ndarray) -> tuple[np.ndarray, Reading]:
        """Key-points [N, 18, 3] and `Reading` of pictures uint8 [N, H, W, 3], from pixels alone."""
        keypoints = self.pose.predict(pictures)
        return keypoints, self.appearance.predict(pictures, keypoints)


@dataclass(frozen=True)
class Scores:
    """Of one row of the table: figure -> one value per picture [N] (NaN: none), and its FID features."""

    values: dict[str, np.ndarray]
    features: np.ndarray


def score(pictures: np.ndarray, pairs: Pairs, evaluators: Evaluators, reference: Reading) -> Scores:
    """Measure the pictures uint8 [N, H, W, 3] of one row against the truth and the `reference`'s reading."""
    keypoints, reading = evaluators.read(pictures)
    size, visible = pairs.size, (pairs.visible & pairs.reference_visible).astype(bool)
    values = {
        "pck": metrics.pck(keypoints, pairs.keypoints, size),
        "error_keypoints": metrics.keypoint_error(keypoints, pairs.keypoints, size),
        "oks": metrics.oks(keypoints, pairs.keypoints, size),
        "bone_ratio": metrics.bone_ratio_error(keypoints, pairs.keypoints, size),
        "scene": (reading.scene == pairs.scene).astype(np.float64),
        "attributes": metrics.attribute_accuracy(reading.attributes, pairs.labels, visible),
        "identified_by_head": _where_shown(metrics.identification(reading.head, reference.head), pairs, 1),
        "identified_by_body": metrics.identification(reading.body, reference.body),
        "id_similarity_mini": metrics.id_similarity(reading.body, reference.body),
        "psnr": metrics.psnr(pictures, pairs.image),
        "psnr_person": metrics.psnr(pictures, pairs.image, pairs.masks > 0),
        "psnr_head": metrics.psnr(pictures, pairs.image, _boxes(pairs.masks == 1)),
        "words": _words(reading.attributes, pairs),
    }
    whole = metrics.appearance_error(pictures, pairs.image, (pairs.masks > 0).astype(np.uint8), labels=1)
    values["error_person"] = whole[:, 0]
    errors = metrics.appearance_error(pictures, pairs.image, pairs.masks)
    distances = evaluators.appearance.perceptual_distance(pictures, pairs.image, pairs.masks)
    for k, part in enumerate(PARTS):
        values[f"error_{part}"] = errors[:, k]
        values[f"lpips_mini_{part}"] = distances[:, k]
    for k, name in enumerate(evaluators.appearance.names):
        right = (reading.attributes[:, k] == pairs.labels[:, k]).astype(np.float64)
        values[f"attribute_{name}"] = np.where(visible[:, k], right, np.nan)
    return Scores(values, reading.features)


def _where_shown(values: np.ndarray, pairs: Pairs, label: int) -> np.ndarray:
    """`values` [N] where the part `label` is in the truth and in the reference, else NaN."""
    counts = [(masks == label).sum((1, 2)) for masks in (pairs.masks, pairs.reference_masks)]
    return np.where(np.minimum(*counts) >= MINIMUM_PART_PIXELS, values, np.nan)


def _words(attributes: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Share of `pairs.clothes` that the pictures show, [N]: met by prompts that name them, else by chance.

    Counted where the truth, in the same pose, shows that piece of its own.
    """
    columns = list(CLOTHES_COLUMNS)
    return metrics.attribute_accuracy(attributes[:, columns], pairs.clothes, pairs.visible[:, columns])


def _boxes(masks: np.ndarray) -> np.ndarray:
    """The rectangle around each mask of bool [N, H, W], filled: bool [N, H, W]."""
    filled = np.ones(masks.shape, bool)
    for axis in (1, 2):
        seen = masks.any(axis, keepdims=True)
        other = 3 - axis
        after = np.maximum.accumulate(seen, other)
        before = np.flip(np.maximum.accumulate(np.flip(seen, other), other), other)
        filled &= after & before
    return filled


def groups(pairs: Pairs) -> dict[str, np.ndarray]:
    """Named bool masks [N] over the pairs: pose families, views, view against view, unseen."""
    from bolid.avatars.skeleton import POSE_FAMILIES, VIEWS

    found = {"all": np.ones(len(pairs), bool)}
    found |= {f"pose: {name}": pairs.pose_family == i for i, name in enumerate(POSE_FAMILIES)}
    sitting = [i for i, name in enumerate(POSE_FAMILIES) if name.startswith("sitting")]
    found["sitting"] = np.isin(pairs.pose_family, sitting)
    found |= {f"view: {name}": pairs.view == i for i, name in enumerate(VIEWS)}
    front, back = VIEWS.index("front"), VIEWS.index("back")
    ends = np.sort(np.stack([pairs.view, pairs.reference_view], 1), axis=1)
    found["same view"] = pairs.view == pairs.reference_view
    found["front to back or back to front"] = (ends == sorted((front, back))).all(1)
    found["unseen combination"] = pairs.held_out.astype(bool)
    return {name: mask for name, mask in found.items() if mask.any()}


def summarise(scores: dict[str, Scores], pairs: Pairs) -> dict[str, Any]:
    """Everything that goes into results.json; a row may have been drawn for the first pairs only.

    `rows`: row -> group -> figure -> interval (rows of fewer pairs: group "all" alone); `distribution`:
    FID-mini and KID-mini against the truth of the same pairs; `normalised_attributes`:
    (row - other_reference) / (truth - other_reference); `differences`: paired intervals of `COMPARED`.
    """
    rows = {}
    for row, each in scores.items():
        count = len(each.features)
        masks = groups(pairs) if count == len(pairs) else {"all": np.ones(count, bool)}
        rows[row] = {
            g: {n: asdict(metrics.bootstrap(v[m])) for n, v in each.values.items()} for g, m in masks.items()
        }
    return {
        "rows": rows,
        "distribution": _distribution(scores),
        "normalised_attributes": _normalised(scores),
        "differences": _differences(scores),
    }


def _distribution(scores: dict[str, Scores]) -> dict[str, dict[str, float]]:
    found = {}
    for row, each in scores.items():
        if "truth" in scores and row != "truth":
            truth = scores["truth"].features[: len(each.features)]
            pair = (each.features[: len(truth)], truth)
            found[row] = {"fid_mini": metrics.fid(*pair), "kid_mini": metrics.kid(*pair)}
    return found


def _normalised(scores: dict[str, Scores]) -> dict[str, float]:
    """Attributes of every row on the scale 0 = another person's reference, 1 = the truth."""
    if not {"truth", "other_reference"} <= scores.keys():
        return {}
    own = {row: each.values["attributes"] for row, each in scores.items()}
    found = {}
    for row, values in own.items():
        count = min(len(values), len(own["truth"]), len(own["other_reference"]))
        means = (float(np.nanmean(v[:count])) for v in (values, own["truth"], own["other_reference"]))
        found[row] = metrics.normalised(*means)
    return found


COMPARED = (
    ("generated", "appearance_map"),
    ("generated", "other_reference"),
    ("generated", "base"),
    ("without_pose", "base"),
    ("pose_from_picture", "generated"),
    ("generated", "own_pose_fitted"),
    ("another_pose", "another_pose_as_given"),
    ("image_prompt", "no_scene_word"),
    *((f"strength_{b:g}", f"strength_{a:g}") for a, b in pairwise(STRENGTHS)),
    (f"strength_{STRENGTHS[-1]:g}", f"strength_{STRENGTHS[0]:g}"),
)
"""Rows whose paired differences, first minus second, are told where both were drawn."""


def _differences(scores: dict[str, Scores]) -> dict[str, Any]:
    """Paired intervals of `COMPARED`, for every figure but the single attributes."""
    found = {}
    for row, other in COMPARED:
        if {row, other} <= scores.keys():
            own, theirs = scores[row].values, scores[other].values
            count = min(len(own["pck"]), len(theirs["pck"]))
            found[f"{row} - {other}"] = {
                name: asdict(metrics.paired_bootstrap(own[name][:count], theirs[name][:count]))
                for name in own
                if not name.startswith("attribute_")
            }
    return found
