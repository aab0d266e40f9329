"""Poses: names, drawing, reading back and proportions."""

import numpy as np
import pytest

from bolid.pose import (
    BODY12,
    FACE,
    JOINTS,
    LIMBS,
    MIRROR,
    POSE_NAMES,
    POSES,
    Pose,
    known,
    read_skeleton_map,
    retarget,
    skeleton_map,
)


def test_tables_agree():
    assert len(JOINTS) == len(MIRROR) == 18
    assert len(LIMBS) == 17
    assert [MIRROR[i] for i in MIRROR] == list(range(18))
    assert [JOINTS[i] for i in BODY12[:4]] == ["shL", "shR", "elL", "elR"]


def test_named_poses_are_complete_and_in_the_frame():
    assert len(POSE_NAMES) >= 16
    for name in POSE_NAMES:
        points = Pose.named(name).keypoints
        assert points[:, :2].min() > 0
        assert points[:, :2].max() < 1
        assert points[1:14, 2].min() >= 0.5
    assert POSES["standing"][0, 2] == 1
    assert not POSES["standing from behind"][[0, 14, 15], 2].any()


def test_unknown_name_suggests_a_near_one():
    with pytest.raises(ValueError, match=r"Did you mean 'sitting'.*standing from behind"):
        Pose.named("siting")


@pytest.mark.parametrize("points", [np.zeros((17, 3)), np.full((18, 3), np.nan), np.full((18, 3), 2.0)])
def test_bad_key_points_are_refused(points):
    with pytest.raises(ValueError, match=r"key-point"):
        Pose(points)


def test_mirroring_twice_is_the_same_pose_and_keeps_unknown_joints():
    points = POSES["walking"].copy()
    points[4] = 0
    twice = Pose(points).mirrored().mirrored()
    np.testing.assert_allclose(twice.keypoints, points, atol=1e-6)
    assert not Pose(points).mirrored().keypoints[MIRROR[4]].any()


def test_known_marks_hidden_body_joints_but_not_the_face():
    points = POSES["standing"].copy()
    points[:, 2] = 0
    points[4] = 0
    marked = known(points)
    assert marked[4, 2] == 0
    assert marked[3, 2] == 0.5
    assert not marked[list(FACE), 2].any()


def test_skeleton_map_leaves_unknown_joints_out_and_dims_hidden_ones():
    points = POSES["arms raised"].copy()
    full = skeleton_map(points[None], 192, 128)
    assert full.shape == (1, 192, 128, 3)
    dim = points.copy()
    dim[2:5, 2] = 0.5
    none = points.copy()
    none[2:5, 2] = 0
    sums = [skeleton_map(p[None], 192, 128).astype(int).sum() for p in (points, dim, none)]
    assert sums[0] > sums[1] > sums[2]
    assert not skeleton_map(np.zeros((1, 18, 3)), 64, 64).any()


@pytest.mark.parametrize("name", ["standing", "arms raised from behind", "waving", "dancing", "sitting"])
@pytest.mark.parametrize("size", [(192, 128), (768, 512)])
def test_skeleton_map_is_read_back(name, size):
    points = POSES[name]
    read = read_skeleton_map(skeleton_map(points[None], *size)[0])
    assert read is not None
    drawn = points[:, 2] > 0
    assert (read.keypoints[drawn, 2] > 0).all()
    error = np.abs(read.keypoints[drawn, :2] - points[drawn, :2]) * size[::-1]
    assert error.max() < 3 * size[0] / 192


def test_other_pictures_are_no_skeleton_maps():
    noise = np.random.default_rng(0).integers(0, 256, (192, 128, 3), dtype=np.uint8)
    assert read_skeleton_map(noise) is None
    assert read_skeleton_map(np.zeros((192, 128, 3), np.uint8)) is None
    stripe = np.zeros((192, 128, 3), np.uint8)
    stripe[:, 60:64] = 255
    assert read_skeleton_map(stripe) is None


@pytest.mark.parametrize("name", ["standing", "sitting", "running", "lying"])
def test_retarget_to_oneself_changes_nothing(name):
    points = POSES[name]
    np.testing.assert_allclose(retarget(points, points), points, atol=1e-5)


def test_retarget_takes_no_limb_s_length_from_a_picture_that_may_foreshorten_it():
    short = POSES["standing"].copy()
    for hip, knee, ankle in ((8, 9, 10), (11, 12, 13)):
        short[[knee, ankle], 1] = short[hip, 1] + 0.6 * (short[[knee, ankle], 1] - short[hip, 1])
    target = POSES["arms raised"]
    result = retarget(target, short)
    for a, b in ((8, 9), (9, 10), (11, 12), (12, 13)):
        assert width(result, a, b) == pytest.approx(width(target, a, b), rel=1e-4)
    assert (result[:, 2] == target[:, 2]).all()


def width(points, a, b):
    return np.linalg.norm((points[a, :2] - points[b, :2]) * (2 / 3, 1))


def narrow_hips(share):
    """ "standing" with hips (and legs) brought together."""
    points = POSES["standing"].copy()
    points[8:14, 0] = 0.5 + share * (points[8:14, 0] - 0.5)
    return points


def squeezed(points, share):
    """The pose turned to the side, so far that `share` of its width is left."""
    turned = points.copy()
    turned[:, 0] = 0.5 + share * (turned[:, 0] - 0.5)
    return turned


def grown(result, target):
    """How much wider shoulders and hips are."""
    return [width(result, *ends) / width(target, *ends) for ends in ((2, 5), (8, 11))]


@pytest.mark.parametrize("turn", [1.0, 0.8])
def test_retarget_gives_shoulders_and_hips_of_the_reference_however_it_is_turned(turn):
    target = POSES["standing"]
    result = retarget(target, squeezed(narrow_hips(0.7), turn))
    ratio = width(target, 8, 11) / width(narrow_hips(0.7), 8, 11)
    assert grown(result, target) == pytest.approx([ratio**0.33, ratio**-0.5], rel=0.03)
    assert abs(result[[10, 13], 1].max() - target[[10, 13], 1].max()) < 1e-5  # on the same ground


def test_retarget_takes_an_absurd_width_for_a_mistake():
    target, reference = POSES["standing"], POSES["standing"].copy()
    reference[[2, 5], 0] = 0.5 + 2.5 * (reference[[2, 5], 0] - 0.5)
    assert grown(retarget(target, reference), target) == pytest.approx([1.7**0.33, 1.7**-0.5], rel=0.01)


def test_retarget_reads_no_width_from_the_side_or_without_a_joint():
    target, reference = POSES["standing"], narrow_hips(0.7)
    without = reference.copy()
    without[8] = 0
    assert grown(retarget(target, squeezed(reference, 0.2)), target) == pytest.approx([1, 1], rel=1e-4)
    assert grown(retarget(target, without), target) == pytest.approx([1, 1], rel=1e-4)
    sideways = squeezed(target, 0.2)
    assert grown(retarget(sideways, reference), sideways) == pytest.approx([1, 1], rel=1e-4)


def test_retarget_keeps_the_size_of_a_person_whose_feet_are_at_the_frame_s_edge():
    low = POSES["standing"].copy()
    low[:, 1] += 0.1
    np.testing.assert_allclose(retarget(low, low), low, atol=1e-5)


def test_retarget_works_with_half_a_person():
    target = POSES["standing"].copy()
    target[[9, 10, 12, 13]] = 0
    result = retarget(target, POSES["walking"])
    assert not result[[9, 10, 12, 13]].any()
    assert np.isfinite(result).all()
