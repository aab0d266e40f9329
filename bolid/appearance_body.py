"""A body by its key-points: limbs, torso and head as the appearance map needs them.

All lengths are in pixels, points are (x, y) with pixel centres at halves. One body unit is about the height
of a standing person / 1.75; widths and bone lengths below are in that unit (from the avatars; people are near
enough, because the reference's part labels trim every shape).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MID_HIP, MID_SHOULDER, HEAD, HEEL_R, TOE_R, HEEL_L, TOE_L, HAND_R, HAND_L = range(18, 27)
HEAD_RADIUS = 0.144  # body units
FACE = (0, 14, 15, 16, 17)


@dataclass(frozen=True)
class Limb:
    """A bone with a radius at each end. label: the part labels (1 head ... 4 feet) its pixels can have."""

    name: str
    start: int
    end: int
    radius: tuple[float, float]
    labels: tuple[int, ...]
    mirror: int  # id of the same limb on the other side


# id 0 is nobody; 9 and 10 follow OpenPose's order right before left
LIMBS = (
    Limb("thigh R", 8, 9, (0.095, 0.066), (3,), 2),
    Limb("thigh L", 11, 12, (0.095, 0.066), (3,), 1),
    Limb("shin R", 9, 10, (0.066, 0.05), (3, 4), 4),
    Limb("shin L", 12, 13, (0.066, 0.05), (3, 4), 3),
    Limb("foot R", HEEL_R, TOE_R, (0.05, 0.042), (4,), 6),
    Limb("foot L", HEEL_L, TOE_L, (0.05, 0.042), (4,), 5),
    Limb("arm R", 2, 3, (0.062, 0.05), (2,), 8),
    Limb("arm L", 5, 6, (0.062, 0.05), (2,), 7),
    Limb("forearm R", 3, HAND_R, (0.05, 0.044), (2,), 10),
    Limb("forearm L", 6, HAND_L, (0.05, 0.044), (2,), 9),
)
TORSO, HEAD_ID, LOOSE = (
    11,
    12,
    13,
)  # ids after the limbs'; LOOSE: an upper-part pixel far from every bone, a bag
IDS = 14


@dataclass(frozen=True)
class Body:
    """points [B, 27, 2] px, confidence [B, 27], unit [B] px, yaw's sine and cosine [B] (0: facing the viewer,
    sine > 0: facing the picture's right), head frame [B, 3, 3] (columns: the person's left, up, forward in
    camera axes right, down, to the viewer), facing [B] bool: the face is seen.
    """

    points: Tensor
    confidence: Tensor
    unit: Tensor
    sine: Tensor
    cosine: Tensor
    head: Tensor
    facing: Tensor

    def torso_frame(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Start (mid-shoulder) [B, 2], along (to the mid-hip, not normalised) [B, 2], across (unit) [B, 2]
        and half widths at both ends [B, 2].
        """
        start = self.points[:, MID_SHOULDER]
        along = self.points[:, MID_HIP] - start
        short = along.norm(dim=-1, keepdim=True) < 0.05 * self.unit[:, None]
        along = torch.where(short, along.new_tensor([0.0, 1.0]) * 0.05 * self.unit[:, None], along)
        across = F.normalize(torch.stack([along[:, 1], -along[:, 0]], -1), dim=-1)
        shoulders = ((self.points[:, 5] - self.points[:, 2]) * across).sum(-1).abs() / 2
        hips = ((self.points[:, 11] - self.points[:, 8]) * across).sum(-1).abs() / 2
        # seen from the side the depth of the chest remains: 0.08 units; the flesh outside the joints comes on
        # top
        depth, unit = 0.08 * self.unit, self.unit
        widths = torch.hypot(shoulders, depth) + 0.015 * unit, torch.hypot(hips, depth) + 0.06 * unit
        return start, along, across, torch.stack(widths, -1)


