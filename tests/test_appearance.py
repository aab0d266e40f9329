"""The appearance map on avatars: pixels of the right part at the right place, and what strength 0 means."""

import numpy as np
import pytest
import torch

from bolid.appearance import appearance_layers, appearance_map, fade
from bolid.appearance_body import body_of
from bolid.avatars.world import sample_row
from bolid.pose import POSES, known

PAIRS = 8


@pytest.fixture(scope="module")
def pairs():
    rows = [sample_row(seed, "validation") for seed in range(PAIRS)]

    def stack(name):
        return torch.from_numpy(np.stack([row[name] for row in rows]))

    def picture(name):
        return stack(name).permute(0, 3, 1, 2).float() / 127.5 - 1

    def points(name):
        return torch.from_numpy(known(stack(name).numpy()))

    inputs = (
        picture("reference"),
        stack("reference_masks"),
        points("reference_keypoints"),
        points("keypoints"),
    )
    return inputs, picture("image"), stack("masks")


def test_shapes_ranges_and_parts(pairs):
    inputs, _, _ = pairs
    rgb, part = appearance_layers(*inputs)
    assert rgb.shape == (PAIRS, 3, 192, 128)
    assert part.dtype == torch.uint8
    assert part.max() <= 4
    assert rgb.abs().max() <= 1
    assert not rgb.permute(0, 2, 3, 1)[part == 0].any()


def test_the_map_lies_on_the_target_and_has_its_colours(pairs):
    inputs, image, masks = pairs
    rgb, part = appearance_layers(*inputs)
    covered, person = part > 0, masks > 0
    overlap = (covered & person).sum() / (covered | person).sum()
    assert overlap > 0.75
    assert (part == masks)[covered & person].float().mean() > 0.85
    both = (covered & person).unsqueeze(1)
    right = ((rgb - image).abs() * both).sum() / both.sum()
    wrong = ((rgb.roll(1, 0) - image).abs() * both).sum() / both.sum()
    assert right < 0.5 * wrong


def test_the_reference_s_own_pose_gives_the_reference(pairs):
    (reference, parts, points, _), _, _ = pairs
    rgb, part = appearance_layers(reference, parts, points, points)
    both = (part > 0) & (parts > 0)
    assert both.sum() > 0.9 * (parts > 0).sum()
    error = (rgb - reference).abs().mean(1)[both]
    assert error.median() < 0.02


def test_no_background_comes_in(pairs):
    (reference, parts, points, target), _, _ = pairs
    painted = torch.where((parts > 0).unsqueeze(1), reference, torch.tensor([1.0, -1.0, 1.0])[:, None, None])
    torch.testing.assert_close(
        appearance_layers(reference, parts, points, target)[0],
        appearance_layers(painted, parts, points, target)[0],
    )


def test_a_part_of_strength_zero_was_never_drawn(pairs):
    inputs, _, _ = pairs
    strength = torch.ones(PAIRS, 4)
    strength[:, 1] = 0
    faded = appearance_map(*inputs, strength)
    without = appearance_layers(*inputs, drawn=strength > 0)
    assert not (without[1] == 2).any()
    torch.testing.assert_close(faded[:, :3], without[0])
    full = appearance_layers(*inputs)[1]
    uncovered = (full == 2) & (without[1] > 0)
    assert uncovered.any()  # what lay under an arm or a hem shows


@pytest.mark.parametrize("part", range(4))
def test_a_part_of_strength_zero_colours_no_edge(pairs, part):
    """Its colours are in no pixel of the parts beside it."""
    (picture, labels, *points), _, _ = pairs
    changed = torch.where((labels == part + 1).unsqueeze(1), -picture, picture)
    for value, same in ((0.0, True), (1.0, False)):
        strength = torch.ones(PAIRS, 4)
        strength[:, part] = value
        before, after = (appearance_map(x, labels, *points, strength) for x in (picture, changed))
        assert torch.equal(before, after) == same


@pytest.mark.parametrize(("gone", "beside"), [(3, 4), (2, 3)])
def test_a_part_does_not_spread_over_the_one_that_is_not_there(pairs, gone, beside):
    """Shoes colour no shin of trousers that were taken out, and trousers no torso of a top."""
    (picture, labels, *points), _, _ = pairs
    whole = appearance_layers(picture, labels, *points)[1] == beside
    without = torch.where(labels == gone, 0, labels)
    left = appearance_layers(picture, without, *points)[1] == beside
    assert whole.sum() / 2 < left.sum() < 1.4 * whole.sum()


