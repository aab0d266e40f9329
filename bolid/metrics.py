"""The figures of the evaluation: arrays in, numbers out, no network and no file.

Pictures are uint8 [N, H, W, 3] RGB, key-points float [N, J, 3] with x, y in [0, 1] (x by width, y by
height) and a third value in [0, 1] (0 = hidden); features are float [N, D].  Functions that return one
value per picture (or per picture and part) give NaN where nothing could be measured: `bootstrap` skips them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Sigma of each joint, COCO's in OpenPose-18 order; neck = shoulders'. OKS' constants are k = 2 sigma.
OKS_SIGMAS = np.array(
    (
        0.026,
        0.079,
        0.079,
        0.072,
        0.062,
        0.079,
        0.072,
        0.062,
        0.107,
        0.087,
        0.089,
        0.107,
        0.087,
        0.089,
        0.025,
        0.025,
        0.035,
        0.035,
    )
)
# Bones whose length against the torso's is a person's proportion (OpenPose indices).
PROPORTION_BONES = ((2, 5), (8, 11), (2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13))
OKS_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCO's
NOSE, EYES = 0, (14, 15)  # OpenPose indices
FID_SAMPLES = 2000  # from which FID needs no KID or interval beside it (peers' advice)
RAW_RGB_MAX = math.sqrt(3 * 255**2)  # 441.7: distance of black and white


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval; `count` = how many measured values it stands on."""

    mean: float
    low: float
    high: float
    count: int


