"""The layers of an appearance map: for limbs, torso, skirt, bag and head, where a target pixel comes from.

A layer works on a window around its shape. For each pixel it tells the canvas whether it is covered, how far
in front it stands, and where in the reference its colour lies (px), or which mean colour of a limb fills it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bolid.appearance_body import (
    HAND_L,
    HAND_R,
    LIMBS,
    LOOSE,
    MID_HIP,
    TORSO,
    Body,
    Limb,
)
from bolid.appearance_source import (
    BINS,
    AlongBone,
    Reference,
    Window,
    limb_windows,
    torso_coordinates,
    torso_window,
    windows,
)

WIDE = (
    1.6  # a limb takes reference pixels up to this many radii from its bone: sleeves, wide trousers, skirts
)
CORE = 0.85  # and is filled by its mean colours up to this many where the reference shows nothing of it


@dataclass(frozen=True)
class Canvas:
    """What lies on top so far, per pixel [B, H*W]: its priority, source place x, y, and code: part label + 8
    * (0 if sampled at x, y, else 1 + the mean colour's index). drawn: bool [B, 5] by part label.
    """

    height: int
    width: int
    drawn: Tensor
    priority: Tensor
    x: Tensor
    y: Tensor
    code: Tensor

    @classmethod
    def blank(cls, batch: int, height: int, width: int, drawn: Tensor) -> Canvas:
        device, size = drawn.device, (batch, height * width)
        x, y = torch.zeros(size, device=device), torch.zeros(size, device=device)
        code = torch.zeros(size, dtype=torch.long, device=device)
        empty = torch.full(size, -1e9, device=device)
        return cls(height, width, F.pad(drawn, (1, 0), value=False), empty, x, y, code)

    def put(
        self,
        window: Window,
        covered: Tensor,
        priority: Tensor,
        x: Tensor,
        y: Tensor,
        part: Tensor,
        fill: Tensor | None = None,
    ) -> None:
        """Lay pixels down where covered and on top. All [B, h, w] (priority may be [B, 1, 1]); fill: index of
        a mean colour, or -1 where sampled.
        """
        index = window.index
        before = self.priority.gather(1, index)
        mine = priority.expand_as(covered).flatten(1)
        on_top = covered.flatten(1) & (mine > before) & self.drawn.gather(1, part.flatten(1))
        code = part if fill is None else part + 8 * (fill + 1)
        for kept, new in ((self.priority, priority), (self.x, x), (self.y, y), (self.code, code)):
            kept.scatter_(
                1, index, torch.where(on_top, new.expand_as(covered).flatten(1), kept.gather(1, index))
            )

    def look_up(self, flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """flat [B, H*W] at the pixels that hold x, y [B, h, w]; 0 outside the picture. Returns int64."""
        inside = (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)
        index = y.clamp(0, self.height - 1).long() * self.width + x.clamp(0, self.width - 1).long()
        return flat.gather(1, index.flatten(1)).view(index.shape).long() * inside

    def finish(self, source: Reference) -> tuple[Tensor, Tensor]:
        """Sample the reference once. Returns rgb [B, 3, H, W] and part uint8 [B, H, W]."""
        size = (len(self.x), self.height, self.width)
        where = self.code.flatten().nonzero().squeeze(1)
        code, person = self.code.flatten()[where], where // (self.height * self.width)
        colour = self._sample(self._drawn_texture(source), where, person)
        shade = source.shade.flatten(0, 1)[person * source.shade.shape[1] + (code // 8 - 1).clamp_min(0)]
        rgb = torch.zeros(self.code.numel(), 3, device=colour.device)
        rgb[where] = torch.where((code >= 8)[:, None], shade, colour).clamp(-1, 1)
        part = (self.code % 8).view(size)
        part = part * _not_specks(part)
        return rgb.view(*size, 3).permute(0, 3, 1, 2) * (part > 0).unsqueeze(1), part.to(torch.uint8)

    def _drawn_texture(self, source: Reference) -> Tensor:
        """The reference's texture without the parts that are not drawn: at an edge their colours would be
        mixed into the part beside them."""
        drawn = self.drawn.gather(1, (source.tag % 8).long())
        return source.texture * drawn.view(-1, 1)

    def _sample(self, texture: Tensor, where: Tensor, person: Tensor) -> Tensor:
        """Bilinear colours [N, 3] for N of the batch's pixels. Only the person's pixels count: no halo."""
        x, y = self.x.flatten()[where] - 0.5, self.y.flatten()[where] - 0.5
        left, top = x.floor(), y.floor()
        total = torch.zeros(len(where), 4, device=texture.device)
        for column, share_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            for row, share_y in ((top, 1 - (y - top)), (top + 1, y - top)):
                column, row = column.clamp(0, self.width - 1), row.clamp(0, self.height - 1)
                index = person * (self.height * self.width) + (row * self.width + column).long()
                total += texture[index] * (share_x * share_y)[:, None]
        return total[:, :3] / total[:, 3:].clamp_min(1e-3)


def _not_specks(part: Tensor) -> Tensor:
    """bool [B, H, W]: at least four of the nine pixels around are covered."""
    covered = (part > 0).to(torch.float32).unsqueeze(1)
    return F.avg_pool2d(covered, 3, stride=1, padding=1).squeeze(1) > 3.5 / 9


def _flat(*values: Tensor) -> tuple[Tensor, ...]:
    return tuple(value[:, None, None] for value in values)


def _turned(source: Body, target: Body) -> Tensor:
    """[B]: -1 where one is seen from the front and the other from behind, so that inner sides stay inner,
    else 1.
    """
    return torch.where((source.cosine * target.cosine) < -0.05, -1.0, 1.0)


def depths(target: Body) -> Tensor:
    """[B, 1 + limbs] priorities; column = limb id, the torso lies at 0.

    A seen arm lies before the torso, one with a hidden joint behind it. Legs lie before the torso's hem seen
    from the front, the more so where the thigh is foreshortened (sitting), and behind it seen from behind. Of
    two equal limbs the nearer is in front: the right one when the person faces the picture's right.
    """
    front = torch.where(target.cosine > -0.2, 1.0, -1.0)
    rows = [torch.zeros_like(target.unit)]
    for limb in LIMBS:
        near = target.sine * (0.06 if limb.name.endswith("R") else -0.06)
        least = torch.minimum(target.confidence[:, limb.start], target.confidence[:, limb.end])
        hidden = (least < 0.75).to(near.dtype)
        if limb.labels == (2,):
            rows.append(2.0 - 3.0 * hidden + near + 0.01 * ("fore" in limb.name))
        else:
            length = (target.points[:, limb.end] - target.points[:, limb.start]).norm(dim=-1)
            sitting = ("thigh" in limb.name) * 0.3 * (length < 0.32 * target.unit)
            order = {"thigh": 0.0, "shin": -0.02, "foot": 0.04}[limb.name.split()[0]]
            rows.append(front * (0.2 + sitting) + near + order - 0.3 * hidden)
    return torch.stack(rows, -1)


def limb_layers(canvas: Canvas, source: Reference, target: Body) -> None:
    """Arms, legs and feet: each by the two-point transform of its bone."""
    depth = depths(target)
    for number, window in enumerate(limb_windows(target, canvas.height, canvas.width, WIDE), start=1):
        _limb_layer(canvas, source, target, number, window, depth[:, number, None, None])


def _limb_layer(
    canvas: Canvas, source: Reference, target: Body, number: int, window: Window, depth: Tensor
) -> None:
    limb = LIMBS[number - 1]
    bone = AlongBone.of(window, target, limb)
    # the mirror limb stands in where the reference shows clearly more of it
    mirrored = source.area[:, limb.mirror] > 1.5 * source.area[:, number] + 0.1
    (taken,) = _flat(torch.where(mirrored, limb.mirror, number))
    x, y = _on_source_bone(source.body, target, limb, mirrored, bone)
    tag = canvas.look_up(source.tag, x, y)
    shown = (tag // 8 == taken) & (bone.distance < WIDE)
    fill = taken * BINS + (bone.share * (BINS - 1e-3)).long()
    fill_part = source.shade_part.gather(1, fill.flatten(1)).view(fill.shape)
    covered = shown | ((bone.distance < CORE) & (fill_part > 0))
    (known,) = _flat((target.confidence[:, limb.start] > 0.05) & (target.confidence[:, limb.end] > 0.05))
    # a filled pixel stands a little behind a sampled one of the neighbouring limb
    priority = depth - 0.05 * ~shown
    part, fill = torch.where(shown, tag % 8, fill_part), torch.where(shown, -1, fill)
    canvas.put(window, covered & known, priority, x, y, part, fill)


def _on_source_bone(
    body: Body, target: Body, limb: Limb, mirrored: Tensor, bone: AlongBone
) -> tuple[Tensor, Tensor]:
    """x, y in the reference of the pixels about a target bone, on the same limb or, where mirrored [B], its
    mirror.
    """
    other = LIMBS[limb.mirror - 1]
    a = torch.where(mirrored[:, None], body.points[:, other.start], body.points[:, limb.start])
    b = torch.where(mirrored[:, None], body.points[:, other.end], body.points[:, limb.end])
    length = (b - a).norm(dim=-1)
    right, down = F.normalize(b - a, dim=-1, eps=1e-3).unbind(-1)
    side = _turned(body, target) * torch.where(mirrored, -1.0, 1.0)
    right, down, length, scale, side = _flat(right, down, length, body.unit / target.unit, side)
    along, aside = bone.share * length + bone.beyond * scale, bone.aside * (scale * side)
    return a[:, :1, None] + along * right - aside * down, a[:, 1:, None] + along * down + aside * right


def torso_layer(canvas: Canvas, source: Reference, target: Body) -> None:
    """The torso as a cylinder: shoulders to hips lengthwise, and turned by the difference of the two yaws."""
    body = source.body
    window = torso_window(target, canvas.height, canvas.width)
    share, aside, width, length = torso_coordinates(target, window)
    aside = aside / width
    turned = _around(aside, target, body)
    start, along, across, half = body.torso_frame()
    inside = share.clamp(0, 1)
    half_there = half[:, :1, None] + (half[:, 1:, None] - half[:, :1, None]) * inside
    length, scale = _flat(length, length * body.unit / target.unit / along.norm(dim=-1))
    there, turned = inside + (share - inside) * scale, turned * half_there
    x = start[:, :1, None] + there * along[:, :1, None] + turned * across[:, :1, None]
    y = start[:, 1:, None] + there * along[:, 1:, None] + turned * across[:, 1:, None]
    tag = canvas.look_up(source.tag, x, y)
    unit = target.unit[:, None, None]
    ends = (share * length > -0.13 * unit) & ((share - 1) * length < 0.1 * unit)
    same_view = (body.cosine * target.cosine > 0.3)[:, None, None]
    worn = (tag // 8 == LOOSE) & same_view & (aside.abs() < 1.8)  # a backpack shows beside the torso
    below = (tag % 8 == 3) & (share > 0.6)
    shown = ends & (((tag // 8 == TORSO) | below) & (aside.abs() < 1.06) | worn)
    fill = TORSO * BINS + (inside * (BINS - 1e-3)).long()
    fill_part = source.shade_part.gather(1, fill.flatten(1)).view(fill.shape)
    core = (aside.abs() < 0.92) & (share > -0.02) & (share < 1.08) & (fill_part > 0)
    (known,) = _flat((target.confidence[:, [1, 2, 5, 8, 11]] > 0.05).all(1))
    part, fill = torch.where(shown, tag % 8, fill_part), torch.where(shown, -1, fill)
    canvas.put(window, (shown | core) & known, -0.05 * ~shown, x, y, part, fill)


def _around(aside: Tensor, target: Body, body: Body) -> Tensor:
    """Where across the reference's torso (-1 ... 1) lies what the target shows at aside.

    aside = sin(angle + yaw) on a cylinder. What the reference cannot show is taken from the mirrored angle
    (bodies are symmetric), else from straight through the body: most patterns go around.
    """
    yaw, their_yaw = _flat(torch.atan2(target.sine, target.cosine), torch.atan2(body.sine, body.cosine))
    angle = torch.asin(aside.clamp(-1, 1)) - yaw
    seen = torch.cos(angle + their_yaw) > 0.1
    mirror_seen = torch.cos(their_yaw - angle) > 0.1
    through = torch.where(mirror_seen, torch.sin(their_yaw - angle), torch.sin(torch.pi - angle + their_yaw))
    place = torch.where(seen, torch.sin(angle + their_yaw), through)
    overhang = (aside.abs() - 1).clamp_min(0) * torch.sign(aside) * _flat(_turned(body, target))[0]
    return place + overhang


# Triangles between the legs, by points of the body: what a skirt spans
SPANS = ((MID_HIP, 9, 12), (9, 12, 10), (12, 10, 13))


def skirt_layers(canvas: Canvas, source: Reference, target: Body) -> None:
    """What spans both legs, if the reference shows that its lower garment does."""
    spans = _skirt_seen(canvas, source)
    corners = torch.stack([target.points[:, list(span)] for span in SPANS], 1)  # [B, 3, 3, 2]
    corners = torch.where(spans[:, :, None, None], corners, corners[:, :, :1])  # an unused box stays small
    priority = depths(target)[:, 1:5].amax(1)[:, None, None] + 0.02
    boxes = windows(corners.amin(2), corners.amax(2), canvas.height, canvas.width)
    for k, (span, window) in enumerate(zip(SPANS, boxes, strict=True)):
        weights = _barycentric(window, corners[:, k])
        theirs = source.body.points[:, list(span)]
        x = sum(weight * theirs[:, i, :1, None] for i, weight in enumerate(weights))
        y = sum(weight * theirs[:, i, 1:, None] for i, weight in enumerate(weights))
        label = canvas.look_up(source.tag, x, y) % 8  # pyright: ignore[reportArgumentType] - sums of tensors
        (known,) = _flat((target.confidence[:, list(span)] > 0.05).all(1) & spans[:, k])
        inside = torch.minimum(torch.minimum(weights[0], weights[1]), weights[2]) > -1e-3
        canvas.put(window, inside & (label == 3) & known, priority, x, y, label)  # pyright: ignore[reportArgumentType]


def _barycentric(window: Window, corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, [B, h, w] each, of the triangle corners [B, 3, 2]; a flat triangle gives weights outside [0,
    1].
    """
    a, b, c = corners.unbind(1)
    u, v = b - a, c - a
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    area = torch.where(area.abs() < 1e-3, torch.full_like(area, 1e-3), area)
    x, y = window.x - a[:, :1, None], window.y - a[:, 1:, None]
    ux, uy, vx, vy = _flat(u[:, 0] / area, u[:, 1] / area, v[:, 0] / area, v[:, 1] / area)
    second, third = x * vy - y * vx, y * ux - x * uy
    return 1 - second - third, second, third


def _skirt_seen(canvas: Canvas, source: Reference) -> Tensor:
    """bool [B, 3]: much of the span between the legs, away from the bones, has the lower part's label.

    Where the span is too thin to tell (legs together) the answer is no: a skirt is then moved with the thighs
    alone.
    """
    body = source.body
    steps = torch.linspace(0.05, 0.95, 8, device=body.unit.device)
    first, second = torch.meshgrid(steps, steps, indexing="ij")
    inner = first + second < 0.97
    weights = torch.stack([(1 - first - second)[inner], first[inner], second[inner]], -1)
    answers = []
    for k, span in enumerate(SPANS):
        spot = weights @ body.points[:, list(span)]  # [B, N, 2]
        label = canvas.look_up(source.tag, spot[..., :1], spot[..., 1:]).squeeze(-1) % 8
        free = torch.stack(
            [_off_bone(spot, body, *ends) for ends in ((8, 9), (9, 10), (11, 12), (12, 13))]
        ).all(0)
        count = free & (label != 2) & (label != 4)  # hands and shoes before it say nothing
        high = count & (weights[:, 0] > (0.4 if k == 0 else 0.0))  # a short skirt ends above the knees
        share = [(label == 3)[...] & where for where in (count, high)]
        share = [
            mine.sum(-1) / where.sum(-1).clamp_min(1)
            for mine, where in zip(share, (count, high), strict=True)
        ]
        answers.append((count.sum(-1) >= 4) & (torch.maximum(*share) > (0.5 if k == 0 else 0.35)))
    return torch.stack(answers, -1)


def _off_bone(spot: Tensor, body: Body, start: int, end: int) -> Tensor:
    """bool [B, N]: farther from a leg's bone than its flesh reaches."""
    a, bone = body.points[:, None, start], (body.points[:, end] - body.points[:, start])[:, None]
    share = (((spot - a) * bone).sum(-1) / (bone * bone).sum(-1).clamp_min(1e-3)).clamp(0, 1)
    radius = (0.105 - 0.04 * share) if start in (8, 11) else 0.07
    return (spot - a - share.unsqueeze(-1) * bone).norm(dim=-1) > radius * body.unit[:, None]


def bag_layers(canvas: Canvas, source: Reference, target: Body) -> None:
    """What hangs from a hand: upper-part pixels far from every bone, below the hand; they keep hanging."""
    size = target.unit[:, None] * target.unit.new_tensor([0.16, 0.3])
    lift = target.unit[:, None] * target.unit.new_tensor([0.16, 0.08])
    hands = target.points[:, [HAND_R, HAND_L]]
    boxes = windows(hands - lift[:, None], hands + size[:, None], canvas.height, canvas.width)
    for hand, window in zip((HAND_R, HAND_L), boxes, strict=True):
        mine, theirs, (scale,) = (
            target.points[:, hand],
            source.body.points[:, hand],
            _flat(source.body.unit / target.unit),
        )
        across, down = window.x - mine[:, :1, None], window.y - mine[:, 1:, None]
        x, y = theirs[:, :1, None] + across * scale, theirs[:, 1:, None] + down * scale
        tag = canvas.look_up(source.tag, x, y)
        near = (across.abs() < size[:, :1, None]) & (down < size[:, 1:, None]) & (down > -lift[:, 1:, None])
        (held,) = _flat((target.confidence[:, hand] > 0.05) & (source.body.confidence[:, hand] > 0.05))
        priority = torch.full_like(scale, 2.1)
        canvas.put(window, near & (tag // 8 == LOOSE) & held, priority, x, y, tag % 8)
