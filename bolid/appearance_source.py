"""Which pixels of a reference belong to which limb, and the mean colours along every limb.

The work is done in windows: one box of pixels per limb, of one size for the whole batch, so that a picture
costs little more than its person's area. The windows also serve the layers of the target
(`appearance_layers`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bolid.appearance_body import HEAD_ID, IDS, LIMBS, LOOSE, TORSO, Body, Limb, body_of

BINS = 12  # places along a limb that keep a mean colour
REACH = 1.7  # a pixel farther than that many radii from every bone belongs to none


@dataclass(frozen=True)
class Window:
    """A box of pixels per picture: x [B, 1, w], y [B, h, 1] of their centres, index [B, h*w] in the flat
    picture.
    """

    x: Tensor
    y: Tensor
    index: Tensor

    def values(self, flat: Tensor) -> Tensor:
        """flat [B, H*W] in this window, [B, h, w]."""
        return flat.gather(1, self.index).view(len(flat), self.y.shape[1], self.x.shape[2])

    def about(self, origin: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates along the unit vector ahead [B, 2] and to its side (x right, y down: ahead turned
        clockwise), from origin [B, 2]; both [B, h, w].
        """
        x, y = self.x - origin[:, :1, None], self.y - origin[:, 1:, None]
        right, down = ahead[:, :1, None], ahead[:, 1:, None]
        return x * right + y * down, y * right - x * down


def windows(low: Tensor, high: Tensor, height: int, width: int) -> list[Window]:
    """Windows that hold the boxes low ... high, both [B, K, 2] px: one per k, as large as its largest box."""
    frame = low.new_tensor([width, height])
    low = torch.minimum(low.clamp_min(0).floor(), frame - 1)
    high = torch.minimum(high.clamp_min(0).ceil(), frame)
    sizes = (high - low).clamp_min(1).amax(0).long().tolist()  # the only wait for the device
    return [_window(low[:, k].long(), w, h, height, width) for k, (w, h) in enumerate(sizes)]


def _window(low: Tensor, w: int, h: int, height: int, width: int) -> Window:
    columns = low[:, 0].clamp(0, width - w)[:, None, None] + torch.arange(w, device=low.device)
    rows = low[:, 1].clamp(0, height - h)[:, None, None] + torch.arange(h, device=low.device)[:, None]
    return Window(columns + 0.5, rows + 0.5, (rows * width + columns).flatten(1))


def limb_windows(body: Body, height: int, width: int, reach: float) -> list[Window]:
    """A window around each of LIMBS, `reach` radii wide."""
    start = body.points[:, [limb.start for limb in LIMBS]]
    end = body.points[:, [limb.end for limb in LIMBS]]
    margin = (
        start.new_tensor([max(limb.radius) * reach for limb in LIMBS])[:, None] * body.unit[:, None, None]
    )
    return windows(torch.minimum(start, end) - margin, torch.maximum(start, end) + margin, height, width)


def torso_window(body: Body, height: int, width: int) -> Window:
    """A window around the torso with a margin for what overhangs it."""
    points, margin = body.points[:, [1, 2, 5, 8, 11]], 0.22 * body.unit[:, None, None]
    return windows(points.amin(1, True) - margin, points.amax(1, True) + margin, height, width)[0]


@dataclass(frozen=True)
class AlongBone:
    """A window's pixels about a bone: share [B, h, w] of its length (0 ... 1), aside and beyond its ends px,
    distance in radii.
    """

    share: Tensor
    aside: Tensor
    beyond: Tensor
    distance: Tensor

    @classmethod
    def of(cls, window: Window, body: Body, limb: Limb) -> AlongBone:
        start, end, unit = body.points[:, limb.start], body.points[:, limb.end], body.unit[:, None, None]
        length = (end - start).norm(dim=-1).clamp_min(1e-3)[:, None, None]
        along, aside = window.about(start, F.normalize(end - start, dim=-1, eps=1e-3))
        inside = torch.minimum(along.clamp_min(0), length)
        share, beyond = inside / length, along - inside
        radius = (limb.radius[0] + (limb.radius[1] - limb.radius[0]) * share) * unit
        return cls(share, aside, beyond, torch.sqrt(beyond * beyond + aside * aside) / radius)


@dataclass(frozen=True)
class Reference:
    """A reference picture taken apart.

    texture: [B * H*W, 4], RGB times inside, inside (1 on the person); tag: uint8 [B, H*W], label + 8 * limb
    id; area: [B, IDS] pixels of each limb over what its shape would hold; shade: [B, IDS * BINS, 3] mean
    colour along each limb; shade_part: [B, IDS * BINS] the part label there (0: no colour is known).
    """

    body: Body
    texture: Tensor
    tag: Tensor
    area: Tensor
    shade: Tensor
    shade_part: Tensor

    @classmethod
    def of(cls, picture: Tensor, parts: Tensor, keypoints: Tensor) -> Reference:
        height, width = picture.shape[2:]
        body, label = body_of(keypoints, height, width), parts.flatten(1)
        limb, place = _assign(body, label, height, width)
        inside = (label > 0).unsqueeze(-1).to(picture.dtype)
        texture = F.pad(picture.flatten(2).transpose(1, 2), (0, 1), value=1.0).mul_(inside).flatten(0, 1)
        cell = ((limb * BINS + place) * 5 + label).long()
        area, shade, shade_part = _shades(body, cell, label, texture)
        return cls(body, texture, (label + 8 * limb).to(torch.uint8), area, shade, shade_part)