def body_of(keypoints: Tensor, height: int, width: int) -> Body:
    """Measure a body. keypoints: [B, 18, 3], x, y in [0, 1]."""
    joints = keypoints[..., :2] * keypoints.new_tensor([width, height])
    sure = keypoints[..., 2]
    middle = torch.stack([joints[:, [8, 11]].mean(1), joints[:, [2, 5]].mean(1)], 1)
    middle_sure = torch.stack([sure[:, [8, 11]].amin(1), sure[:, [2, 5]].amin(1)], 1)
    unit = _unit(joints, sure, middle[:, 0], middle_sure[:, 0])
    centre, frame, facing = _head(joints, sure, middle[:, 0], unit)
    sine, cosine, feet_sine = _yaw(joints, middle, frame, unit)
    feet, hands = _extremities(joints, unit, feet_sine, cosine)
    points = torch.cat([joints, middle, centre[:, None], feet, hands], 1)
    ends = torch.stack([sure[:, i] for i in (1, 10, 10, 13, 13, 4, 7)], 1)
    return Body(points, torch.cat([sure, middle_sure, ends], 1), unit, sine, cosine, frame, facing)


def _unit(joints: Tensor, sure: Tensor, mid_hip: Tensor, mid_hip_sure: Tensor) -> Tensor:
    """Pixels per body unit: a projection only shortens, so the largest of the bones' estimates.

    Two of them may be misread joints: what exceeds the third largest by more than a tenth is not believed.
    """
    bones = ((8, 9, 0.43), (11, 12, 0.43), (9, 10, 0.41), (12, 13, 0.41), (2, 3, 0.285), (5, 6, 0.285),
             (3, 4, 0.25), (6, 7, 0.25), (2, 5, 0.37))  # fmt: skip
    # bones under noise: the shorter, the less is it believed
    sizes = [
        (joints[:, a] - joints[:, b]).norm(dim=-1)
        / length
        * (sure[:, a] * sure[:, b] > 0)
        * min(1, 0.8 + 0.5 * length)
        for a, b, length in bones
    ]
    sizes.append((joints[:, 1] - mid_hip).norm(dim=-1) / 0.54 * (sure[:, 1] * mid_hip_sure > 0))
    size = torch.stack(sizes, -1)
    third = size.topk(3, -1).values[:, -1:]
    believed = (size <= 1.1 * third) | (third == 0)
    return torch.where(believed, size, 0.0).amax(-1).clamp_min(4.0)