def _pixels(keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """x, y of `keypoints` [N, J, 3] in pixels of a picture of `size` (height, width): [N, J, 2]."""
    if keypoints.ndim != 3 or keypoints.shape[-1] != 3:
        raise ValueError(f"key-points must be [N, J, 3] (x, y, visibility), not {keypoints.shape}")
    return keypoints[..., :2] * np.array([size[1], size[0]], dtype=np.float64)


def box_scale(target: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal (pixels) and area (pixels squared) of the box around every known joint of `target` [N, J, 3].

    A joint is known unless it is exactly (0, 0); hidden joints in the frame count, so a back view is as
    large as a front view.  Returns two [N] arrays; the diagonal is at least one pixel.
    """
    points = _pixels(target, size)
    known = (target[..., :2] != 0).any(-1, keepdims=True)
    low = np.where(known, points, np.inf).min(1)
    high = np.where(known, points, -np.inf).max(1)
    extent = np.where(known.any(1), high - low, 0.0)
    return np.maximum(np.hypot(extent[:, 0], extent[:, 1]), 1.0), np.maximum(extent.prod(-1), 1.0)


def pck(generated: np.ndarray, target: np.ndarray, size: tuple[int, int], alpha: float = 0.1) -> np.ndarray:
    """Share of right key-points, per picture: visible joints nearer than alpha x box diagonal.

    `generated`, `target` [N, J, 3]; `size` (height, width) in pixels; a joint counts when the target's
    third value exceeds 0.5.  Returns [N] in [0, 1], NaN where the target shows no joint.
    """
    distance = np.linalg.norm(_pixels(generated, size) - _pixels(target, size), axis=-1)
    right = distance < alpha * box_scale(target, size)[0][:, None]
    return _masked_mean(right.astype(np.float64), target[..., 2] > 0.5)


def keypoint_error(generated: np.ndarray, target: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mean distance of the visible joints per picture, in shares of the target's box diagonal.

    Arguments as `pck`. Returns [N] >= 0, NaN where the target shows no joint.
    """
    distance = np.linalg.norm(_pixels(generated, size) - _pixels(target, size), axis=-1)
    return _masked_mean(distance / box_scale(target, size)[0][:, None], target[..., 2] > 0.5)


def oks(generated: np.ndarray, target: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Object key-point similarity per picture: mean over visible joints of exp(-d^2 / (2 area (2 sigma)^2)).

    Arguments as `pck`, with J = 18 (OpenPose order); `area` = box area of the target. Returns [N] in [0, 1].
    """
    squared = ((_pixels(generated, size) - _pixels(target, size)) ** 2).sum(-1)
    area = box_scale(target, size)[1][:, None]
    similarity = np.exp(-squared / (2 * area * (2 * OKS_SIGMAS) ** 2))
    return _masked_mean(similarity, target[..., 2] > 0.5)


def oks_ap(similarity: np.ndarray) -> np.ndarray:
    """OKS-AP of pictures of one person each, per picture, from `oks`' values [N]; its mean is the AP.

    COCO's AP orders detections by their scores; here every picture has one person and one detection without
    a score, so precision and recall at a threshold are both the share of pictures whose OKS reaches it. AP is
    the mean of that share over COCO's thresholds .50, .55, ... .95. NaN stays NaN.
    """
    reached = (similarity[:, None] >= OKS_THRESHOLDS).mean(1)
    return np.where(np.isfinite(similarity), reached, np.nan)


def face_seen(keypoints: np.ndarray) -> np.ndarray:
    """Whether a face is seen: nose and an eye visible in key-points [N, 18, 3] (third value above 0.5)."""
    visible = keypoints[..., 2] > 0.5
    return visible[:, NOSE] & (visible[:, EYES[0]] | visible[:, EYES[1]])


def bone_ratio_error(generated: np.ndarray, target: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """How far the person's proportions are off: mean over bones of |ln(r_generated / r_target)|.

    r = bone length / torso length (neck to mid-hip), in pixels, in the same pose, so that foreshortening
    cancels.  Only bones with both ends visible in the target and at least 4 % of the picture's height
    long there (a bone seen end-on has no ratio).  Arguments as `pck`, J = 18.  Returns [N] >= 0.
    """
    lengths, torsos = zip(*(_bone_lengths(_pixels(k, size)) for k in (generated, target)), strict=True)
    first, second = np.array(PROPORTION_BONES).T
    seen = (target[:, first, 2] > 0.5) & (target[:, second, 2] > 0.5)
    long_enough = (lengths[1] > 0.04 * size[0]) & (torsos[1] > 0.04 * size[0])[:, None]
    ratios = [np.maximum(length, 1.0) / np.maximum(torso, 1.0)[:, None]
              for length, torso in zip(lengths, torsos, strict=True)]  # fmt: skip
    return _masked_mean(np.abs(np.log(ratios[0] / ratios[1])), seen & long_enough)


def _bone_lengths(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bone lengths [N, bones] and torso length [N] of `points` [N, 18, 2] in pixels."""
    first, second = np.array(PROPORTION_BONES).T
    torso = np.linalg.norm(points[:, 1] - (points[:, 8] + points[:, 11]) / 2, axis=-1)
    return np.linalg.norm(points[:, first] - points[:, second], axis=-1), torso


def appearance_error(
    generated: np.ndarray, truth: np.ndarray, parts: np.ndarray, labels: int = 4, minimum: int = 12
) -> np.ndarray:
    """Mean per-pixel RGB distance (L2 over channels, 0..441.7) inside the truth's mask of each part.

    `generated`, `truth` uint8 [N, H, W, 3]; `parts` uint8 [N, H, W], 0 = background, 1..labels = the parts.
    Returns [N, labels]; NaN where a part has fewer than `minimum` pixels.
    Raises ValueError when the shapes differ.
    """
    if generated.shape != truth.shape or generated.shape[:3] != parts.shape:
        raise ValueError(
            f"pictures {generated.shape}, truth {truth.shape} and parts {parts.shape} must agree in N, H, W"
        )
    distance = np.linalg.norm(generated.astype(np.float32) - truth.astype(np.float32), axis=-1)
    masks = [(parts == label).reshape(len(parts), -1) for label in range(1, labels + 1)]
    flat = distance.reshape(len(parts), -1)
    return np.stack([_masked_mean(flat, mask, minimum) for mask in masks], axis=1)


def psnr(generated: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Peak signal-to-noise ratio in dB per picture, uint8 [N, H, W, 3] each; at most 99.

    `where` bool [N, H, W]: only these pixels count; NaN where a picture has none of them.
    """
    error = ((generated.astype(np.float32) - truth.astype(np.float32)) ** 2).mean(-1)
    flat = error.reshape(len(error), -1)
    mask = np.ones(flat.shape, bool) if where is None else where.reshape(flat.shape)
    return np.minimum(10 * np.log10(255**2 / np.maximum(_masked_mean(flat, mask), 1e-9)), 99.0)


def sharpness(generated: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean distance of neighbouring pixels over the truth's, per picture, uint8 [N, H, W, 3] each.

    1 is as sharp as the truth, less is blurred, more is noisy; NaN where the truth is of one colour. What is
    measured against a truth prefers the mean of all likely pictures, a blur: this does not.
    """

    def step(pictures: np.ndarray) -> np.ndarray:
        across, down = (np.abs(np.diff(pictures.astype(np.float32), axis=axis)) for axis in (2, 1))
        return across.mean((1, 2, 3)) + down.mean((1, 2, 3))

    of_truth = step(truth)
    return np.where(of_truth > 0, step(generated) / np.maximum(of_truth, 1e-9), np.nan)


def attribute_accuracy(predicted: np.ndarray, labels: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Share of right attributes per picture: int [N, A] each, counted where `visible` [N, A]. Returns [N]."""
    if predicted.shape != labels.shape or labels.shape != visible.shape:
        raise ValueError(f"shapes must agree: {predicted.shape}, {labels.shape}, {visible.shape}")
    return _masked_mean((predicted == labels).astype(np.float64), visible.astype(bool))


def normalised(generated: float, truth: float, chance: float) -> float:
    """(generated - chance) / (truth - chance): 0 = no better than chance, 1 = as good as the truth.

    NaN where truth and chance are equal within 1e-6: then the figure measures nothing.
    """
    return float("nan") if abs(truth - chance) < 1e-6 else (generated - chance) / (truth - chance)


def id_similarity(generated: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """[Eq. 5] ID_sim = cos(e_gen, e_ref), over the feature axis: [N, D] each -> [N] in [-1, 1]."""
    product = (generated * reference).sum(-1)
    return product / np.maximum(
        np.linalg.norm(generated, axis=-1) * np.linalg.norm(reference, axis=-1), 1e-12
    )


def clip_score(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """[Eq. 5] CLIP_score = cos(CLIP(x_gen), CLIP(tau)), over the feature axis: [N, D] each -> [N]."""
    return id_similarity(image, text)


def identification(
    generated: np.ndarray, reference: np.ndarray, among: int = 16, seed: int = 0
) -> np.ndarray:
    """1 where the own reference is nearest (cosine) among `among` people, else 0; row i of both = one person.

    The other `among` - 1 people are drawn without replacement for each row by `seed`, so every method
    that is compared meets the same candidates.  [N, D] each -> [N].  Rows with a NaN feature give NaN.
    Raises ValueError for fewer than `among` people.
    """
    count = len(generated)
    if count < among:
        raise ValueError(
            f"identification among {among} needs at least {among} people, got {count}: add pairs"
        )
    rng = np.random.default_rng(seed)
    hits = np.full(count, np.nan)
    gallery = np.nan_to_num(_unit(reference))
    queries = _unit(generated)
    for i in range(count):
        others = rng.choice(count - 1, among - 1, replace=False)
        others = others + (others >= i)
        if np.isfinite(queries[i]).all() and np.isfinite(reference[i]).all():
            hits[i] = float(gallery[i] @ queries[i] > (gallery[others] @ queries[i]).max())
    return hits


def copy_paste(generated: np.ndarray, reference: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How much nearer the picture lies to the reference than to the truth (embeddings [N, D] each) -> [N].

    cos(gen, ref) - cos(gen, truth), the truth being another picture of the same person: above 0 the method
    copies what is the reference's alone (its pose, light, crop), not what is the person's.
    """
    return id_similarity(generated, reference) - id_similarity(generated, truth)


def standardised(features: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`features` [N, D] in units of the truth's own spread: (f - mean) / std by column, of `truth` [M, D].

    Raw activations have whatever scale their network gives them, and FID grows with its square, KID with its
    sixth power; in these units both say how many spreads of the truth the pictures are off. A column that
    hardly moves among the truths (below a thousandth of the median spread) counts with that spread.
    """
    mean, spread = truth.mean(0, dtype=np.float64), truth.std(0, dtype=np.float64)
    least = 1e-3 * float(np.median(spread)) or 1.0
    return (features - mean) / np.maximum(spread, least)


def require_fid_samples(count: int, width: int) -> None:
    """Raises ValueError for fewer pictures than the covariance of `width` features can bear.

    FID's bias falls with N; below 2 N per feature (at most FID_SAMPLES, the usual advice) it says more of N
    than of the pictures.
    """
    needed = min(FID_SAMPLES, 2 * width)
    if count < needed:
        raise ValueError(
            f"{count} pictures are too few for FID with {width} features: at least {needed} are needed. "
            "KID has no such bias: use that, or draw more pictures"
        )


def diversity(features: np.ndarray) -> np.ndarray:
    """How much pictures of one pair differ over sampling seeds: [K, N, D] -> [N].

    Mean distance ||f_a - f_b|| / sqrt(D) over all pairs of seeds; 0 where all are alike, NaN for one seed.
    """
    seeds, _, width = features.shape
    gaps = [np.linalg.norm(features[a] - features[b], axis=-1) for a in range(seeds) for b in range(a)]
    return np.mean(gaps, axis=0) / math.sqrt(width) if gaps else np.full(features.shape[1], np.nan)


def fid(p: np.ndarray, q: np.ndarray) -> float:
    """[Eq. 5] FID = ||mu_p - mu_q||^2 + Tr(S_p + S_q - 2 (S_p S_q)^{1/2}), over features [N, D] and [M, D].

    Tr (S_p S_q)^{1/2} = Tr (S_p^{1/2} S_q S_p^{1/2})^{1/2}: a symmetric matrix, so its eigenvalues are
    enough and the result is real.  Below N = 2000 report `kid` or an interval beside it (peers.md §5).
    Raises ValueError for fewer than two rows or unlike widths.
    """
    _check_features(p, q)
    p, q = p.astype(np.float64), q.astype(np.float64)
    covariance_p, covariance_q = np.cov(p, rowvar=False), np.cov(q, rowvar=False)
    values, vectors = np.linalg.eigh(np.atleast_2d(covariance_p))
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ np.atleast_2d(covariance_q) @ root)
    trace = np.trace(np.atleast_2d(covariance_p)) + np.trace(np.atleast_2d(covariance_q))
    squared = ((p.mean(0) - q.mean(0)) ** 2).sum()
    return float(max(squared + trace - 2 * np.sqrt(np.maximum(inner, 0)).sum(), 0.0))


def kid(p: np.ndarray, q: np.ndarray) -> float:
    """Kernel inception distance: unbiased MMD^2 with (x.y / D + 1)^3, features [N, D] and [M, D].

    Can be slightly negative for equal distributions; needs no large N (Binkowski et al. 2018).
    """
    _check_features(p, q)
    p, q = p.astype(np.float64), q.astype(np.float64)
    within = [_off_diagonal_mean((x @ x.T / x.shape[1] + 1) ** 3) for x in (p, q)]
    return float(within[0] + within[1] - 2 * ((p @ q.T / p.shape[1] + 1) ** 3).mean())


def bootstrap(values: np.ndarray, level: float = 0.95, rounds: int = 1000, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean of `values` [N]; NaN values are left out. An empty input gives NaN."""
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[np.isfinite(kept)]
    if len(kept) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    rng = np.random.default_rng(seed)
    means = kept[rng.integers(0, len(kept), (rounds, len(kept)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(kept.mean()), float(low), float(high), len(kept))


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, level: float = 0.95, rounds: int = 1000, seed: int = 0
) -> Interval:
    """Bootstrap of the mean difference a - b over pictures measured by both; [N] each, row i = one pair.

    An interval without 0 says that the two differ.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"paired values must have one shape, got {np.shape(a)} and {np.shape(b)}")
    return bootstrap(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), level, rounds, seed)


def ratio_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    chance: np.ndarray | None = None,
    level: float = 0.95,
    rounds: int = 1000,
    seed: int = 0,
) -> Interval:
    """Bootstrap of (mean a - mean chance) / (mean b - mean chance) over pictures measured by all; [N] each.

    Without `chance`: a's share of b. The mean is NaN where b is within 1e-6 of chance. Row i = one pair.
    Raises ValueError for unlike shapes.
    """  # fmt: skip
    floor = np.zeros(np.shape(b)) if chance is None else chance
    if not np.shape(a) == np.shape(b) == np.shape(floor):
        raise ValueError(
            f"paired values must have one shape, got {np.shape(a)}, {np.shape(b)}, {np.shape(floor)}"
        )
    columns = np.stack([a, b, floor]).astype(np.float64)
    kept = columns[:, np.isfinite(columns).all(0)]
    count = kept.shape[1]
    if count == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    drawn = kept[:, np.random.default_rng(seed).integers(0, count, (rounds, count))].mean(-1)  # [3, rounds]
    ratios = [normalised(*means) for means in drawn.T]
    low, high = (
        np.nanquantile(ratios, [(1 - level) / 2, (1 + level) / 2])
        if np.isfinite(ratios).any()
        else (math.nan, math.nan)
    )
    return Interval(float(normalised(*kept.mean(1))), float(low), float(high), count)


def _masked_mean(values: np.ndarray, mask: np.ndarray, minimum: int = 1) -> np.ndarray:
    """Mean of `values` [N, K] over axis 1 where `mask`; NaN where fewer than `minimum` are masked in."""
    count = mask.sum(1)
    total = np.where(mask, values, 0.0).sum(1, dtype=np.float64)
    return np.where(count >= minimum, total / np.maximum(count, 1), np.nan)


def _unit(features: np.ndarray) -> np.ndarray:
    """Rows of `features` [N, D] at length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def _off_diagonal_mean(kernel: np.ndarray) -> float:
    """Mean of a square kernel matrix without its diagonal."""
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))


def _check_features(p: np.ndarray, q: np.ndarray) -> None:
    if p.ndim != 2 or q.ndim != 2 or p.shape[1] != q.shape[1] or min(len(p), len(q)) < 2:
        raise ValueError(
            f"features must be [N, D] and [M, D] with N, M >= 2 and one D, not {p.shape} and {q.shape}"
        )