def test_strength_fades_colour_and_mask(pairs):
    inputs, _, _ = pairs
    half = appearance_map(*inputs, torch.full((PAIRS, 4), 0.5))
    full = appearance_map(*inputs)
    torch.testing.assert_close(half, full * 0.5)
    assert set(full[:, 3].unique().tolist()) == {0.0, 1.0}
    assert not appearance_map(*inputs, torch.zeros(PAIRS, 4)).any()


def test_fade_takes_each_pixel_s_part():
    part = torch.tensor([[[0, 1, 2, 3, 4]]], dtype=torch.uint8)
    result = fade(torch.ones(1, 3, 1, 5), part, torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    torch.testing.assert_close(result[0, 3, 0], torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]))
    torch.testing.assert_close(result[0, 0], result[0, 3])


def test_pictures_of_a_batch_do_not_touch_each_other(pairs):
    inputs, _, _ = pairs
    together = appearance_map(*inputs)
    alone = torch.cat([appearance_map(*(each[i : i + 1] for each in inputs)) for i in range(PAIRS)])
    different = (together - alone).abs() > 1e-3  # rounding may move a border pixel
    assert different.float().mean() < 1e-5


def test_unknown_joints_leave_their_limb_out(pairs):
    (reference, parts, points, target), _, _ = pairs
    target = target.clone()
    target[:, [9, 10, 12, 13]] = 0  # knees and ankles
    part = appearance_layers(reference, parts, points, target)[1]
    assert not (part == 4).any()
    assert not appearance_layers(reference, parts, points, torch.zeros_like(points))[1].any()
    nobody = appearance_layers(reference, torch.zeros_like(parts), torch.zeros_like(points), target)
    assert not nobody[1].any()
    assert torch.isfinite(nobody[0]).all()


def test_a_back_view_gives_no_face():
    points = torch.from_numpy(np.stack([POSES["standing from behind"], POSES["standing"]]))
    parts = torch.zeros(1, 192, 128, dtype=torch.uint8)
    centre = (points[0, [16, 17], :2].mean(0) * torch.tensor([128.0, 192.0])).long()
    parts[0, centre[1] - 16 : centre[1] + 14, centre[0] - 14 : centre[0] + 14] = 1
    part = appearance_layers(torch.ones(1, 3, 192, 128), parts, points[:1], points[1:])[1]
    front = (points[1, 0, :2] * torch.tensor([128.0, 192.0])).long()
    assert part[0, front[1], front[0]] == 0  # the nose
    assert (part == 1).sum() > 50  # hair around it


@pytest.mark.parametrize("size", [(96, 64), (288, 192), (200, 200)])
def test_any_size(size):
    row = sample_row(3, "validation", height=size[0], width=size[1])
    picture = torch.from_numpy(row["reference"]).permute(2, 0, 1)[None].float() / 127.5 - 1
    points = torch.from_numpy(known(np.stack([row["reference_keypoints"], row["keypoints"]])))
    result = appearance_map(picture, torch.from_numpy(row["reference_masks"])[None], points[:1], points[1:])
    assert result.shape == (1, 4, *size)
    assert result[:, 3].mean() > 0.02


def test_wrong_shapes_name_the_cure():
    picture, parts, points = (
        torch.zeros(1, 3, 64, 64),
        torch.zeros(1, 64, 64, dtype=torch.uint8),
        torch.zeros(1, 18, 3),
    )
    with pytest.raises(ValueError, match="resize them"):
        appearance_map(picture, parts[:, :32], points, points)
    with pytest.raises(ValueError, match="target key-points"):
        appearance_map(picture, parts, points, points[:, :17])
    with pytest.raises(ValueError, match=r"RGB \[B, 3, H, W\]"):
        appearance_map(picture[:, :1], parts, points, points)


def test_two_misread_joints_do_not_change_the_scale(pairs):
    """A wrist and an ankle far off made a giant of the person, and its head's pixels twice as large."""
    inputs, _, _ = pairs
    keypoints = inputs[2].clone()
    before = body_of(keypoints, 192, 128).unit
    keypoints[:, 4, :2] = torch.tensor([0.0, 0.0])
    keypoints[:, 10, :2] = torch.tensor([1.0, 0.0])
    after = body_of(keypoints, 192, 128).unit
    assert float((after / before).log().abs().max()) < 0.15


def test_a_body_of_one_known_bone_has_its_scale():
    keypoints = torch.zeros(1, 18, 3)
    keypoints[0, 8] = torch.tensor([0.5, 0.25, 1.0])
    keypoints[0, 9] = torch.tensor([0.5, 0.75, 1.0])
    assert float(body_of(keypoints, 192, 128).unit) == pytest.approx(0.5 * 192 / 0.43)
