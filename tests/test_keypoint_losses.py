"""Losses on key-points: what they must not see, and where their gradients go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bolid import losses
from bolid.estimator import PersonEstimator
from bolid.losses import bumps, keypoint_loss, person_scale
from bolid.pose import BODY12

SIZE = (96, 64)
FORMS = ("huber", "square")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def people(rows: int = 3, joints: int = 18, seed: int = 0) -> Tensor:
    """Targets [B, J, 3] inside the frame, all seen."""
    places = torch.rand(rows, joints, 2, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.25
    return torch.cat((places, torch.ones(rows, joints, 1)), -1)


@pytest.mark.parametrize("form", FORMS)
def test_keypoint_loss_is_zero_at_equality_and_grows_with_distance(form: losses.Form) -> None:
    target = people()
    previous = keypoint_loss(target[..., :2], target, SIZE, form=form)
    assert previous.tolist() == [0, 0, 0]
    for far in (0.001, 0.01, 0.05, 0.2, 0.6):
        value = keypoint_loss(target[..., :2] + far, target, SIZE, form=form)
        assert bool((value > previous).all())
        previous = value


def test_the_square_form_is_the_literal_sum() -> None:
    target, generated = people(), people(seed=1)[..., :2]
    pixels = torch.tensor((SIZE[1], SIZE[0]))
    expected = []
    for row in range(3):
        box = target[row, :, :2] * pixels
        extent = box.amax(0) - box.amin(0)
        error = (generated[row] - target[row, :, :2])[list(BODY12)] * pixels
        expected.append(error.square().sum() / extent.prod())
    assert_close(keypoint_loss(generated, target, SIZE, form="square"), torch.stack(expected))


def test_the_robust_form_is_the_square_near_by_and_a_line_far_off() -> None:
    target, direction = people(1), torch.tensor((0.0, 1.0))
    scale = float(person_scale(target, SIZE)) / SIZE[0]

    def at(distance: float, form: losses.Form) -> float:
        return float(keypoint_loss(target[..., :2] + direction * distance * scale, target, SIZE, form=form))

    assert at(0.05, "huber") == pytest.approx(at(0.05, "square"), rel=1e-4)
    assert at(0.9, "huber") - at(0.7, "huber") == pytest.approx(at(0.7, "huber") - at(0.5, "huber"), rel=1e-3)
    assert at(0.9, "huber") < at(0.9, "square")
    assert at(0.1001, "huber") == pytest.approx(at(0.0999, "huber"), rel=5e-3)


@pytest.mark.parametrize("form", FORMS)
def test_keypoint_loss_does_not_change_when_both_move_or_grow(form: losses.Form) -> None:
    target, generated = people(), people(seed=1)[..., :2]
    before = keypoint_loss(generated, target, SIZE, form=form)
    moved = target + torch.tensor((0.1, -0.15, 0))
    assert_close(keypoint_loss(generated + torch.tensor((0.1, -0.15)), moved, SIZE, form=form), before)
    smaller = torch.cat((target[..., :2] * 0.5, target[..., 2:]), -1)
    assert_close(keypoint_loss(generated * 0.5, smaller, SIZE, form=form), before)
    assert_close(keypoint_loss(generated, target, (768, 512), form=form), before)


def test_hidden_joints_and_joints_out_of_frame_do_not_count() -> None:
    target, generated = people(1), people(1, seed=1)[..., :2]
    target[0, 3, 2], target[0, 4, 2] = 0.5, 0
    before = keypoint_loss(generated, target, SIZE)
    generated[0, 3:5] = torch.tensor(((9.0, -9.0), (torch.nan, 0)))
    assert_close(keypoint_loss(generated, target, SIZE), before, rtol=0, atol=0)
    scale = person_scale(target, SIZE)
    target[0, 3, :2] = target[0, 1, :2]  # inside the box: the scale stays
    assert_close(person_scale(target, SIZE), scale, rtol=0, atol=0)
    assert_close(keypoint_loss(generated, target, SIZE), before, rtol=0, atol=0)
    outside = target.clone()
    outside[0, 2, 0] = 1.2
    assert losses.joint_weights(outside)[0, [2, 3, 4]].tolist() == [0, 0, 0]
    face = generated.clone()
    face[0, [0, 1, 14, 15, 16, 17]] += 1  # nose, neck, eyes and ears are none of the 12
    assert_close(keypoint_loss(face, target, SIZE), before, rtol=0, atol=0)


def test_confidence_in_the_target_weighs_and_gets_no_gradient() -> None:
    target, generated = people(1), people(1, seed=1)[..., :2].requires_grad_()
    confidence = torch.full((1, 18), 0.5, requires_grad=True)
    value = keypoint_loss(generated, target, SIZE, confidence)
    assert_close(value, keypoint_loss(generated, target, SIZE) / 2)
    value.sum().backward()
    assert confidence.grad is None
    assert generated.grad is not None
    assert int((generated.grad != 0).any(-1).sum()) == 12


@pytest.mark.parametrize("form", FORMS)
def test_nothing_visible_gives_zero_and_finite_gradients(form: losses.Form) -> None:
    target = torch.zeros(2, 18, 3)
    target[1, 5] = torch.tensor((0.5, 0.5, 1.0))  # one lone joint: its box has no size
    generated = people(2)[..., :2].requires_grad_()
    value = keypoint_loss(generated, target, SIZE, form=form)
    assert value[0].item() == 0
    assert bool(value.isfinite().all())
    value.sum().backward()
    assert generated.grad is not None
    assert bool(generated.grad.isfinite().all())
    exact = target[..., :2].clone().requires_grad_()
    keypoint_loss(exact, target, SIZE, form=form).sum().backward()
    assert exact.grad is not None
    assert exact.grad.abs().max() == 0


def test_joint_orders_agree() -> None:
    openpose = people(1)
    coco = torch.zeros(1, 17, 3)
    coco[:, 5:] = openpose[:, list(BODY12)]
    for other in (coco, openpose[:, list(BODY12)]):
        assert_close(losses.body12(other), losses.body12(openpose), rtol=0, atol=0)
    with pytest.raises(ValueError, match="16 joints"):
        losses.body12(torch.zeros(1, 16, 3))


def test_soft_argmax_finds_sub_cell_peaks_and_ignores_the_other_side() -> None:
    target = people(2, 12)
    sigma = torch.full((2,), 1.5)
    maps = bumps(target, (24, 16), sigma)
    places = losses.soft_argmax(maps, beta=10)
    cells = (places - target[..., :2]) * torch.tensor((16, 24))
    assert float(cells.abs().max()) < 0.05
    other = bumps((target + 0.3) % 0.999, (24, 16), sigma) * 0.9  # a lower peak elsewhere
    both = losses.soft_argmax(torch.maximum(maps, other), beta=10)
    assert float((both - places).abs().max()) < 0.1
    assert (
        float((losses.soft_argmax(maps, beta=1, radius=None) - 0.5).abs().mean()) < 0.1
    )  # peers: the middle


def test_gradients_of_the_keypoint_loss_pull_the_peak_towards_the_target() -> None:
    heatmaps = (20 * bumps(torch.tensor([[[0.5, 0.5]] * 12]), (24, 16), torch.tensor([1.5]))).requires_grad_()
    target = torch.tensor([[[0.6, 0.5, 1.0]] * 12])
    keypoint_loss(losses.soft_argmax(heatmaps, beta=1), target, SIZE).sum().backward()
    assert heatmaps.grad is not None
    downhill = -heatmaps.grad[0].sum((0, 1))  # by column
    assert downhill[8:].sum() > 0 > downhill[:8].sum()


@pytest.mark.parametrize("logits", [True, False])
def test_heatmap_loss_sees_joints_far_off(logits: bool) -> None:
    target = people(2)
    wanted = bumps(target, (24, 16), torch.full((2,), 1.5))
    exact = wanted.clamp_min(1e-9).log() if logits else wanted
    weight = losses.joint_weights(target)
    assert float(losses.heatmap_loss(exact, wanted, weight, logits).abs().max()) < 1e-5
    away = exact.roll(9, -1).requires_grad_()
    value = losses.heatmap_loss(away, wanted, weight, logits)
    assert bool((value > 0.5).all())
    value.sum().backward()
    assert away.grad is not None
    assert away.grad.abs().amax((2, 3))[:, list(BODY12)].min() > 1e-4
    assert losses.heatmap_loss(away, wanted, torch.zeros(2, 18), logits).tolist() == [0, 0]


def test_gradients_reach_the_pixels_through_the_frozen_estimator() -> None:
    torch.manual_seed(0)
    network = PersonEstimator(96, 64, channels=(8, 8, 16), layers=1, heads=2).requires_grad_(False)
    pixels, target = random(2, 3, 96, 64).tanh().requires_grad_(), people(2)
    out = network(pixels)
    weight = losses.joint_weights(target, out.confidence.sigmoid())
    wanted = bumps(target, (24, 16), torch.ones(2))
    value = keypoint_loss(out.keypoints, target, SIZE) + losses.heatmap_loss(out.heatmaps, wanted, weight)
    assert_close(losses.soft_argmax(out.heatmaps, beta=1), out.keypoints)
    value.sum().backward()
    assert pixels.grad is not None
    assert bool((pixels.grad.abs().amax((1, 2, 3)) > 0).all())
    assert all(parameter.grad is None for parameter in network.parameters())
