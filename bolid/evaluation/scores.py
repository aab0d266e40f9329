"""From pictures to figures: one value per picture and figure, then means, intervals and differences."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from bolid import metrics
from bolid.evaluation.drawing import STRENGTHS
from bolid.evaluation.figures import picture_figures, where_shown
from bolid.evaluation.networks import Evaluators
from bolid.evaluation.pairs import Pairs
from bolid.evaluators import Reading
from bolid.pose import PARTS


@dataclass(frozen=True)
class Scores:
    """Of one row of the table: figure -> one value per picture [N] (NaN: none), and its FID features."""

    values: dict[str, np.ndarray]
    features: np.ndarray


RENAMED = {"id_similarity": "id_similarity_mini"} | {f"lpips_{p}": f"lpips_mini_{p}" for p in PARTS}
"""Figures of networks that bear their own name."""


def score(pictures: np.ndarray, pairs: Pairs, evaluators: Evaluators, reference: Reading) -> Scores:
    """Measure the pictures uint8 [N, H, W, 3] of one row against the truth and the `reference`'s reading."""
    seen = evaluators.read(pictures)
    reading = seen[1]
    found = picture_figures(pictures, pairs, evaluators, seen, reference)
    values = {RENAMED.get(name, name): value for name, value in found.items()}
    head = metrics.identification(reading.head, reference.head)
    values["identified_by_head"] = where_shown(head, pairs, 1)
    values["identified_by_body"] = metrics.identification(reading.body, reference.body)
    return Scores(values, reading.features)


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
    found["same view"] = (pairs.view == pairs.reference_view) & (pairs.view >= 0)
    found["front to back or back to front"] = (ends == sorted((front, back))).all(1)
    found["unseen combination"] = pairs.held_out.astype(bool)
    return {name: mask for name, mask in found.items() if mask.any()}


def summarise(scores: dict[str, Scores], pairs: Pairs) -> dict[str, Any]:
    """Everything that goes into results.json; a row may have been drawn for the first pairs only.

    `rows`: row -> group -> figure -> interval (rows of fewer pairs: group "all" alone); `distribution`:
    FID-mini and KID-mini against the truth of the same pairs, in units of the truth's own spread;
    `normalised_attributes`: (row - other_reference) / (truth - other_reference); `differences`: paired
    intervals of `COMPARED`.
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
            pair = (metrics.standardised(each.features, truth), metrics.standardised(truth, truth))
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
    ("generated", "without_details"),
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
