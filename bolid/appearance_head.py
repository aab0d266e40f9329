"""The head's layer of an appearance map: a sphere turned by the two head poses, and what surrounds it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bolid.appearance_body import HEAD, HEAD_RADIUS, Body
from bolid.appearance_layers import Canvas
from bolid.appearance_source import Reference, Window, windows

# how far hair and hats reach from the head's centre, in head radii: up, down and to the sides
UP, DOWN, ASIDE = 2.1, 3.3, 1.95


def head_layers(canvas: Canvas, source: Reference, target: Body) -> None:
    """Skull and face as a sphere; hair and hat around it by the similarity of the two heads.

    What of the face the reference does not show stays uncovered; hidden hair and hat continue the rim.
    """
    radius, centre = HEAD_RADIUS * target.unit[:, None], target.points[:, HEAD]
    up = F.normalize(target.head[:, :2, 1], dim=-1, eps=1e-3)
    across = torch.stack([-up[:, 1], up[:, 0]], -1)  # the picture's right for an upright head
    ends = torch.stack(
        [centre + radius * (tall * up + wide * across) for tall in (UP, -DOWN) for wide in (ASIDE, -ASIDE)], 1
    )
    around = windows(ends.amin(1, True), ends.amax(1, True), canvas.height, canvas.width)[0]
    skull = windows((centre - radius)[:, None], (centre + radius)[:, None], canvas.height, canvas.width)[0]
    for window, layer in ((around, _outline), (skull, _sphere)):
        x = (window.x - centre[:, :1, None]) / radius[:, None]
        y = (window.y - centre[:, 1:, None]) / radius[:, None]
        layer(canvas, source, target, window, x, y)


def _put(
    canvas: Canvas,
    source: Reference,
    target: Body,
    window: Window,
    place: tuple[Tensor, Tensor],
    where: Tensor,
    priority: Tensor,
) -> None:
    """Lay head pixels down whose places are given in head radii from the reference's head centre."""
    radius, centre = HEAD_RADIUS * source.body.unit[:, None, None], source.body.points[:, HEAD]
    x, y = centre[:, :1, None] + place[0] * radius, centre[:, 1:, None] + place[1] * radius
    label = canvas.look_up(source.tag, x, y) % 8
    known = (target.confidence[:, HEAD] > 0.05)[:, None, None]
    canvas.put(window, where & (label == 1) & known, priority, x, y, label)


def _outline(canvas: Canvas, source: Reference, target: Body, window: Window, x: Tensor, y: Tensor) -> None:
    """Outside the skull: turned by the roll, mirrored where the heads face opposite sides."""
    up, their_up = (F.normalize(body.head[:, :2, 1], dim=-1, eps=1e-3) for body in (target, source.body))
    facing = [
        body.head[:, 1, 2] * axis[:, 0] - body.head[:, 0, 2] * axis[:, 1]
        for body, axis in ((target, up), (source.body, their_up))
    ]
    mirror = torch.where(facing[0] * facing[1] < -0.05, -1.0, 1.0)[:, None, None]
    lift = x * up[:, :1, None] + y * up[:, 1:, None]
    aside = (y * up[:, :1, None] - x * up[:, 1:, None]) * mirror
    their_x = lift * their_up[:, :1, None] - aside * their_up[:, 1:, None]
    their_y = lift * their_up[:, 1:, None] + aside * their_up[:, :1, None]
    outside = (x * x + y * y > 1) & (lift > -DOWN) & (lift < UP) & (aside.abs() < ASIDE)
    # hair falls behind the shoulders seen from the front, over the back seen from behind
    behind = (lift < -1.15) & target.facing[:, None, None]
    _put(canvas, source, target, window, (their_x, their_y), outside, torch.where(behind, -0.5, 1.0))


def _sphere(canvas: Canvas, source: Reference, target: Body, window: Window, x: Tensor, y: Tensor) -> None:
    """Within the skull: each point of the target's sphere is looked for on the reference's, then its mirror
    point (faces are symmetric), then, if it is no face, on the rim of the reference's upper half.
    """
    depth = (1 - x * x - y * y).clamp_min(0).sqrt()
    left, up, forward = (_along(target.head[:, :, axis], x, y, depth) for axis in range(3))
    turn = source.body.head.transpose(1, 2)  # rows: the picture's axes in the head's
    there = [_along(turn[:, :, axis], left, up, forward) for axis in range(3)]
    mirrored = [_along(turn[:, :, axis], -left, up, forward) for axis in range(3)]
    seen, mirror_seen = there[2] > 0.05, mirrored[2] > 0.05
    rim = [_along(turn[:, :, axis], left, up.abs() + 0.35, torch.zeros_like(up)) for axis in range(2)]
    length = torch.sqrt(rim[0] * rim[0] + rim[1] * rim[1]).clamp_min(1e-3) / 0.98
    place = [
        torch.where(seen, there[axis], torch.where(mirror_seen, mirrored[axis], rim[axis] / length))
        for axis in range(2)
    ]
    # the face begins some way above the eyes and reaches lower at the sides' front: a cap about (0, -0.6, 1)
    unknown_face = (forward - 0.6 * up > 0.25) & ~seen & ~mirror_seen
    inside = (x * x + y * y <= 1) & ~unknown_face
    _put(canvas, source, target, window, (place[0], place[1]), inside, torch.ones_like(x))


def _along(axis: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Dot product of axis [B, 3] with (x, y, z), [B, h, w] each."""
    return x * axis[:, 0, None, None] + y * axis[:, 1, None, None] + z * axis[:, 2, None, None]