def _assign(body: Body, label: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Limb id and place along it (0 ... BINS - 1) of every pixel, both int32 [B, H*W].

    A pixel belongs to the nearest bone, in units of its radius, among those of its part; bones that the
    picture hides stand back, and an upper-part pixel far from every bone is LOOSE.
    """
    nearest = torch.full(label.shape, 1e6, device=label.device)
    code = torch.zeros(label.shape, dtype=torch.int32, device=label.device)

    def claim(window: Window, number: int, distance: Tensor, share: Tensor) -> None:
        before = nearest.gather(1, window.index)
        closer = distance.flatten(1) < before
        mine = (share.clamp(0, 1) * (BINS - 1e-3)).to(torch.int32).flatten(1) + number * BINS
        nearest.scatter_(1, window.index, torch.where(closer, distance.flatten(1), before))
        code.scatter_(1, window.index, torch.where(closer, mine, code.gather(1, window.index)))

    penalty = _penalty(body)
    for number, (limb, window) in enumerate(
        zip(LIMBS, limb_windows(body, height, width, REACH), strict=True), start=1
    ):
        bone, mine = AlongBone.of(window, body, limb), window.values(label)
        allowed = (sum(mine == value for value in limb.labels) > 0) & (bone.distance < REACH)
        distance = torch.where(allowed, bone.distance * penalty[:, number - 1, None, None], 1e6)
        claim(window, number, distance, bone.share)
    window = torso_window(body, height, width)
    distance, share = torso_distance(body, window)
    mine = window.values(label)
    allowed = ((mine == 2) & (share < 1.15)) | ((mine == 3) & (share > 0.55))
    allowed = allowed & (distance < 1.3)
    claim(window, TORSO, torch.where(allowed, distance, 1e6), share)
    code = torch.where((nearest > REACH) & (label == 2), LOOSE * BINS, code)
    code = torch.where(label == 1, HEAD_ID * BINS, code)
    return code // BINS, code % BINS


def _penalty(body: Body) -> Tensor:
    """[B, limbs]: 1 for a limb whose ends are seen, more for one that lies behind the body, 1e6 for an
    unknown one.
    """
    least = torch.minimum(
        body.confidence[:, [limb.start for limb in LIMBS]], body.confidence[:, [limb.end for limb in LIMBS]]
    )
    return torch.where(least <= 0.05, 1e6, torch.where(least < 0.75, 1.6, 1.0))


def torso_distance(body: Body, window: Window) -> tuple[Tensor, Tensor]:
    """Distance from the torso's middle line in half widths, at least 0.75 so that a bone in front of it wins
    near its own middle; and the place along it (0 shoulders, 1 hips; not clamped).
    """
    share, aside, width, length = torso_coordinates(body, window)
    beyond = (share - share.clamp(0, 1)).abs() * (length / (0.12 * body.unit))[:, None, None]
    return torch.maximum(aside.abs() / width, beyond).clamp_min(0.75), share


def torso_coordinates(body: Body, window: Window) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Place along the torso [B, h, w], px aside of its middle line (towards `across`), half width there,
    length [B].
    """
    start, along, _, half = body.torso_frame()
    length = along.norm(dim=-1)
    ahead, aside = window.about(start, along / length[:, None])
    share = ahead / length[:, None, None]
    width = half[:, :1, None] + (half[:, 1:, None] - half[:, :1, None]) * share.clamp(0, 1)
    return share, -aside, width, length


def _shades(body: Body, cell: Tensor, label: Tensor, texture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean colours along the limbs, see Reference. Empty places take the nearest known one of the same limb,
    else of the mirror limb. What is not of the limb's own part (a boot's shaft on a shin, a waistband on the
    torso) goes no farther than to the next place. cell [B, H*W]: (limb, bin, label) as one number; texture
    as in Reference.
    """
    batch = len(cell)
    where = label.flatten().nonzero().squeeze(1)
    sums = texture.new_zeros(batch * IDS * BINS * 5, 4)
    rows = where // cell.shape[1] * (IDS * BINS * 5) + cell.flatten()[where]
    sums.index_add_(0, rows, texture[where])
    sums = sums.view(batch, IDS, BINS, 5, 4)
    area = sums[..., 3].sum((2, 3)) / _expected_area(body)
    mirror = [0, *(limb.mirror for limb in LIMBS), TORSO, HEAD_ID, LOOSE]
    sums = sums + 0.01 * sums[:, mirror]
    bins = torch.arange(BINS, device=cell.device)
    apart = (bins[:, None] - bins).abs()
    near = 0.02 ** apart.to(sums.dtype)  # a bin two steps away counts 1/2500
    reach = torch.where(_own_labels(cell.device)[..., None, None], near, near * (apart < 2))
    sums = torch.einsum("ilpq,biqlc->biplc", reach, sums).reshape(batch, IDS * BINS, 5, 4)
    count, part = sums[..., 3].max(-1)
    best = sums.gather(2, part[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
    shade = best[..., :3] / best[..., 3:].clamp_min(1e-30)
    return area, shade, torch.where(count > 1e-30, part, 0)


def _own_labels(device: torch.device) -> Tensor:
    """bool [IDS, 5]: whether that label is the limb's own part, not what reaches over it from another."""
    own = [0, *(limb.labels[0] for limb in LIMBS), 2, 1, 2]  # torso, head, loose
    return torch.tensor(own, device=device)[:, None] == torch.arange(5, device=device)


def _expected_area(body: Body) -> Tensor:
    """[B, IDS] pixels that each limb's shape covers (1 for those that are no limbs)."""
    bone = body.points[:, [limb.end for limb in LIMBS]] - body.points[:, [limb.start for limb in LIMBS]]
    radius = bone.new_tensor([sum(limb.radius) for limb in LIMBS]) * body.unit[:, None]
    length = bone.norm(dim=-1) + 0.05 * body.unit[:, None]
    return F.pad(length * radius, (1, IDS - 1 - len(LIMBS)), value=1.0)