def _head(joints: Tensor, sure: Tensor, mid_hip: Tensor, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Head centre [B, 2] px, frame [B, 3, 3], face seen [B].

    The ears lie at both ends of the head's left-right axis, the nose at the end of its forward axis, one
    radius from the centre; what the picture flattens is won back from the axes' unit length and right angles.
    """
    radius = HEAD_RADIUS * unit[:, None]
    neck, left, right = joints[:, 1], joints[:, 17], joints[:, 16]
    facing = (sure[:, [0, 14, 15]] > 0.05).any(-1)
    up = F.normalize(neck - mid_hip, dim=-1, eps=1e-3)
    middle, half = (left + right) / 2, (left - right) / 2
    # hidden ears count when they could be ears: about as far from the neck and from each other as a head
    # allows
    lift = (middle - neck).norm(dim=-1, keepdim=True) / radius
    placed = ((left != 0) & (right != 0)).any(-1, keepdim=True)
    ears = placed & (half.norm(dim=-1, keepdim=True) < 1.3 * radius) & (lift > 0.25) & (lift < 2.6)
    centre = torch.where(ears, middle, _centre_without_ears(joints, sure, neck + 1.3 * radius * up, radius))
    upward = F.pad(F.normalize(centre - neck, dim=-1, eps=1e-3), (0, 1))
    flat = _forward(joints, centre, upward[:, :2], radius)
    forward = _lengthened(flat, torch.where(facing, 1.0, -1.0)[:, None])
    # the left axis: two depths fit the ears, the right one has the head's top on the neck's far side
    guess = torch.linalg.cross(forward, upward)
    sides = [_lengthened(half / radius, half.new_tensor(sign)) for sign in (1.0, -1.0)]
    sides = [F.normalize(side - (side * forward).sum(-1, True) * forward, dim=-1, eps=1e-3) for side in sides]
    fits = [(side * guess).sum(-1, True) for side in sides]
    side = torch.where(fits[0] > fits[1], sides[0], sides[1])
    side = torch.where(ears & (torch.maximum(*fits) > 0), side, F.normalize(guess, dim=-1, eps=1e-3))
    return centre, torch.stack([side, torch.linalg.cross(side, forward), forward], -1), facing


def _forward(joints: Tensor, centre: Tensor, up: Tensor, radius: Tensor) -> Tensor:
    """The forward axis as the picture shows it, [B, 2], from the nose and, to halve the noise, the eyes
    (which lie 0.92 radii before the centre and 0.12 above); zero where neither can be a part of this head.
    """
    nose = (joints[:, 0] - centre) / radius
    eyes = ((joints[:, [14, 15]].mean(1) - centre) / radius - 0.12 * up) / 0.92
    placed = [
        (joints[:, points] != 0).any(-1).all(-1, keepdim=True) & (flat.norm(dim=-1, keepdim=True) < 1.5)
        for points, flat in (([0], nose), ([14, 15], eyes))
    ]
    count = (placed[0].to(nose.dtype) + placed[1]).clamp_min(1)
    return (torch.where(placed[0], nose, 0.0) + torch.where(placed[1], eyes, 0.0)) / count


def _centre_without_ears(joints: Tensor, sure: Tensor, guess: Tensor, radius: Tensor) -> Tensor:
    """The guess above the neck, moved so far that the face's seen points lie within the head's outline."""
    seen = (sure[:, list(FACE)] > 0.05).to(joints.dtype).unsqueeze(-1)
    features = (joints[:, list(FACE)] * seen).sum(1) / seen.sum(1).clamp_min(1)
    offset = torch.where(seen.sum(1) > 0, features - guess, torch.zeros_like(guess))
    far = offset.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    return guess + offset * (1 - 0.7 * radius / far).clamp_min(0)


def _lengthened(flat: Tensor, sign: Tensor) -> Tensor:
    """The unit vector [B, 3] that projects to flat [B, 2] (shortened to length 1 where longer)."""
    flat = flat / flat.norm(dim=-1, keepdim=True).clamp_min(1.0)
    return torch.cat([flat, (1 - flat.square().sum(-1, True)).clamp_min(0).sqrt() * sign], -1)


def _yaw(joints: Tensor, middle: Tensor, head: Tensor, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sine and cosine of the body's turn, and the sine for the feet.

    The cosine by the shoulders' width, the sine's size from it and its sign by the head. Near the front and
    the back, where the cosine says little, the feet rather follow the head.
    """
    along = F.normalize(middle[:, 0] - middle[:, 1], dim=-1, eps=1e-3)
    across = torch.stack([along[:, 1], -along[:, 0]], -1)
    cosine = (((joints[:, 5] - joints[:, 2]) * across).sum(-1) / (0.37 * unit)).clamp(-1, 1)
    looking = (head[:, :2, 2] * across).sum(-1)
    sine = torch.where(looking >= 0, 1.0, -1.0) * (1 - cosine.square()).sqrt()
    share = ((cosine.abs() - 0.5) / 0.4).clamp(0, 1)  # of the head's direction
    return sine, cosine, share * looking.clamp(-0.7, 0.7) + (1 - share) * sine


def _extremities(joints: Tensor, unit: Tensor, sine: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor]:
    """Heels, toes and hands, which OpenPose's 18 points lack: [B, 4, 2] and [B, 2, 2] px.

    A foot on the ground points where the body faces (from a camera somewhat above, a foot that points to the
    viewer points down); under a shin that does not stand upright it is held at a right angle to the shin.
    """
    unit, sine, cosine = unit[:, None], sine[:, None], cosine[:, None]
    feet, hands = [], []
    down = joints.new_tensor([0.0, 1.0])
    for knee, ankle in ((9, 10), (12, 13)):
        shin = F.normalize(joints[:, ankle] - joints[:, knee], dim=-1, eps=1e-3)
        upright = ((shin[:, 1:] - 0.6) / 0.3).clamp(0, 1)
        level = torch.cat([sine, 0.2 * cosine], -1)
        bent = torch.cat([sine * shin[:, 1:], -sine * shin[:, :1]], -1) + 0.25 * cosine * down
        forward = upright * level + (1 - upright) * bent
        sole = joints[:, ankle] + 0.05 * unit * (upright * down + (1 - upright) * shin)
        feet += [sole - 0.04 * unit * forward, sole + 0.15 * unit * forward]
    for elbow, wrist in ((3, 4), (6, 7)):
        hands.append(joints[:, wrist] + 0.25 * (joints[:, wrist] - joints[:, elbow]))
    return torch.stack(feet, 1), torch.stack(hands, 1)
