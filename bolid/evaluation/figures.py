"""From pictures to figures, one value a picture; what needs the other pictures too is left to its caller."""

from __future__ import annotations

import numpy as np

from bolid import metrics
from bolid.clothes import CLOTHES
from bolid.evaluation.networks import Networks
from bolid.evaluation.pairs import Pairs
from bolid.evaluation.probes import CLOTHES_COLUMNS
from bolid.evaluators import Reading
from bolid.pose import PARTS

MINIMUM_PART_PIXELS = 12  # fewer do not show a part


def picture_figures(
    pictures: np.ndarray,
    pairs: Pairs,
    networks: Networks,
    seen: tuple[np.ndarray, Reading],
    reference: Reading,
) -> dict[str, np.ndarray]:
    """Figure -> [N] of pictures uint8 [N, H, W, 3], drawn for `pairs`; `seen`, `reference`: what the networks
    read in the pictures and in the references. NaN where nothing can be measured.
    """
    keypoints, reading = seen
    values = _pose(keypoints, pairs)
    values |= _attributes(reading, pairs, networks)
    values["id_similarity"] = metrics.id_similarity(reading.body, reference.body)
    values["psnr"] = metrics.psnr(pictures, pairs.image)
    values["psnr_person"] = metrics.psnr(pictures, pairs.image, pairs.masks > 0)
    values["psnr_head"] = metrics.psnr(pictures, pairs.image, _boxes(pairs.masks == 1))
    values["sharpness"] = metrics.sharpness(pictures, pairs.image)
    whole = metrics.appearance_error(pictures, pairs.image, (pairs.masks > 0).astype(np.uint8), labels=1)
    values["error_person"] = whole[:, 0]
    errors = metrics.appearance_error(pictures, pairs.image, pairs.masks)
    distances = networks.perceptual_distance(pictures, pairs.image, pairs.masks)
    for k, part in enumerate(PARTS):
        values[f"error_{part}"] = errors[:, k]
        values[f"lpips_{part}"] = distances[:, k]
    return values


def further_figures(
    pictures: np.ndarray,
    pairs: Pairs,
    networks: Networks,
    seen: tuple[np.ndarray, Reading],
    reference: Reading,
    truth: Reading,
) -> dict[str, np.ndarray]:
    """Figures of the comparison beside `picture_figures`; truth: what the networks read in the truths."""
    keypoints, reading = seen
    everywhere = np.ones(pairs.masks.shape, np.uint8)
    person = (pairs.masks > 0).astype(np.uint8)
    distance = networks.perceptual_distance
    return {
        "pck_05": metrics.pck(keypoints, pairs.keypoints, pairs.size, 0.05),
        "oks_ap": metrics.oks_ap(metrics.oks(keypoints, pairs.keypoints, pairs.size)),
        "lpips": distance(pictures, pairs.image, everywhere, 1)[:, 0],
        "lpips_person": distance(pictures, pairs.image, person, 1)[:, 0],
        "copy_paste": metrics.copy_paste(reading.body, reference.body, truth.body),
        "clip": networks.text_similarity(pictures, list(pairs.prompt)),
        **_faces(reading, reference, truth),
    }


def _pose(keypoints: np.ndarray, pairs: Pairs) -> dict[str, np.ndarray]:
    return {
        "pck": metrics.pck(keypoints, pairs.keypoints, pairs.size),
        "error_keypoints": metrics.keypoint_error(keypoints, pairs.keypoints, pairs.size),
        "oks": metrics.oks(keypoints, pairs.keypoints, pairs.size),
        "bone_ratio": metrics.bone_ratio_error(keypoints, pairs.keypoints, pairs.size),
    }


def _faces(reading: Reading, reference: Reading, truth: Reading) -> dict[str, np.ndarray]:
    """`face_seen`: of the pairs whose truth shows a face, whether the picture does (the detection rate);
    `face_similarity`: of those whose reference shows it as well, cosine of the face embeddings.
    """
    if reading.face is None or truth.face is None or reference.face is None:
        nothing = np.full(len(reading.body), np.nan)
        return {"face_seen": nothing, "face_similarity": nothing}
    similarity = metrics.id_similarity(reading.head, reference.head)
    shown = truth.face & reference.face & reading.face
    return {
        "face_seen": np.where(truth.face, reading.face.astype(np.float64), np.nan),
        "face_similarity": np.where(shown, similarity, np.nan),
    }


def _attributes(reading: Reading, pairs: Pairs, networks: Networks) -> dict[str, np.ndarray]:
    """Attributes, the prompt's words and the scene; NaN for networks or datasets without labels."""
    if not networks.names or not pairs.labels.shape[1]:
        nothing = np.full(len(pairs), np.nan)
        return {"scene": nothing, "attributes": nothing, "words": nothing}
    visible = (pairs.visible & pairs.reference_visible).astype(bool)
    values = {
        "scene": (reading.scene == pairs.scene).astype(np.float64),
        "attributes": metrics.attribute_accuracy(reading.attributes, pairs.labels, visible),
        **_words(reading.attributes, pairs),
    }
    for k, name in enumerate(networks.names):
        right = (reading.attributes[:, k] == pairs.labels[:, k]).astype(np.float64)
        values[f"attribute_{name}"] = np.where(visible[:, k], right, np.nan)
    return values


def where_shown(values: np.ndarray, pairs: Pairs, label: int) -> np.ndarray:
    """`values` [N] where the part `label` is in the truth and in the reference, else NaN."""
    counts = [(masks == label).sum((1, 2)) for masks in (pairs.masks, pairs.reference_masks)]
    return np.where(np.minimum(*counts) >= MINIMUM_PART_PIXELS, values, np.nan)


def _words(attributes: np.ndarray, pairs: Pairs) -> dict[str, np.ndarray]:
    """`words`: the share of `pairs.clothes` that the pictures show, [N]: met by prompts that name them, else
    by chance; and with `_` and a name of `CLOTHES` whether they show that one.

    Counted where the truth, in the same pose, shows that piece of its own.
    """
    columns = list(CLOTHES_COLUMNS)
    shown, visible = attributes[:, columns], pairs.visible[:, columns].astype(bool)
    met = np.where(visible, shown == pairs.clothes, np.nan)
    each = {f"words_{name}": met[:, k] for k, name in enumerate(CLOTHES)}
    return {"words": metrics.attribute_accuracy(shown, pairs.clothes, visible), **each}


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
