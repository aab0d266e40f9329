"""Metrics against figures that can be worked out by hand, and against properties that must hold."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from bolid import metrics

SIZE = (200, 100)  # height, width in pixels


def person(count: int = 3, seed: int = 0) -> np.ndarray:
    """Key-points [count, 18, 3] inside the frame, all visible."""
    points = np.random.default_rng(seed).uniform(0.2, 0.8, (count, 18, 3))
    points[..., 2] = 1
    return points


def moved(points: np.ndarray, joint: int, pixels: float) -> np.ndarray:
    """`points` with one joint moved to the right by so many pixels."""
    other = points.copy()
    other[:, joint, 0] += pixels / SIZE[1]
    return other


def test_pck_counts_the_visible_joints_within_alpha_of_the_diagonal():
    target = person()
    diagonal = metrics.box_scale(target, SIZE)[0]
    assert metrics.pck(target, target, SIZE) == pytest.approx(1)
    near, far = moved(target, 4, 0.09 * diagonal.min()), moved(target, 4, 0.11 * diagonal.max())
    assert metrics.pck(near, target, SIZE) == pytest.approx(1)
    assert metrics.pck(far, target, SIZE) == pytest.approx(17 / 18)
    target[:, 4, 2] = 0
    assert metrics.pck(far, target, SIZE) == pytest.approx(1)


def test_pck_of_a_target_without_visible_joints_is_nan_and_bootstrap_skips_it():
    target = person(4)
    target[0, :, 2] = 0
    values = metrics.pck(target, target, SIZE)
    assert np.isnan(values[0])
    interval = metrics.bootstrap(values)
    assert (interval.mean, interval.count) == (1.0, 3)


def test_oks_follows_its_formula():
    target = person(1)
    area = metrics.box_scale(target, SIZE)[1][0]
    expected = (17 + math.exp(-(5**2) / (2 * area * (2 * metrics.OKS_SIGMAS[4]) ** 2))) / 18
    assert metrics.oks(moved(target, 4, 5), target, SIZE) == pytest.approx(expected)


def test_bone_ratio_error_ignores_size_and_sees_a_longer_leg():
    target = person(1)
    target[0, [1, 8, 11, 9, 10], :2] = [[0.5, 0.2], [0.45, 0.5], [0.55, 0.5], [0.45, 0.7], [0.45, 0.9]]
    smaller = target.copy()
    smaller[..., :2] = 0.5 + 0.6 * (target[..., :2] - 0.5)
    assert metrics.bone_ratio_error(smaller, target, SIZE) == pytest.approx(0, abs=1e-9)
    longer = target.copy()
    longer[0, 10, 1] = 0.98
    assert metrics.bone_ratio_error(longer, target, SIZE)[0] > 0.01


def test_appearance_error_is_measured_inside_each_part():
    truth = np.zeros((1, 8, 8, 3), np.uint8)
    parts = np.zeros((1, 8, 8), np.uint8)
    parts[0, :4], parts[0, 4:6] = 1, 2
    drawn = truth.copy()
    drawn[0, :4] = 255
    drawn[0, 6:] = 99  # background: not a part
    errors = metrics.appearance_error(drawn, truth, parts)
    assert errors.shape == (1, 4)
    assert errors[0, :2] == pytest.approx([metrics.RAW_RGB_MAX, 0])
    assert np.isnan(errors[0, 2:]).all()
    with pytest.raises(ValueError, match="must agree"):
        metrics.appearance_error(drawn, truth, parts[:, :4])


def test_attributes_count_where_visible_and_normalise_between_chance_and_truth():
    labels = np.array([[0, 1, 2], [1, 1, 1]])
    predicted = np.array([[0, 0, 2], [1, 1, 1]])
    visible = np.array([[True, True, False], [False, False, False]])
    values = metrics.attribute_accuracy(predicted, labels, visible)
    assert values[0] == pytest.approx(0.5)
    assert np.isnan(values[1])
    assert metrics.normalised(0.6, 0.9, 0.3) == pytest.approx(0.5)
    assert math.isnan(metrics.normalised(0.6, 0.3, 0.3))


def test_identification_is_sure_of_copies_and_blind_to_noise():
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(400, 16))
    assert metrics.identification(gallery, gallery).mean() == 1
    assert metrics.identification(rng.normal(size=(400, 16)), gallery).mean() == pytest.approx(
        1 / 16, abs=0.05
    )
    with pytest.raises(ValueError, match="at least 16"):
        metrics.identification(gallery[:5], gallery[:5])


def test_identification_does_not_reward_features_that_are_all_alike():
    assert metrics.identification(np.ones((40, 4)), np.ones((40, 4))).mean() == 0


def test_id_similarity_is_a_cosine():
    assert metrics.id_similarity(np.array([[3.0, 0], [0, 1]]), np.array([[1.0, 0], [1, 0]])) == pytest.approx(
        [1, 0]
    )


def test_fid_of_gaussians_is_what_the_formula_gives():
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(20000, 4)), 2 * rng.normal(size=(20000, 4)) + 1
    # |mu|^2 = 4, Tr(I + 4 I - 2 * 2 I) = 4
    assert metrics.fid(p, q) == pytest.approx(8, rel=0.05)
    assert metrics.fid(p, p) == pytest.approx(0, abs=1e-6)
    assert metrics.fid(p, q) == pytest.approx(metrics.fid(q, p), rel=1e-6)


def test_fid_stands_more_features_than_rows():
    rng = np.random.default_rng(0)
    assert math.isfinite(metrics.fid(rng.normal(size=(8, 32)), rng.normal(size=(9, 32))))


def test_kid_is_about_zero_for_one_distribution_and_grows_with_the_shift():
    rng = np.random.default_rng(0)
    p, same, shifted = (rng.normal(size=(500, 8)) + shift for shift in (0, 0, 1))
    assert abs(metrics.kid(p, same)) < 0.02 < metrics.kid(p, shifted)


def test_feature_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        metrics.fid(np.zeros((4, 3)), np.zeros((4, 2)))


def test_standardised_features_make_the_distances_free_of_scale():
    rng = np.random.default_rng(0)
    truth, drawn = rng.normal(3, 2, (600, 8)), rng.normal(4, 2, (600, 8))
    truth[:, 3] = drawn[:, 3] = 5.0  # a column that never moves is no division by zero
    for scale in (1.0, 1000.0):
        p, q = (metrics.standardised(scale * x, scale * truth) for x in (drawn, truth))
        assert np.isfinite(p).all()
        assert metrics.fid(p, q) == pytest.approx(7 * 0.25, rel=0.25)  # half a spread off in each of 7
        assert metrics.kid(p, q) < 2


def test_fid_refuses_what_it_cannot_bear():
    with pytest.raises(ValueError, match=r"64 pictures are too few for FID .* 448 are needed. KID"):
        metrics.require_fid_samples(64, 224)
    metrics.require_fid_samples(448, 224)
    metrics.require_fid_samples(2000, 2048)


def test_oks_ap_is_the_share_of_thresholds_that_are_reached():
    assert metrics.oks_ap(np.array([1.0, 0.499, 0.72, np.nan]))[:3] == pytest.approx([1.0, 0.0, 0.5])
    assert np.isnan(metrics.oks_ap(np.array([np.nan])))


def test_a_face_is_seen_by_nose_and_an_eye():
    points = person(3)
    points[1, 0, 2] = points[2, 14, 2] = points[2, 15, 2] = 0
    assert metrics.face_seen(points).tolist() == [True, False, False]


def test_diversity_is_nothing_for_one_picture_over_and_over():
    features = np.random.default_rng(0).normal(size=(1, 5, 16))
    assert metrics.diversity(np.repeat(features, 3, 0)) == pytest.approx(0)
    fresh = np.random.default_rng(1).normal(size=(3, 2000, 16))
    assert metrics.diversity(fresh).mean() == pytest.approx(math.sqrt(2), rel=0.05)
    assert np.isnan(metrics.diversity(features)).all()


def test_bootstrap_covers_the_mean_and_is_reproducible():
    values = np.random.default_rng(0).normal(5, 1, 400)
    interval = metrics.bootstrap(values)
    assert interval.low < 5 < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert interval == metrics.bootstrap(values)
    assert metrics.bootstrap(np.array([np.nan])).count == 0


def test_pairs_tell_a_small_difference_that_the_spread_would_hide():
    rng = np.random.default_rng(0)
    a = rng.normal(0, 10, 200)
    interval = metrics.paired_bootstrap(a + 0.5 + rng.normal(0, 0.1, 200), a)
    assert 0 < interval.low < 0.5 < interval.high < 1


def test_psnr_of_one_grey_level_is_48_db():
    a = np.full((1, 4, 4, 3), 100, np.uint8)
    assert metrics.psnr(a, a + 1) == pytest.approx([48.13], abs=0.01)


def test_sharpness_is_the_truths_share_of_contrast_between_neighbours():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (2, 12, 8, 3), np.uint8)
    halved = (truth // 2).astype(np.uint8)
    assert metrics.sharpness(truth, truth) == pytest.approx([1, 1])
    assert metrics.sharpness(halved, truth) == pytest.approx([0.5, 0.5], abs=0.01)
    blurred = np.stack([cv2.blur(picture, (3, 3)) for picture in truth])
    assert (metrics.sharpness(blurred, truth) < 0.5).all()
    assert np.isnan(metrics.sharpness(truth, np.zeros_like(truth))).all()


def test_psnr_of_a_mask_counts_its_pixels_alone():
    truth = np.full((2, 8, 8, 3), 100, np.uint8)
    spoilt, where = truth.copy(), np.zeros((2, 8, 8), bool)
    where[0, :4] = True
    spoilt[0, :4] += 10
    inside, outside = metrics.psnr(spoilt, truth, where), metrics.psnr(spoilt, truth, ~where)
    assert inside[0] == pytest.approx(20 * math.log10(255 / 10), abs=1e-4)
    assert math.isnan(inside[1])
    assert outside == pytest.approx([99, 99])


def test_a_ratio_is_one_for_itself_and_zero_at_chance():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.8, 1.0, 200)
    chance = rng.uniform(0.2, 0.4, 200)
    same = metrics.ratio_bootstrap(truth, truth, chance)
    assert (same.mean, same.low, same.high, same.count) == pytest.approx((1, 1, 1, 200))
    assert metrics.ratio_bootstrap(chance, truth, chance).mean == pytest.approx(0)
    half = metrics.ratio_bootstrap(truth / 2, truth)
    assert half.low == pytest.approx(0.5) == half.high
    truth[:199] = np.nan
    assert metrics.ratio_bootstrap(truth, truth).count == 1
    assert math.isnan(metrics.ratio_bootstrap(chance, chance, chance).mean)
    with pytest.raises(ValueError, match="shape"):
        metrics.ratio_bootstrap(truth, truth[:3])
