"""References that differ from their target where a person has one picture only: mirrored, moved, lit anew.

On batches, on any device; every number comes from `Draws`, so a row looks the same however a batch is split.
A reference that is the row's own picture would otherwise teach to copy pixels in place.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bolid.pose import MIRROR
from bolid.training.draws import Draws

Augment = Literal["none", "own", "all"]
TURN = math.radians(10)  # most that a reference is rotated
SHRINK, GROW = 0.75, 1.1  # sizes it is brought to
SHIFT = 0.08  # most that it is moved, in shares of the side
LIGHT = 0.1  # brightness and contrast change by up to that share; colours are identity, so it is small
SATURATION = 0.15  # the same of the saturation


def augment(raw: dict[str, Tensor], draws: Draws, mode: Augment = "own") -> dict[str, Tensor]:
    """The rows with changed references.

    raw: image, reference [B, 3, H, W] in [-1, 1], masks and reference_masks uint8 [B, H, W], keypoints and
    reference_keypoints [B, 18, 3], own_reference bool [B] (the reference is the row's own picture). mode:
    "own" changes those references; "all" moves and lights every reference, and mirrors half of the rows,
    picture and reference together; "none" leaves all as it is.
    """
    own = raw["own_reference"]
    if mode == "none" or (mode == "own" and not bool(own.any())):
        return raw
    changed = dict(raw)
    every = torch.ones_like(own) if mode == "all" else own
    if mode == "all":
        both = draws.uniform("augment/mirror both") < 0.5
        for prefix, name in (("", "image"), ("reference_", "reference")):
            _mirror(changed, prefix, name, both)
        if "image_prompt" in changed:
            turned = changed["image_prompt"].flip(-1)
            changed["image_prompt"] = torch.where(both.view(-1, 1, 1, 1), turned, changed["image_prompt"])
    _mirror(changed, "reference_", "reference", own & (draws.uniform("augment/mirror") < 0.5))
    _move(changed, every, draws)
    picture = _lit(changed["reference"], every, draws)
    ground = _background(picture, draws)
    hidden = (own[:, None, None] & (changed["reference_masks"] == 0))[:, None]
    changed["reference"] = torch.where(hidden, ground, picture)
    return changed


def _mirror(raw: dict[str, Tensor], prefix: str, name: str, rows: Tensor) -> None:
    """Mirror one picture of `rows` (bool [B]), labels and key-points with it."""
    raw[name] = torch.where(rows.view(-1, 1, 1, 1), raw[name].flip(-1), raw[name])
    labels, points = raw[f"{prefix}masks"], raw[f"{prefix}keypoints"]
    raw[f"{prefix}masks"] = torch.where(rows.view(-1, 1, 1), labels.flip(-1), labels)
    turned = points[:, list(MIRROR)]
    placed = (turned[..., :2] != 0).any(-1)
    x = torch.where(placed, 1 - turned[..., 0], turned[..., 0])
    turned = torch.cat((x[..., None], turned[..., 1:]), -1)
    raw[f"{prefix}keypoints"] = torch.where(rows.view(-1, 1, 1), turned, points)


def _move(raw: dict[str, Tensor], rows: Tensor, draws: Draws) -> None:
    """Turn, scale and shift the references of `rows` about their centres; what comes in is the border."""
    height, width = raw["reference"].shape[-2:]
    drawn = draws.uniform("augment/move", 4) * rows[:, None]
    angle = torch.where(rows, (2 * drawn[:, 0] - 1) * TURN, 0.0)
    scale = torch.where(rows, SHRINK + (GROW - SHRINK) * drawn[:, 1], 1.0)
    side = drawn.new_tensor((width, height))
    shift = torch.where(rows[:, None], (2 * drawn[:, 2:] - 1) * SHIFT, 0.0) * side  # [B, 2] px
    cosine, sine = torch.cos(angle), torch.sin(angle)
    turn = torch.stack((torch.stack((cosine, -sine), -1), torch.stack((sine, cosine), -1)), -2)  # [B, 2, 2]
    x, y = torch.arange(width, device=side.device) + 0.5, torch.arange(height, device=side.device) + 0.5
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)  # [H·W, 2] px
    centre = side / 2
    back = (places[None] - centre - shift[:, None]) @ turn / scale[:, None, None] + centre  # row vectors: Rᵀ
    grid = (back / side * 2 - 1).view(-1, height, width, 2)
    sampled = F.grid_sample(raw["reference"], grid, padding_mode="border", align_corners=False)
    raw["reference"] = torch.where(rows.view(-1, 1, 1, 1), sampled, raw["reference"])
    labels = raw["reference_masks"][:, None].float()
    labels = F.grid_sample(labels, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    labels = labels[:, 0].round().to(raw["reference_masks"].dtype)
    raw["reference_masks"] = torch.where(rows.view(-1, 1, 1), labels, raw["reference_masks"])
    points = raw["reference_keypoints"]
    ahead = (points[..., :2] * side - centre) @ turn.transpose(1, 2) * scale[:, None, None]
    moved = (ahead + centre + shift[:, None]) / side
    placed = (points[..., :2] != 0).any(-1, keepdim=True) & rows.view(-1, 1, 1)
    raw["reference_keypoints"] = torch.cat((torch.where(placed, moved, points[..., :2]), points[..., 2:]), -1)


def _lit(picture: Tensor, rows: Tensor, draws: Draws) -> Tensor:
    """Other brightness, contrast and saturation in `rows`; [B, 3, H, W] in [-1, 1]."""
    drawn = (2 * draws.uniform("augment/light", 3) - 1)[..., None, None, None]  # [B, 3, 1, 1, 1]
    grey = picture.mean(1, keepdim=True)
    changed = grey + (picture - grey) * (1 + SATURATION * drawn[:, 0])
    mean = changed.mean((1, 2, 3), keepdim=True)
    changed = mean + (changed - mean) * (1 + LIGHT * drawn[:, 1]) + LIGHT * drawn[:, 2]
    return torch.where(rows.view(-1, 1, 1, 1), changed.clamp(-1, 1), picture)


def _background(picture: Tensor, draws: Draws) -> Tensor:
    """A colour above that runs into another below, [B, 3, H, W]."""
    colours = 2 * draws.uniform("augment/background", 2, 3) - 1  # [B, 2, 3]
    down = torch.linspace(0, 1, picture.shape[-2], device=picture.device)[:, None]  # [H, 1]
    above, below = colours[:, 0, :, None, None], colours[:, 1, :, None, None]
    return (above + (below - above) * down).expand_as(picture)
