"""From pictures to figures: one value per picture and figure, then means, intervals and differences."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bolid import metrics
from bolid.evaluation.pairs import Pairs
from bolid.evaluators import AppearanceEvaluator, PoseEvaluator, Reading
from bolid.pose import PARTS

LOWER_IS_BETTER = ("error_", "lpips_mini_", "bone_ratio")
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
    }
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


def groups(pairs: Pairs) -> dict[str, np.ndarray]:
    """Named bool masks [N] over the pairs: pose families, views, view against view, unseen."""
    from bolid.avatars.skeleton import POSE_FAMILIES, VIEWS

    found = {"all": np.ones(len(pairs), bool)}
    found |= {f"pose: {name}": pairs.pose_family == i for i, name in enumerate(POSE_FAMILIES)}
    found |= {f"view: {name}": pairs.view == i for i, name in enumerate(VIEWS)}
    front, back = VIEWS.index("front"), VIEWS.index("back")
    ends = np.sort(np.stack([pairs.view, pairs.reference_view], 1), axis=1)
    found["same view"] = pairs.view == pairs.reference_view
    found["front to back or back to front"] = (ends == sorted((front, back))).all(1)
    found["unseen combination"] = pairs.held_out.astype(bool)
    return {name: mask for name, mask in found.items() if mask.any()}


def summarise(scores: dict[str, Scores], pairs: Pairs) -> dict[str, Any]:
    """Everything that goes into results.json.

    `rows`: row -> group -> figure -> interval; `distribution`: FID-mini and KID-mini against the truth;
    `normalised_attributes`: (row - other_reference) / (truth - other_reference); `differences`: paired
    intervals of generated minus appearance map, minus another person's reference and minus base.
    """
    masks = groups(pairs)
    rows = {
        row: {g: {n: asdict(metrics.bootstrap(v[m])) for n, v in s.values.items()} for g, m in masks.items()}
        for row, s in scores.items()
    }
    distribution = {}
    if "truth" in scores:
        truth = scores["truth"].features
        distribution = {
            row: {"fid_mini": metrics.fid(s.features, truth), "kid_mini": metrics.kid(s.features, truth)}
            for row, s in scores.items()
            if row != "truth"
        }
    return {
        "rows": rows,
        "distribution": distribution,
        "normalised_attributes": _normalised(scores),
        "differences": _differences(scores),
    }


def _normalised(scores: dict[str, Scores]) -> dict[str, float]:
    """Attributes of every row on the scale 0 = another person's reference, 1 = the truth."""
    if not {"truth", "other_reference"} <= scores.keys():
        return {}
    mean = {row: float(np.nanmean(s.values["attributes"])) for row, s in scores.items()}
    return {row: metrics.normalised(m, mean["truth"], mean["other_reference"]) for row, m in mean.items()}


def _differences(scores: dict[str, Scores]) -> dict[str, Any]:
    """Paired intervals of generated minus each comparison, for every figure but the single attributes."""
    found = {}
    for other in ("appearance_map", "other_reference", "base"):
        if {"generated", other} <= scores.keys():
            own, theirs = scores["generated"].values, scores[other].values
            names = [n for n in own if not n.startswith("attribute_")]
            pairs_ = {n: asdict(metrics.paired_bootstrap(own[n], theirs[n])) for n in names}
            found[f"generated - {other}"] = pairs_
    return found
